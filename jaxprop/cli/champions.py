"""`jaxprop champions`: lists the versions of a champion, and lets an earlier one serve again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli.arguments import JsonOption, RootOption
from jaxprop.cli.output import print_result, say
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME, UsageError, printable
from jaxprop.sinks.streams import tell


def champions(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="a champion, to see all its versions; default: list all names")
    ] = None,
    root: RootOption = None,
    rollback: Annotated[
        int | None, typer.Option("--rollback", metavar="VERSION", min=1, help="let a version serve that has before")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="of --rollback, for the history")] = "",
    json: JsonOption = False,
) -> int:
    """List champions and their versions, or roll back to an earlier version."""
    if rollback is not None:
        return _roll_back(root, name, rollback, reason, json=json)
    if reason:
        raise UsageError("--reason needs --rollback VERSION; add it")
    return _list(root, json=json) if name is None else _show(root, name, json=json)


def _roll_back(root: Path | None, name: str | None, version: int, reason: str, *, json: bool) -> int:
    from jaxprop.run.champions import rollback

    if name is None:
        raise UsageError(f"--rollback {version} needs the name of a champion: jaxprop champions NAME --rollback ...")
    found = rollback(root, name, version, reason)
    if json:
        print_result("champions", found.folder, {"name": name, "serving": version})
    else:
        say(f"version {version} of the champion {name} serves now: {found.folder}")
    return EXIT_DONE


def _list(root: Path | None, *, json: bool) -> int:
    from jaxprop.run.served import default_root
    from jaxprop.tools.champions import list_champions

    found = list_champions(root)
    place = default_root() if root is None else root
    if json:
        print_result("champions", None, {"root": str(place.absolute()), "champions": found}, indent=2)
    elif found:
        headers = ["champion", "serves", "have served", "kept aside", "since", "by", "reason"]
        rows = [
            [
                line.name, "none" if line.serving is None else f"version {line.serving}", str(line.promoted),
                str(line.kept_aside), line.since[:16].replace("T", " "), line.act, line.reason.partition(" (")[0],
            ]
            for line in found
        ]  # fmt: skip
        show(headers, rows, right=[2, 3])
    else:
        say(f"no champions in {place}; 'jaxprop retrain RUN --data NEW' makes one of a run")
    return _told([line.problem for line in found])


def _show(root: Path | None, name: str, *, json: bool) -> int:
    from jaxprop.run.served import home_of
    from jaxprop.tools import champions as tools

    told, history, problem = tools.tell(root, name)
    if json:
        serving = next((one for one in told if one.serving), None)
        listed = [{**one._asdict(), "folder": str(one.folder.absolute())} for one in told]
        values = {
            "name": name, "folder": str(home_of(root, name).absolute()), "serving": serving and serving.version,
            "problem": problem, "versions": listed, "history": history,
        }  # fmt: skip
        print_result("champions", serving and serving.folder, values, indent=2)
    else:
        print(printable(tools.text_of(name, told, history), lines=True))
    return _told([problem])


def _told(problems: list[str]) -> int:
    """Says on stderr what is wrong; returns the exit code."""
    for problem in filter(None, problems):
        tell(f"error: {problem}")
    return EXIT_RUNTIME if any(problems) else EXIT_DONE

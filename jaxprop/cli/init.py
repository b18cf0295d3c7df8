"""`jaxprop init`: writes a new config, copied from a packaged one or made for the data at a path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import JsonOption
from jaxprop.cli.output import print_result, say
from jaxprop.errors import EXIT_DONE, UsageError, one_of


def init(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|DATA",
            help="name of a packaged config, or a file or folder of data",
            autocompletion=completion.packaged_names,
        ),
    ] = None,
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="the new file; default: NAME.yaml")] = None,
    task: Annotated[str | None, typer.Option("--task", help="copy the first packaged config of this task")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite PATH")] = False,
    json: JsonOption = False,
) -> int:
    """Copy a packaged config to a new file, or write one for your own data."""
    from jaxprop.config.locate import packaged

    if task is not None:
        if path is not None:
            raise UsageError("give NAME or --task, not both")
        # With --task, the only remaining word is the path.
        name, path = _of_task(task), None if name is None else Path(name)
    if name is None:
        raise UsageError(f"name a packaged config: jaxprop init {'|'.join(packaged())}, or a file or folder of data")
    if name in packaged():
        target = _target(name, path)
        text = _text(packaged()[name], target.parent)
    else:
        target = _target(_name_of(name), path)
        text = _made_for(name, target)
    _write(target, text, force)
    if json:
        print_result("init", None, {"config": name, "path": str(target.absolute())}, indent=2)
    else:
        say(f"wrote {target}; next: jaxprop train {target}")
    return EXIT_DONE


def _name_of(data: str) -> str:
    """The name of the config for a file or folder of data."""
    if not Path(data).expanduser().exists():
        from jaxprop.config.locate import packaged

        if "/" in data or "." in data:
            raise UsageError(f"{data}: no such file or folder")
        raise UsageError(one_of(data, packaged(), "packaged config"))
    return Path(data).expanduser().resolve().name.split(".")[0] or "mine"


def _made_for(data: str, target: Path) -> str:
    from jaxprop.config.locate import schema_comment
    from jaxprop.tools.init import starter

    return f"{schema_comment(target.parent)}\n{starter(data, target.stem)}"


def _of_task(task: str) -> str:
    from jaxprop.config.locate import packaged, read
    from jaxprop.config.yaml_loader import parse

    tasks: dict[str, str] = {}
    for name, path in packaged().items():
        section = parse(read(path), str(path)).value.get("task") or {}
        tasks.setdefault(section.get("name", ""), name)
    tasks.pop("", None)
    if task not in tasks:
        raise UsageError(one_of(task, tasks, "task of a packaged config"))
    return tasks[task]


def _target(name: str, path: Path | None) -> Path:
    if path is None:
        return Path(f"{name}.yaml")
    return path / f"{name}.yaml" if path.is_dir() else path


def _text(source: Path, folder: Path) -> str:
    """Returns the config's text, with the comment for editors naming the schema relative to the new folder."""
    from jaxprop.config.locate import read, schema_comment

    lines = [line for line in read(source).splitlines() if "yaml-language-server" not in line]
    return "\n".join([schema_comment(folder), *lines]) + "\n"


def _write(target: Path, text: str, force: bool) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{target} exists; give another path, or --force to overwrite it") from None
    except OSError as error:
        raise UsageError(f"{target}: cannot be written: {error.strerror}") from None

"""`jaxprop retrain`: challenges a champion with a model that has learned new data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import CodeOption, JsonOption, OverridesArgument, QuietOption, RootOption, split
from jaxprop.cli.output import print_result, say
from jaxprop.cli.tables import show
from jaxprop.sinks.streams import tell


def retrain(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="a run, which becomes a champion, or champion:NAME", autocompletion=completion.runs
        ),
    ],
    new: Annotated[
        str, typer.Option("--data", metavar="NEW", help="new data as the run's, or a YAML file with a section data")
    ],
    overrides: OverridesArgument = None,
    replay: Annotated[
        float, typer.Option("--replay", metavar="SHARE", help="share of old examples in training, below 1")
    ] = 0.3,
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="add classes that the champion does not know to its own")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance", metavar="T", help="how much worse on the old test set is allowed; default: 0.01 of a share"
        ),
    ] = None,
    root: RootOption = None,
    quiet: QuietOption = False,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Train on new data from a champion's weights, and promote the result if it is better."""
    run, changes = split(run, overrides)
    from jaxprop.run.interrupt import leaving_at_once

    with leaving_at_once():
        from jaxprop.tools import retrain as tool

    request = tool.Request(
        run=run, new=new, replay=replay, new_classes=new_classes, tolerance=tolerance, overrides=changes, root=root,
        code=tuple(code or ()),
    )  # fmt: skip
    done = tool.retrain(request, quiet=quiet, tell=(lambda _: None) if quiet else tell)
    if json:
        folder = None if done.version is None else done.version.folder
        print_result("retrain", folder, done.record, indent=2)
    elif done.version is not None:
        if not quiet:
            _show(done.record)
        say(f"{done.record['decision']}: {done.record['reason']}")
        say(f"version {done.version.number} of the champion {done.version.name}: {done.version.folder}")
    return done.exit_code


def _show(record: Mapping[str, Any]) -> None:
    figures: Mapping[str, Any] = record.get("figures") or {}
    rows = [
        [
            f"{name} test", str(one["examples"]), one["metric"], _number(one["champion"]), _number(one["challenger"]),
            _number(one["difference"], "+.4g"), _interval(one["interval"]), str(one["draws"]),
        ]
        for name, one in figures.items()
    ]  # fmt: skip
    headers = ["data", "examples", "figure", "champion", "challenger", "gain", "95 % interval", "resamples"]
    show(headers, rows, right=[1, 3, 4, 5, 6, 7])
    for name, which in (record.get("examples") or {}).items():
        for kind, examples in which.items():
            _examples(f"{name} test, {kind} most", examples)


def _examples(title: str, examples: Sequence[Mapping[str, Any]]) -> None:
    if examples:
        say(f"{title}:")
    for one in examples:
        say(f"  {one['name']}  loss {_number(one['champion_loss'])} -> {_number(one['challenger_loss'])}")


def _number(value: float | None, form: str = ".4g") -> str:
    return "none" if value is None else format(value, form)


def _interval(bounds: Sequence[float | None]) -> str:
    return " to ".join(_number(bound, "+.3g") for bound in bounds)

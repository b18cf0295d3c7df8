"""`jaxprop gradcheck`: checks the gradient of a config's loss, or of a function of your own."""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxprop.cli import completion
from jaxprop.cli.arguments import CodeOption, JsonOption, OverridesArgument, split_config
from jaxprop.cli.modules import named
from jaxprop.cli.output import print_result, run_of, say
from jaxprop.cli.tables import show
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME, UsageError

if TYPE_CHECKING:
    from jaxprop.tools.gradcheck import Entry, Leaf, Report, Rule

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
HEADS = ("reverse", "differences", "forward", "error", "allowed")
PACKAGES = re.compile(r"/[^\s()]*/site-packages/")
NEEDS = "give it a function without arguments that returns (loss_fn, params, batch, key)"


def gradcheck(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|MODULE:FUNCTION",
            help="a config, a run, or a loss function of your own",
            autocompletion=completion.configs,
        ),
    ],
    overrides: OverridesArgument = None,
    examples: Annotated[
        int, typer.Option("--examples", min=1, help="number of examples of a config's batch to use")
    ] = 4,
    entries: Annotated[int, typer.Option("--entries", min=1, help="number of entries to check in each parameter")] = 4,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Check gradients against finite differences and forward mode.

    The check computes in float64, entry by entry. It also compares each custom_vjp and custom_jvp with the derivative
    of its own function. FUNCTION takes no arguments and returns (loss_fn, params, batch, key). It may also be the
    loss_fn(params, batch, key) itself if its module has a function example() that returns (params, batch, key). The
    exit code is 1 if anything disagrees.
    """
    target, changes = split_config(target, overrides)
    from jaxprop.config.load import load

    started, run = time.perf_counter(), None
    if FUNCTION.fullmatch(target):
        report = _of_function(target, changes, entries)
    else:
        loaded = load(target, changes, code or ())
        # Imported late, so that a mistake in the file is reported before jax has loaded.
        from jaxprop.tools.gradcheck.configured import check_config

        run = run_of(loaded.path)
        report = check_config(loaded.config, examples=examples, entries=entries)
    seconds = time.perf_counter() - started
    if json:
        print_result("gradcheck", run, {**report._asdict(), "worst": report.worst, "seconds": seconds})
    else:
        _print(report, seconds)
    return EXIT_DONE if report.ok else EXIT_RUNTIME


def _of_function(target: str, overrides: Sequence[str], entries: int) -> Report:
    if overrides:
        raise UsageError(f"{target} is a function and has no key {overrides[0].partition('=')[0]!r} to override")
    module, function = named(target)
    loss_fn, params, batch, key = _arguments(target, module, function)
    from jaxprop.tools.gradcheck import gradcheck as check

    return check(loss_fn, params, batch, key, entries=entries)


def _arguments(target: str, module: Any, function: Any) -> tuple[Any, Any, Any, Any]:
    """Returns the loss function and the arguments to call it with."""
    if not callable(function):
        raise UsageError(f"expected {target} to be a function, got {type(function).__name__}; {NEEDS}")
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]:
        if not callable(getattr(module, "example", None)):
            raise UsageError(
                f"{target} takes arguments, and {module.__name__} has no example() that returns (params, batch, key); "
                f"write one, or {NEEDS}"
            )
        return (function, *_unpacked(module.example(), ("params", "batch", "key"), f"{module.__name__}:example"))
    loss_fn, *rest = _unpacked(function(), ("loss_fn", "params", "batch", "key"), target)
    return loss_fn, rest[0], rest[1], rest[2]


def _unpacked(returned: Any, names: tuple[str, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(returned, tuple) or len(returned) != len(names):
        found = f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
        raise UsageError(f"expected {where}() to return ({', '.join(names)}), got {found}")
    return returned


# -- the tables -----------------------------------------------------------------------------------


def _print(report: Report, seconds: float) -> None:
    show(["parameter", "checked", "worst entry", *HEADS, ""], map(_leaf, report.leaves), right=[1, 3, 4, 5, 6, 7])
    whole = [(str(i), *_numbers(entry), _verdict(entry)) for i, entry in enumerate(report.directions, 1)]
    show(["all parameters, random direction", *HEADS, ""], whole, right=[1, 2, 3, 4, 5])
    show(["rule", "kind", "where", "calls", "error", ""], map(_rule, report.rules), right=[3, 4])
    for problem in report.problems:
        say(f"wrong: {_near(problem)}")
    for note in report.notes:
        say(f"note: {_near(note)}")
    entries = sum(leaf.checked for leaf in report.leaves)
    verdict = "gradients agree" if report.ok else "gradients disagree"
    say(f"{verdict}: entries {entries:,}, parameters {len(report.leaves)}, rules {len(report.rules)}, {seconds:.1f} s")


def _leaf(leaf: Leaf) -> tuple[str, ...]:
    left = leaf.kinks + leaf.noise
    size = f"{leaf.checked} of {math.prod(leaf.shape):,}{f', {left} left out' if left else ''}"
    worst = leaf.worst
    where = "" if worst is None else "direction" if worst.place is None else str(list(worst.place))
    numbers = ("",) * 5 if worst is None else _numbers(worst)
    verdict = "wrong" if leaf.wrong else "agrees" if leaf.checked else "left out"
    return leaf.path, size, where, *numbers, verdict


def _numbers(entry: Entry) -> tuple[str, ...]:
    slopes = (f"{x:.5g}" for x in (entry.reverse, entry.difference, entry.forward))
    return (*slopes, f"{entry.error:.1g}", f"{entry.tolerance:.1g}")


def _verdict(entry: Entry) -> str:
    return f"left out: {entry.left_out}" if entry.left_out else "agrees" if entry.agrees else "wrong"


def _rule(rule: Rule) -> tuple[str, ...]:
    verdict = "not reached" if not rule.compared else "agrees" if rule.agrees else "differs"
    error = f"{rule.error:.2g}" if rule.compared else ""
    return rule.name, rule.kind, _near(rule.where), str(rule.calls), error, verdict


def _near(text: str) -> str:
    """Shortens the paths of files in the current folder and in installed packages."""
    return PACKAGES.sub("", text.replace(f"{Path.cwd()}/", ""))

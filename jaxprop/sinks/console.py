"""The console: a progress bar on a terminal, plain lines elsewhere, and the table of results."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from jaxprop.errors import printable
from jaxprop.sinks.sink import Record, Sink
from jaxprop.sinks.streams import Lasting

if TYPE_CHECKING:  # rich is imported where it is used, since the command line imports this package for every command
    from rich.console import Console
    from rich.table import Table

_REDRAW_SECONDS = 0.1
_LABELS = {"grad_norm": "grad", "examples_per_second": "examples/s"}
# Not shown on the console, where the learning rates of groups, `lr/...`, are not either.
_FOR_FILES = (
    "output_max", "noise_trace", "noise_signal", "curvature", "sharpness",
    "loss_min", "loss_max", "grad_norm_min", "grad_norm_max", "loss_max_step", "grad_norm_max_step",
)  # fmt: skip
_COSTS = (
    "parameters", "examples", "seconds", "session_seconds", "compile_seconds", "examples_per_second",
    "data_wait_share",
)  # fmt: skip


def open_warnings() -> Sink:
    """Opens a console that shows alerts to act on, and the responses to them, and nothing else; for `--quiet`.

    Returns:
      A sink.
    """
    stream = Lasting(sys.stderr)

    def alert(record: Record) -> None:
        if record.get("action") or record.get("severity") == "act":
            stream.write(printable(_alert(record)) + "\n")
            stream.flush()

    return Sink(alert=alert)


def open_console(total_steps: int, *, start_step: int = 0, log_every: int = 1, console: Console | None = None) -> Sink:
    """Opens the console: a progress bar if stderr is a terminal, otherwise one plain line for each record.

    The bar's clock starts at the first reported step, so that compiling does not count in the remaining time.

    Args:
      total_steps: number of steps taken at the end of the run.
      start_step: number of steps that a resumed run has already taken.
      log_every: steps between the train records that get a line; the first ten steps all have a record.
      console: a rich console; by default one on stderr, which may break at any time: the run goes on in silence.
        Colours follow `NO_COLOR`.

    Returns:
      A sink.

    Example:
      >>> from rich.console import Console
      >>> sink = open_console(100, console=Console(file=sys.stdout, force_terminal=False))
      >>> sink.write({"step": 50, "split": "train", "loss": 0.25, "lr": 1e-3, "examples_per_second": 5120.0})
      step 50/100  train  loss 0.25  lr 0.001  examples/s 5,120
    """
    from rich.console import Console

    if console is None:
        stream = Lasting(sys.stderr)
        # `force_terminal` is set because rich takes FORCE_COLOR for a terminal, and would draw a bar into a log file.
        console = Console(file=cast(TextIO, stream), force_terminal=stream.isatty())
    if console.is_terminal and not console.is_dumb_terminal:
        return _open_bar(console, total_steps, start_step)
    out = _printer(console)

    def write(record: Record) -> None:
        if record["split"] != "train" or record["step"] % log_every == 0 or record["step"] == total_steps:
            out(f"step {record['step']}/{total_steps}  {record['split']}  {_values(record)}")

    return Sink(write=write, alert=lambda alert: out(_alert(alert)), note=out)


def _open_bar(console: Console, total_steps: int, start_step: int) -> Sink:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("step {task.completed}/{task.total}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[values]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        redirect_stdout=False,
        refresh_per_second=4,
    )
    task = bar.add_task("train", start=False, total=total_steps, completed=start_step, values="compiling")
    last_drawn, out = -math.inf, _printer(console)

    def progress(step: int) -> None:
        nonlocal last_drawn
        now = time.monotonic()
        if now - last_drawn >= _REDRAW_SECONDS or step == total_steps:
            last_drawn = now
            bar.start_task(task)
            bar.update(task, completed=step)

    def write(record: Record) -> None:
        if record["split"] == "train":
            bar.update(task, values=_values(record))
            progress(max(record["step"], int(bar.tasks[task].completed)))
        else:
            out(f"step {record['step']}  {record['split']}  {_values(record)}")

    bar.start()
    return Sink(
        write=write,
        alert=lambda alert: out(_alert(alert)),
        rewind=lambda step: bar.update(task, completed=step),
        progress=progress,
        note=out,
        close=bar.stop,
    )


def summary_table(summary: Record) -> Table:
    """Returns the table of a run's results, with the loss first, and beside each metric its best and its reference.

    The best evaluation, where the summary has one, is a column headed by its step; so is the test of that checkpoint on
    a split that no evaluation used. A reference belongs to the metric
    that its name ends in, as `unigram_loss` belongs to `loss`; any other reference has a line of its own.

    Args:
      summary: the contents of `summary.json`; absent keys are left out.

    Returns:
      A rich table.

    Example:
      >>> table = summary_table({"status": "completed", "step": 100, "metrics": {"accuracy": 0.99}, "seconds": 12.3})
      >>> table.row_count
      4
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    metrics, reference = dict(summary.get("metrics") or {}), dict(summary.get("reference") or {})
    beyond = {f"{name}, at step": dict(summary[name]) for name in ("best", "test") if summary.get(name)}
    ordered = sorted(metrics, key=lambda name: name != "loss")  # stable: the others keep their order
    beside = {name: [r for r in reference if r == name or r.endswith(f"_{name}")] for name in ordered}
    alone = [r for r in reference if not any(r in names for names in beside.values())]
    rows = [(name, summary.get(name), "") for name in ("status", "step", "stopped", "checkpoint", "split")]
    rows += [(name, metrics[name], _figures(reference, beside[name])) for name in ordered]
    rows += [("reference", "", _figures(reference, [name])) for name in alone]
    rows += [(name, summary.get(name), "") for name in _COSTS]
    table = Table("result", box=box.HORIZONTALS)
    table.add_column(justify="right")
    for title, figures in beyond.items():
        table.add_column(printable(f"{title} {_number(figures.get('step', ''))}"), justify="right")
    if reference:
        table.add_column("reference")
    for name, value, compared in rows:
        if value is not None:
            cells = [name.replace("_", " "), _number(value)]
            cells += [_number(at[name]) if name in metrics and name in at else "" for at in beyond.values()]
            cells += [compared] * bool(reference)
            table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _figures(values: Record, names: list[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_number(values[name])}" for name in names)


def print_summary(summary: Record) -> None:
    """Prints the table of results on stdout.

    Args:
      summary: the contents of `summary.json`.

    Example:
      >>> print_summary({"status": "completed", "step": 100})  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
      ─...status completed step 100 ─...
    """
    from rich.console import Console

    Console(file=sys.stdout).print(summary_table(summary))


def summary_line(summary: Record, folder: str | Path) -> str:
    """Returns the results of a run in one line, for `--quiet`.

    Args:
      summary: the contents of `summary.json`, or what an evaluation returns.
      folder: the run's folder.

    Example:
      >>> summary_line({"status": "completed", "step": 690, "metrics": {"accuracy": 0.997, "loss": 0.31}}, "runs/a")
      'completed: step 690  loss 0.31  accuracy 0.997  runs/a'
    """
    metrics = dict(summary.get("metrics") or {})
    ordered = sorted(metrics, key=lambda name: name != "loss")
    shown = [f"step {_number(summary['step'])}"] if "step" in summary else []
    shown += [f"{name} {'not finite' if metrics[name] is None else _number(metrics[name])}" for name in ordered]
    if summary.get("seconds") is not None:
        shown.append(duration(summary["seconds"]))
    status = f"{summary['status']}: " if "status" in summary else ""
    return printable(f"{status}{'  '.join([*shown, str(folder)])}")


def duration(seconds: float) -> str:
    """Returns a time as text.

    Example:
      >>> duration(0.31), duration(42.1), duration(754), duration(7500)
      ('0.31 s', '42 s', '12 min 34 s', '2 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _printer(console: Console) -> Callable[[str], None]:
    """A function that prints one line as it is; what it quotes may come from a file."""
    from rich.text import Text

    return lambda line: console.print(Text(printable(line)), soft_wrap=True)


def _values(record: Record) -> str:
    shown = (name for name in record if name not in ("step", "split", *_FOR_FILES) and name[:3] != "lr/")
    return "  ".join(f"{_LABELS.get(name, name)} {_number(record[name])}" for name in shown)


def _alert(record: Record) -> str:
    what = record.get("action") or record.get("severity", "alert")
    return f"step {record['step']}  {what}: {record['message']}"


def _number(value: Any) -> str:
    if isinstance(value, str | bool | int):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

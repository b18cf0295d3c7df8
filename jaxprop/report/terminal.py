"""The report as text for a terminal: verdict, sparklines and conspicuous layers. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from jaxprop.report.fields import printable
from jaxprop.report.read import RunData, Series
from jaxprop.report.verdict import judge

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = "_.-:=+*#"  # for terminals without block characters
WIDTH = 60
METRICS = 3  # that have a sparkline, besides the loss
DECADES = 2.0  # range of values from which a sparkline is logarithmic


def summarize(run: RunData, name: str, plain: bool = False) -> str:
    """Returns a run's report as lines of text.

    Args:
      run: the run.
      name: its name.
      plain: whether to use only ASCII.

    Returns:
      The lines, without a newline at the end.
    """
    verdict = judge(run)
    lines = [f"{printable(name)}: {printable(verdict.headline, 400)}"]
    for label, said in verdict.facts:
        lines += textwrap.wrap(printable(said, 600), 108, initial_indent=f"  {label:<8} ", subsequent_indent=" " * 11)
    lines += _curves(run, plain)
    if verdict.worst:
        lines.append("  layers to look at first" if verdict.tone in ("watch", "bad") else "  layers that differ most")
        width = min(max(len(layer) for layer, _ in verdict.worst), 40)
        lines += [f"    {printable(layer, 40):<{width}}  {printable(reason)}" for layer, reason in verdict.worst]
    lines += [f"  note: {printable(note)}" for note in run.notes]
    text = "\n".join(lines)
    return text.encode("ascii", "replace").decode() if plain else text


def _curves(run: RunData, plain: bool) -> Iterator[str]:
    drawn = [
        ("loss", run.with_peaks("loss") if "loss" in run.train else None),
        ("eval", run.evaluation.get("loss")),
        *((printable(name, 20), run.evaluation.get(name)) for name in run.metrics[:METRICS]),
        ("grad", run.with_peaks("grad_norm") if "grad_norm" in run.train else None),
    ]
    for label, series in drawn:
        if series is not None:
            yield f"  {label:<8} {sparkline(series, plain=plain)}  {_range(series)}"


def _range(series: Series) -> str:
    finite = series.value[np.isfinite(series.value)]
    if not len(finite):
        return "never finite"
    low, high = finite.min(), finite.max()
    log = " (log)" if _is_log(finite) else ""
    return f"{low:.3g} to {high:.3g}{log}"


def _is_log(finite: np.ndarray) -> bool:
    return bool(finite.min() > 0 and np.log10(finite.max()) - np.log10(finite.min()) > DECADES)


def sparkline(series: Series, width: int = WIDTH, plain: bool = False) -> str:
    """Draws a curve with one character a bin: the largest value of each, `!` where one was not finite.

    Args:
      series: the curve; equally long stretches of steps share a character.
      width: characters.
      plain: ASCII alone.

    Returns:
      The characters, a space where a bin has no value.

    Example:
      >>> step = np.arange(8)
      >>> sparkline(Series(step, np.array([0, 1, 2, 3, np.nan, 5, 6, 7])), width=8)
      '▁▂▃▄!▆▇█'
    """
    blocks = PLAIN if plain else BLOCKS
    finite = np.isfinite(series.value)
    if not finite.any():
        return "!" * min(width, len(series.value))
    values = np.where(finite, series.value, 0.0)
    if _is_log(values[finite]):
        values = np.log10(values, where=finite, out=np.zeros_like(values))
    low, high = values[finite].min(), values[finite].max()
    width = min(width, len(values))
    first, last = int(series.step[0]), int(series.step[-1])
    bins = np.minimum((series.step - first) * width // max(last - first + 1, 1), width - 1)
    top = np.full(width, -np.inf)
    np.maximum.at(top, bins[finite], values[finite])
    broken = np.zeros(width, bool)
    broken[bins[~finite]] = True
    level = np.zeros(width) if high == low else (top - low) / (high - low)
    marks = [blocks[round(x * (len(blocks) - 1))] if np.isfinite(x) and x >= 0 else " " for x in level]
    return "".join("!" if bad else mark for mark, bad in zip(marks, broken, strict=True))


def summaries(runs: Sequence[RunData], names: Sequence[str], plain: bool = False) -> str:
    """Returns the reports of several runs, one below the other."""
    return "\n\n".join(summarize(run, name, plain) for run, name in zip(runs, names, strict=True))

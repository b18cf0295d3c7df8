"""Compares two documents row by row: what is slower, what is faster, and what is too noisy to tell."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from jaxprop.bench.document import Document, Fact, Row
from jaxprop.bench.ratio import HOST, OTHER, Known, Ratio, Side, holm, ratio, side, side_of_processes
from jaxprop.errors import UsageError, printable

ALPHA = 0.05  # probability of any false alarm among all rows of two equal documents
BUSY = 1.0  # noise from which on the machine is the reason
SAME = 0.05  # relative difference that an interval has to exclude before two times are called the same
REMARK = 0.05  # relative difference between the ratio of medians and that of undisturbed times that is worth a remark

Verdict = Literal[
    "slower", "faster", "same", "no verdict", "broken", "repaired", "unmeasured", "only first", "only second"
]
SHORTEST, LONGEST = 1e-30, 1e30  # of the time for a unit of work, far beyond what there is
Key = tuple[str, str, str]
MEASURED = ("ok", "noisy")
JUDGED = ("slower", "faster", "same", "broken", "repaired")


class Line(NamedTuple):
    """What became of one row.

    Args:
      section, name, device: of the row.
      verdict: `slower` or `faster`: by more than the noise; `same`: the interval lies within 5 %; `no verdict`: too
        noisy to tell; `broken` or `repaired`: measured in one document only, because the other has an error;
        `unmeasured`: in neither; `only first` or `only second`: the other document has no such row.
      ratio: time of the second relative to the first, with its interval of 95 %.
      low, high: of that interval.
      median: ratio of the medians of all samples.
      floor: relative difference below which nothing is called one, from the noise of both documents.
      p: adjusted for the number of rows.
      first, second: the figures of both documents.
      unit: of the figures.
      reason: one sentence, where there is something to say.
    """

    section: str
    name: str
    device: str
    verdict: Verdict
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    median: float | None = None
    floor: float | None = None
    p: float | None = None
    first: float | None = None
    second: float | None = None
    unit: str = ""
    reason: str = ""


class Difference(NamedTuple):
    """What differs between the circumstances of two documents."""

    what: str
    first: Fact
    second: Fact


class Comparison(NamedTuple):
    """Two documents compared.

    Args:
      lines: one a row, in the order of the first document, then those of the second alone.
      machine: what differs between the machines; not empty only where that was allowed.
      differences: of versions, flags, commit, settings and arguments.
      notes: sentences about the comparison as a whole.
    """

    lines: list[Line]
    machine: list[Difference]
    differences: list[Difference]
    notes: list[str]

    def count(self, verdict: Verdict) -> int:
        """How many rows have a verdict."""
        return sum(line.verdict == verdict for line in self.lines)


def compare(first: Document, second: Document, force: bool = False) -> Comparison:
    """Compares two documents.

    Args:
      first: the earlier one, which the ratios refer to.
      second: the later one.
      force: whether documents of different machines are compared all the same.

    Returns:
      A verdict for each row.

    Raises:
      UsageError: they are of different commands or machines, or have no row in common.
    """
    if first.command != second.command:
        raise UsageError(
            f"one document is of `bench {first.command}`, the other of `bench {second.command}`; "
            "compare two of the same"
        )
    machine = list(_differences(machine_of(first), machine_of(second)))
    if machine and not force:
        one = machine[0]
        raise UsageError(
            f"the documents are of different machines ({one.what}: {shown(one.first)} and {shown(one.second)}); "
            "add --force to compare them all the same"
        )
    mine, theirs = ({row.key: row for row in document.rows} for document in (first, second))
    if not mine.keys() & theirs.keys():
        raise UsageError("the documents have no row in common; compare two of the same arguments")
    return Comparison(
        lines=compare_rows(mine, theirs, known_of(first)),
        machine=machine,
        differences=list(_differences(_circumstances(first), _circumstances(second))),
        notes=list(_notes(first, second)),
    )


def known_of(document: Document) -> Known:
    """What is known beforehand of equal programs on a document's machine."""
    kinds = {str(device.get("kind")).lower() for device in document.environment.devices}
    return HOST if "cpu" in kinds else OTHER


def compare_rows(first: Mapping[Key, Row], second: Mapping[Key, Row], known: Known) -> list[Line]:
    """Compares rows by their keys.

    Args:
      first, second: rows by key.
      known: of equal programs on their machine.

    Returns:
      A line for each row of the first, then for those of the second alone.
    """
    lines = [_line(row, second.get(key), known) for key, row in first.items()]
    return _judged(lines + [_only("only second", row) for key, row in second.items() if key not in first])


def failures(lines: Sequence[Line], limit: float) -> list[Line]:
    """The rows that are slower by more than a limit, beyond their interval, and those that have broken.

    Args:
      lines: of a comparison.
      limit: as a share, such as 0.05.

    Example:
      >>> line = Line("train", "step", "0", "slower", ratio=1.08, low=1.06, high=1.10)
      >>> len(failures([line], 0.05)), len(failures([line], 0.07))
      (1, 0)
    """
    return [
        line
        for line in lines
        if line.verdict == "broken" or (line.verdict == "slower" and (line.low or 0.0) > 1 + limit)
    ]


def subject(lines: Sequence[Line]) -> list[Line]:
    """The rows that a comparison is about: those of the train step, where there are any, otherwise all.

    `bench train` measures the device's own rates and the products of the step, too; the step is held against them.

    Args:
      lines: of a comparison.

    Example:
      >>> lines = [Line("matmul", "bfloat16", "0", "same"), Line("train", "mlp", "0", "slower")]
      >>> [line.section for line in subject(lines)], [line.section for line in subject(lines[:1])]
      (['train'], ['matmul'])
    """
    return [line for line in lines if line.section == "train"] or list(lines)


def is_judged(lines: Sequence[Line]) -> bool:
    """Whether any of the rows that a comparison is about has a verdict.

    Args:
      lines: of a comparison.

    Example:
      >>> is_judged([Line("train", "mlp", "0", "no verdict"), Line("matmul", "bfloat16", "0", "same")])
      False
    """
    return any(line.verdict in JUDGED for line in subject(lines))


def share(text: str) -> float:
    """Reads a share, given in per cent or as a number.

    Args:
      text: such as `5%` or `0.05`.

    Raises:
      UsageError: it is neither, or is not between 0 and 100 %.

    Example:
      >>> share("5%"), share("0.05"), share("2.5 %")
      (0.05, 0.05, 0.025)
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text, re.ASCII)
    value = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    if not 0 <= value < 1:
        raise UsageError(f"--fail-above {printable(text)[:40]}: expected a share below 100 %, such as 5% or 0.05")
    return value


def shown(value: Fact) -> str:
    """A fact as text, `none` where there is none."""
    return "none" if value is None else printable(str(value))


def machine_of(document: Document) -> dict[str, Fact]:
    """What says whether two documents are of the same machine: devices, processor, cores and affinity."""
    kinds = [str(device.get("kind")) for device in document.environment.devices]
    host = document.environment.host
    return {
        "devices": ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)),
        "processor": host.get("cpu"),
        "cores": host.get("cores"),
        "affinity": host.get("affinity"),
    }


# -- rows -----------------------------------------------------------------------------------------


def _line(first: Row, second: Row | None, known: Known) -> Line:
    if second is None:
        return _only("only first", first)
    line = _bare("no verdict", first)._replace(first=first.value, second=second.value)
    measured = [row.status in MEASURED for row in (first, second)]
    if not any(measured):
        return line._replace(verdict="unmeasured", reason=_why(second))
    if not all(measured):
        verdict: Verdict = "broken" if measured[0] else "repaired"
        return line._replace(verdict=verdict, reason=_why(second if measured[0] else first))
    if (first.unit, first.better) != (second.unit, second.better):
        return line._replace(reason=f"one is in {first.unit or 'no unit'}, the other in {second.unit or 'no unit'}")
    reason = _unusable(first) or _unusable(second)
    if reason:
        plain = second.value / first.value if first.value and second.value else None
        if plain and first.better == "higher":
            plain = 1 / plain
        if plain == 1:
            return line._replace(ratio=plain, verdict="same")
        return line._replace(ratio=plain, reason=reason)
    return _with_ratio(line, ratio(_side(first, known), _side(second, known), known.floor))


def _with_ratio(line: Line, found: Ratio) -> Line:
    reason = ""
    if abs(math.log(found.median / found.ratio)) > REMARK:
        reason = f"the medians have the ratio {found.median:.3f}"
    return line._replace(**found._asdict(), reason=reason)


def _seconds(row: Row) -> list[list[float]]:
    """Seconds of the same amount of work, whatever one call does."""
    # A work of 0 makes a time of 0, which is then found to be none.
    factor = row.per_call if row.better == "lower" else 1 / row.per_call if row.per_call > 0 else 0.0
    return [[factor * one for one in samples] for samples in row.samples if samples]


def _side(row: Row, known: Known) -> Side:
    measured = row.calls * sum(one for samples in row.samples for one in samples)
    waited, others = (
        float(value) / measured if isinstance(value := row.facts.get(name), int | float) and value > 0 else 0.0
        for name in ("waited_seconds", "others_seconds")
    )
    rounds = _seconds(row)
    if len(row.processes) > 1 and sum(row.processes) == len(rounds):
        ends = list(itertools.accumulate(row.processes, initial=0))
        return side_of_processes([rounds[a:b] for a, b in itertools.pairwise(ends)], known.scatter, waited, others)
    return side(rounds, waited, others)


def _unusable(row: Row) -> str:
    """Why a row's samples do not tell how far they scatter, or an empty text."""
    if not any(row.samples):
        return "a single figure, without samples"
    if not all(SHORTEST < one < LONGEST for samples in _seconds(row) for one in samples):
        return "a sample is no time that can be measured"
    if sum(bool(samples) for samples in row.samples) < 2:
        return "one round only, which does not tell how far rounds differ; measure longer"
    return ""


def _judged(lines: Sequence[Line]) -> list[Line]:
    """Lines with their verdicts, for which the probabilities of all of them are needed."""
    tested = [i for i, line in enumerate(lines) if line.p is not None]
    adjusted = dict(zip(tested, holm([lines[i].p or 0.0 for i in tested]), strict=True))
    return [line if i not in adjusted else _verdict(line._replace(p=adjusted[i])) for i, line in enumerate(lines)]


def _verdict(line: Line) -> Line:
    assert line.ratio
    assert line.low
    assert line.high
    assert line.floor is not None
    assert line.p is not None
    if line.p < ALPHA:
        return line._replace(verdict="slower" if line.ratio > 1 else "faster")
    if line.low >= 1 / (1 + SAME) and line.high <= 1 + SAME and line.floor <= SAME:
        return line._replace(verdict="same")
    noise = _noise(line)
    reason = f"the noise is {noise:.0%}; measure longer, or when nothing else runs"
    if noise > BUSY:
        reason = "others had the processor for most of the time; measure when nothing else runs"
    return line._replace(verdict="no verdict", reason=f"{reason}; {line.reason}" if line.reason else reason)


def _noise(line: Line) -> float:
    assert line.low
    assert line.high
    return max(math.sqrt(line.high / line.low) - 1, line.floor or 0.0)


def _bare(verdict: Verdict, row: Row) -> Line:
    return Line(section=row.section, name=row.name, device=row.device, verdict=verdict, unit=row.unit)


def _only(verdict: Verdict, row: Row) -> Line:
    line = _bare(verdict, row)._replace(reason=_why(row) if row.status not in MEASURED else "")
    return line._replace(first=row.value) if verdict == "only first" else line._replace(second=row.value)


def _why(row: Row) -> str:
    return f"{row.status.replace('_', ' ')}: {row.message}" if row.message else row.status.replace("_", " ")


# -- circumstances --------------------------------------------------------------------------------


def _circumstances(document: Document) -> dict[str, Fact]:
    found = document.environment
    host = {name: value for name, value in found.host.items() if name not in ("cpu", "cores", "affinity")}
    devices = {
        f"device {i} {name}": value
        for i, device in enumerate(found.devices)
        for name, value in device.items()
        if name != "kind"
    }
    return {
        **{f"version of {name}": value for name, value in found.versions.items()},
        **{f"flag {name}": value for name, value in found.flags.items()},
        "commit": found.commit,
        **{f"host {name}": value for name, value in host.items()},
        **devices,
        **{f"argument {name}": value for name, value in document.arguments.items()},
    }


def _differences(first: dict[str, Fact], second: dict[str, Fact]) -> Iterator[Difference]:
    for name in dict.fromkeys([*first, *second]):
        if first.get(name) != second.get(name):
            yield Difference(name, first.get(name), second.get(name))


def _notes(first: Document, second: Document) -> Iterator[str]:
    for which, document in (("first", first), ("second", second)):
        if not document.complete:
            yield f"the {which} document is not complete: the command was ended before all was measured"

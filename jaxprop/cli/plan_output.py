"""What `jaxprop plan` prints and writes."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from jaxprop.bench.render.frame import frame, table_html, write_page
from jaxprop.bench.render.svg import Line, Plot, Point, figure
from jaxprop.bench.render.tables import Table
from jaxprop.cli.tables import show, size
from jaxprop.config.schema.config import Config
from jaxprop.tools.plan.advice import assumptions, first_change, unknown
from jaxprop.tools.plan.compiled import Placed, axes_text
from jaxprop.tools.plan.roofline import Estimate
from jaxprop.tools.plan.scaling import Scaled
from jaxprop.tools.plan.search import Candidate, Tried, overrides, text
from jaxprop.tools.plan.topology import Target

UNKNOWN = "unknown"
MOST_LEFT = 3  # candidates that were not compiled, of which the overrides are shown


class Plan(NamedTuple):
    """What a plan has found.

    Args:
      target: the devices.
      config: the configuration.
      placed: its step on them.
      detail: how much the step measures.
      tried, untried: candidates of a search.
      scaled, unscaled: points of a weak scaling, and numbers of devices that were not reached.
    """

    target: Target
    config: Config
    placed: Placed
    detail: str
    tried: tuple[Tried, ...] = ()
    untried: tuple[Candidate, ...] = ()
    scaled: tuple[Scaled, ...] = ()
    unscaled: tuple[int, ...] = ()


def print_plan(found: Plan) -> None:
    """Prints a plan as tables and sentences."""
    for table in tables(found):
        show(table.headers, table.rows, right=_right(table))
    for sentence in sentences(found):
        print(sentence)
    print("Assumptions:")
    for sentence in (*assumptions(found.target, found.config, found.detail), *unknown(found.target)):
        print(f"- {sentence}")


def write_report(found: Plan, path: Path) -> None:
    """Writes a plan as one HTML page."""
    write_page(path, frame(f"Plan for {found.target.name}", _body(found), "jaxprop plan"), "--report")


def sentences(found: Plan) -> Iterator[str]:
    """Yields whether the step fits, and what to do."""
    placed = found.placed
    yield verdict(placed)
    change = first_change(placed, found.config)
    if change is not None:
        yield f"First thing to change: {change}"
    if found.tried:
        best = found.tried[0]
        if best.placed is not None and best.placed.fits is not False:
            yield f"Best of {len(found.tried)} tried: {overrides(best.candidate.mesh, best.candidate.remat)}"
        else:
            yield f"None of the {len(found.tried)} candidates that were compiled fits."
    if found.untried:
        first = "; ".join(overrides(one.mesh, one.remat) for one in found.untried[:MOST_LEFT])
        yield f"Not compiled: {len(found.untried)} further candidates, first {first}"
    if found.unscaled:
        yield f"Not compiled in the time there was: {', '.join(map(str, found.unscaled))} devices"


def verdict(placed: Placed) -> str:
    """Returns one sentence about the memory."""
    needed = f"{size(placed.needed)} of each device's memory"
    if placed.capacity is None:
        return f"The step needs {needed}; {size(placed.needed * placed.chips)} over the {placed.chips} devices."
    if placed.fits:
        return f"Fits: the step needs {needed}, of {size(placed.capacity)}."
    least = "" if placed.parts else "at least "
    missing = size(placed.needed - placed.capacity)
    return f"Does not fit: the step needs {least}{needed}, {missing} more than the {size(placed.capacity)} there are."


def tables(found: Plan) -> Iterator[Table]:
    """Yields the tables that a plan has."""
    placed = found.placed
    yield Table("Plan", ["plan", ""], [list(row) for row in _summary(found)])
    if placed.parts:
        rows = [[name, size(count)] for name, count in placed.parts.items()]
        yield Table(
            "Memory of each device", ["at the peak, each device", "size"], [*rows, ["all", size(placed.needed)]]
        )
    if placed.work is not None:
        collectives = [
            [
                one.kind, " x ".join(one.axes) or UNKNOWN, f"{one.devices}", f"{one.times:,.0f}", size(one.size),
                size(one.sent),
            ]
            for one in placed.work.collectives
        ]  # fmt: skip
        headers = ["collective", "axis", "devices", "a step", "arrays", "sent by each"]
        yield Table("Collectives", headers, collectives)
    if placed.time is not None:
        yield Table("Roofline of a step", ["roofline of a step", "time"], [list(row) for row in _times(placed.time)])
    if found.tried:
        headers = ["mesh", "run.remat", "fits", "memory", "step", "MFU", "bound by", "compiled in"]
        yield Table("Search", headers, [_tried(one) for one in found.tried])
    if found.scaled:
        headers = ["devices", "mesh", "batch", "fits", "memory", "step", "MFU", f"{_unit(placed)}/s", "compiled in"]
        yield Table("Weak scaling", headers, [_scaled(one) for one in found.scaled])


def _summary(found: Plan) -> Iterator[tuple[str, str]]:
    placed = found.placed
    yield "devices", f"{placed.target} ({placed.chips})"
    yield "mesh", axes_text(placed.mesh)
    yield "rematerialization", placed.remat
    yield "batch", f"{placed.batch_size:,} examples, {placed.batch_size / placed.chips:g} a device"
    yield "parameters", f"{placed.parameters:,}"
    yield "state over all devices", size(placed.held)
    yield "FLOPs of the model, a step", f"{placed.model_flops:.3e}"
    if placed.work is not None:
        loops = placed.work.loops_unknown
        yield "FLOPs of a device, a step", f"{placed.work.flops:.3e}{f' ({loops} loops counted once)' if loops else ''}"
        yield "bytes moved by a device, a step", size(placed.work.moved)
        sends = placed.work.sends_unknown
        sent = size(sum(one.sent for one in placed.work.collectives))
        missing = f" ({sends} exchanges of slices not counted)" if sends else ""
        yield "bytes sent by a device, a step", sent + missing
    if placed.time is not None and placed.per_second is not None:
        yield "step", f"{_span(placed.time.low, placed.time.high)}, bound by {placed.time.bound}"
        yield "model FLOPs utilization", _shares(placed.time)
        yield f"{_unit(placed)} a second", _rates(placed)
    yield "compiled in", f"{placed.seconds:.0f} s"


def _times(time: Estimate) -> Iterator[tuple[str, str]]:
    yield "products", _milliseconds(time.compute)
    yield "main memory", _milliseconds(time.memory)
    for name, seconds in time.links.items():
        yield name, _milliseconds(seconds)
    yield "step, everything overlapping", _milliseconds(time.low)
    yield "step, nothing overlapping what is sent", _milliseconds(time.high)


def _tried(one: Tried) -> list[str]:
    mesh, placed = text(one.candidate.mesh), one.placed
    if placed is None:
        return [mesh, one.candidate.remat, one.problem, *[""] * 5]
    return [mesh, placed.remat, *_result(placed), placed.time.bound if placed.time else "", f"{placed.seconds:.0f} s"]


def _scaled(one: Scaled) -> list[str]:
    placed = one.placed
    if placed is None:
        return [f"{one.chips}", one.problem, *[""] * 7]
    rates = _rates(placed) if placed.per_second else ""
    result, seconds = _result(placed), f"{placed.seconds:.0f} s"
    return [f"{one.chips}", axes_text(placed.mesh), f"{placed.batch_size:,}", *result, rates, seconds]


def _result(placed: Placed) -> list[str]:
    fits = "" if placed.fits is None else "yes" if placed.fits else "no"
    least = "" if placed.parts else "> "
    if placed.time is None:
        return [fits, f"{least}{size(placed.needed)}", "", ""]
    return [fits, size(placed.needed), _span(placed.time.low, placed.time.high), _shares(placed.time)]


def _unit(placed: Placed) -> str:
    return "tokens" if placed.tokens else "examples"


def _rates(placed: Placed) -> str:
    assert placed.per_second is not None
    low, high = (rate * (placed.tokens or 1) for rate in placed.per_second)
    return f"{low:,.0f} to {high:,.0f}"


def _shares(time: Estimate) -> str:
    return f"{time.mfu[0]:.0%} to {time.mfu[1]:.0%}"


def _span(low: float, high: float) -> str:
    return f"{_milliseconds(low)} to {_milliseconds(high)}"


def _milliseconds(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1e3 * seconds:.3g} ms"
        if seconds >= 1e-4
        else f"{1e6 * seconds:.3g} µs"
    )


def _right(table: Table) -> list[int]:
    return [
        i for i in range(1, len(table.headers)) if table.headers[i] not in ("axis", "mesh", "run.remat", "bound by")
    ]


# -- the page -------------------------------------------------------------------------------------


def _body(found: Plan) -> Iterator[str]:
    yield f"<h1>Plan for {escape(found.target.name)}</h1>"
    yield "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(found))
    drawn = [figure(plot) for plot in plots(found)]
    if drawn:
        yield f'<div class="grid">{"".join(drawn)}</div>'
    for table in tables(found):
        yield f"<h2>{escape(table.title)}</h2>"
        yield table_html(table)
    yield "<h2>Assumptions</h2>"
    rest = (*assumptions(found.target, found.config, found.detail), *unknown(found.target))
    yield f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in rest)}</ul>"


def plots(found: Plan) -> Iterator[Plot]:
    """Yields the curves of a weak scaling: rate, time of a step, and memory of each device."""
    points = [(one.chips, one.placed) for one in found.scaled if one.placed is not None]
    timed = [(chips, placed, placed.time) for chips, placed in points if placed.time is not None]
    if len(timed) > 1:
        unit = _unit(found.placed)

        def rates(end: int) -> list[Point]:
            made = [
                (chips, placed.per_second[end] * (placed.tokens or 1))
                for chips, placed, _ in timed
                if placed.per_second
            ]
            return [Point(chips, rate, said=f"{chips} devices: {rate:,.0f} {unit}/s") for chips, rate in made]

        lines = [Line("everything overlaps", rates(1)), Line("nothing overlaps what is sent", rates(0))]
        yield Plot("Weak scaling", lines, "devices", f"{unit}/s", log_x=True, log_y=True)
        low = [Point(chips, 1e3 * time.low, said=_milliseconds(time.low)) for chips, _, time in timed]
        high = [Point(chips, 1e3 * time.high, said=_milliseconds(time.high)) for chips, _, time in timed]
        both = [Line("everything overlaps", low), Line("nothing overlaps what is sent", high)]
        yield Plot("Time of a step", both, "devices", "ms", log_x=True)
    if len(points) > 1:
        held = [Point(chips, placed.needed / 2**30, said=size(placed.needed)) for chips, placed in points]
        yield Plot("Memory of each device", [Line("at the peak", held)], "devices", "GiB", log_x=True)


# -- as JSON --------------------------------------------------------------------------------------


def plain(found: Plan) -> dict[str, Any]:
    """Returns everything that a plan has found, for `--json`."""
    sheet = found.target.sheet
    return {
        "devices": {
            "name": found.target.name, "platform": found.target.platform, "chips": found.target.chips,
            "shape": found.target.shape, "slices": found.target.slices, "sheet": sheet,
        },
        "detail": found.detail,
        **_plain(found.placed),
        "first_change": first_change(found.placed, found.config),
        "search": [
            {
                "overrides": overrides(one.candidate.mesh, one.candidate.remat), "problem": one.problem,
                "result": None if one.placed is None else _plain(one.placed),
            }
            for one in found.tried
        ],
        "not_compiled": [overrides(one.mesh, one.remat) for one in found.untried],
        "scaling": [
            {"chips": one.chips, "problem": one.problem, "result": None if one.placed is None else _plain(one.placed)}
            for one in found.scaled
        ],
        "not_scaled": found.unscaled,
        "assumptions": [*assumptions(found.target, found.config, found.detail), *unknown(found.target)],
    }  # fmt: skip


def _plain(placed: Placed) -> dict[str, Any]:
    made = placed._asdict()
    if placed.work is not None:
        kept = [
            {name: value for name, value in one._asdict().items() if name != "groups"}
            for one in placed.work.collectives
        ]
        made["work"] = placed.work._asdict() | {"collectives": kept}
    return made

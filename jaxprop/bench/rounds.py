"""The method: how a figure is measured, the same for all of them.

All figures are measured in turn, a fraction of a second each, and then again, until the interval of each is narrow
enough or the time is used up. So a first table is there soon, the rounds of one figure lie apart in time, and a machine
that changes meanwhile widens the interval instead of shifting one figure.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax

from jaxprop.bench import telemetry
from jaxprop.bench.document import Fact, Row, Status
from jaxprop.bench.samples import drift, estimate
from jaxprop.errors import printable

FEWEST = 2  # samples in a round, however long one takes


class Prepared(NamedTuple):
    """A figure ready to be measured.

    Args:
      call: starts the i-th call and returns what to wait for; i rotates the buffers.
      check: result of a call -> what is wrong with it, or an empty text. It is asked once, before anything is timed.
      facts: what preparing has found out, such as the seconds of compiling.
      per_call: work of one call where only preparing tells it; goes before that of the job.
    """

    call: Callable[[int], Any]
    check: Callable[[Any], str]
    facts: Mapping[str, Fact] = {}
    per_call: float | None = None


class Job(NamedTuple):
    """A figure to be measured.

    Args:
      section, name: of its row.
      unit: of the figure.
      better: whether it is a rate (`higher`) or a time (`lower`).
      per_call: a rate is `per_call / seconds`, a time `per_call * seconds`.
      prepare: compiles and makes the buffers, again in every round; what it raises becomes the row's message.
      device: that it runs on, None for all together.
      facts: what is known beforehand.
      follows: name of a smaller one and how many times its time this one takes; left out if that is too long.
      limit: the figure that cannot be, such as the datasheet's; a higher one is an error. For rates only.
    """

    section: str
    name: str
    unit: str
    prepare: Callable[[], Prepared]
    better: Literal["higher", "lower"] = "higher"
    per_call: float = 1.0
    device: jax.Device | None = None
    facts: Mapping[str, Fact] = {}
    follows: tuple[str, float] | None = None
    limit: float | None = None


class Plan(NamedTuple):
    """How long and how exactly to measure.

    Args:
      seconds: after which no further round begins; every figure gets one whatever this is.
      burst: seconds of one figure in one round.
      aim: half the width of a figure's interval, relative to it, at which it is measured no further.
      fewest: rounds a figure has at least, if time allows.
      longest: seconds that one call may take, or the figure is left out.
    """

    seconds: float = 90.0
    burst: float = 0.1
    aim: float = 0.01
    fewest: int = 5
    longest: float = 0.15


NOISY = 0.05  # half width of an interval from which on a figure is called noisy


class _Kept(NamedTuple):
    """What was measured of one figure so far."""

    job: Job
    rounds: list[list[float]]
    calls: int
    facts: dict[str, Fact]
    per_call: float


def measure(jobs: Sequence[Job], plan: Plan, devices: Sequence[jax.Device]) -> Iterator[Row]:
    """Measures figures in rounds.

    Args:
      jobs: in the order of their first measurement.
      plan: how long and how exactly.
      devices: all that the results name.

    Yields:
      The row of a figure each time it has changed. One that cannot be measured has a row that says why.
    """
    start = time.monotonic()
    kept: dict[tuple[str, str, str], _Kept] = {}
    for job in jobs:
        if _too_long(job, kept, plan, devices):
            continue
        found = _first(job, plan)
        if isinstance(found, _Kept):
            kept[_key(job, devices)] = found
            yield _row(found, devices)
        else:
            yield _failure(job, found, devices)
    while True:
        open_ = [key for key, one in kept.items() if not settled(one.rounds, plan)]
        for key in open_:
            if time.monotonic() - start > plan.seconds:
                return
            one = kept[key]
            try:
                more = _round(one.job, one.job.prepare(), one.calls, plan, one.facts)
            except Exception as error:
                del kept[key]
                yield _failure(one.job, error, devices)
                continue
            kept[key] = one._replace(rounds=[*one.rounds, more])
            yield _row(kept[key], devices)
        if not open_:
            return


def settled(rounds: Sequence[Sequence[float]], plan: Plan) -> bool:
    """Whether a figure needs no further round.

    Example:
      >>> settled([[1.0] * 20] * 5, Plan()), settled([[1.0, 1.5]] * 5, Plan()), settled([[1.0] * 20], Plan())
      (True, False, False)
    """
    return len(rounds) >= plan.fewest and estimate(rounds).noise <= plan.aim


def timing(call: Callable[[int], Any], first: int, calls: int) -> float:
    """Seconds of one of several calls that are waited for together."""
    start = time.perf_counter()
    for i in range(first, first + calls):
        out = call(i)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / calls


def warm_up(call: Callable[[int], Any], seconds: float) -> None:
    """Keeps a device busy, so that its clock has risen and its memory is warm."""
    until, i = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        jax.block_until_ready(call(i))
        i += 1


def _first(job: Job, plan: Plan) -> _Kept | Exception:
    """The first round of a figure, before which its result is checked; or what went wrong."""
    try:
        ready = job.prepare()
        start = time.monotonic()
        out = jax.block_until_ready(ready.call(0))
        long = time.monotonic() - start > plan.burst  # with what a first call loads, so an upper bound
        problem = ready.check(out)
        if problem:
            return WrongResult(problem)
        warm_up(ready.call, plan.burst / 3)
        calls = 1 if long and timing(ready.call, 1, 1) > plan.burst else _calibrate(ready.call, plan)
        facts = {**job.facts, **ready.facts}
        samples = _round(job, ready, calls, plan, facts)
    except Exception as error:
        return error
    found = _Kept(job, [samples], calls, facts, job.per_call if ready.per_call is None else ready.per_call)
    return _impossible(found) or found


def _round(job: Job, ready: Prepared, calls: int, plan: Plan, facts: dict[str, Fact]) -> list[float]:
    """Samples of one round; what could be read of the device meanwhile is added to the facts."""
    samples: list[float] = []
    gc.collect(0)
    jax.block_until_ready(ready.call(0))
    device = job.device or jax.devices()[0]
    with telemetry.watch(device, facts), telemetry.beside(device, facts):
        until, first = time.monotonic() + plan.burst, 1
        while len(samples) < FEWEST or time.monotonic() < until:
            samples.append(timing(ready.call, first, calls))
            first += calls
    return samples


def _calibrate(call: Callable[[int], Any], plan: Plan) -> int:
    """Calls in one sample: enough that a round has some 30, and that the clock's own cost does not count."""
    calls = 1
    while True:
        taken = min(timing(call, 1, calls) for _ in range(2)) * calls
        if taken >= min(1e-3, plan.burst / 30) or calls >= 1 << 16:
            return max(1, round(calls * plan.burst / 30 / taken))
        calls *= 4


class WrongResult(Exception):
    """A program did not compute what it was measured for."""


def _impossible(found: _Kept) -> WrongResult | None:
    limit = found.job.limit
    if limit is None:
        return None
    value = found.per_call / statistics.median(found.rounds[0])
    if value <= limit:
        return None
    return WrongResult(
        f"{value:.4g} {found.job.unit} is more than the {limit:.4g} of the datasheet, so the work was not done or was "
        "not timed"
    )


def _too_long(job: Job, kept: dict[tuple[str, str, str], _Kept], plan: Plan, devices: Sequence[jax.Device]) -> bool:
    if job.follows is None:
        return False
    before = kept.get(_key(job._replace(name=job.follows[0]), devices))
    return before is None or statistics.median(before.rounds[0]) * job.follows[1] > plan.longest


def _key(job: Job, devices: Sequence[jax.Device]) -> tuple[str, str, str]:
    return job.section, job.name, "all" if job.device is None else str(list(devices).index(job.device))


def _row(found: _Kept, devices: Sequence[jax.Device]) -> Row:
    job, seconds = found.job, estimate(found.rounds)
    section, name, device = _key(job, devices)
    if job.better == "higher":
        low, value, high = (
            found.per_call / one if one else None for one in (seconds.high, seconds.middle, seconds.low)
        )
    else:
        low, value, high = (found.per_call * one for one in (seconds.low, seconds.middle, seconds.high))
    noisy = seconds.noise > NOISY
    return Row(
        section=section, name=name, device=device, unit=job.unit, better=job.better, value=value, low=low, high=high,
        status="noisy" if noisy else "ok", per_call=found.per_call, samples=[[*one] for one in found.rounds],
        calls=found.calls, drift=drift(found.rounds), facts=_with_share(job, value, found.facts),
    )  # fmt: skip


def _with_share(job: Job, value: float | None, facts: dict[str, Fact]) -> dict[str, Fact]:
    return facts | ({"of_datasheet": round(value / job.limit, 4)} if job.limit and value else {})


def _failure(job: Job, error: Exception, devices: Sequence[jax.Device]) -> Row:
    section, name, device = _key(job, devices)
    status, message = explain(error)
    return Row(
        section=section, name=name, device=device, unit=job.unit, better=job.better, status=status, message=message,
        facts=dict(job.facts),
    )  # fmt: skip


def explain(error: Exception) -> tuple[Status, str]:
    """What an error means for a row: its status and one sentence.

    Args:
      error: that a figure raised.

    Example:
      >>> explain(NotImplementedError("no such dtype"))
      ('unsupported', 'no such dtype')
    """
    text = printable(" ".join(str(error).split()) or type(error).__name__)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return "out_of_memory", f"does not fit into the memory of the device: {text[:200]}"
    if isinstance(error, NotImplementedError) or "UNIMPLEMENTED" in text or "supported" in text:
        return "unsupported", text[:200]
    return "failed", text[:300]

"""The rate that a device keeps up, where a burst says what it reaches before it is warm."""

from __future__ import annotations

import time
from collections.abc import Sequence

import jax

from jaxprop.bench import telemetry
from jaxprop.bench.document import Fact, Row
from jaxprop.bench.rounds import Job, timing
from jaxprop.bench.samples import drift, estimate

PIECE = 0.25  # seconds of one sample
PARTS = 6  # the time is cut into so many rounds; the last third is what is reported


def sustained(job: Job, burst: Row, seconds: float, devices: Sequence[jax.Device]) -> Row:
    """Keeps a device busy with one product.

    Args:
      job: the product; it was measured before.
      burst: its row.
      seconds: how long.
      devices: that the results name.

    Returns:
      The rate over the last third of the time, beside that of the burst, with what could be read of the device.
    """
    device = job.device or devices[0]
    ready = job.prepare()
    facts: dict[str, Fact] = dict(job.facts) | {"burst": burst.value, "seconds": seconds}
    calls = max(1, round(PIECE / timing(ready.call, 0, 2)))
    rounds: list[list[float]] = []
    first = telemetry.read(device)
    with telemetry.watch(device, facts):
        start = time.monotonic()
        for part in range(PARTS):
            rounds.append([])
            while not rounds[-1] or time.monotonic() - start < seconds * (part + 1) / PARTS:
                rounds[-1].append(timing(ready.call, part, calls))
    last = telemetry.read(device)
    for name, before, after in (
        ("clock", first.clock, last.clock),
        ("temperature", first.temperature, last.temperature),
    ):
        if before is not None and after is not None:
            facts |= {f"{name}_at_start": before, f"{name}_at_end": after}
    kept = rounds[-PARTS // 3 :]
    taken = estimate(kept)
    value = job.per_call / taken.middle
    if burst.value:
        facts["of_burst"] = round(value / burst.value, 4)
    return Row(
        section="sustained", name=job.name, device=burst.device, unit=job.unit, better=job.better, value=value,
        low=job.per_call / taken.high, high=job.per_call / taken.low if taken.low else value, per_call=job.per_call,
        samples=kept, calls=calls, drift=drift(kept), facts=facts,
    )  # fmt: skip

"""`jaxprop bench train`: configurations by precisions by batch sizes, with the time of a step and where it goes."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprop import data
from jaxprop.bench import telemetry
from jaxprop.bench.document import Fact, Row
from jaxprop.bench.rounds import Job, Plan, Prepared, explain, measure, warm_up
from jaxprop.bench.session import Session
from jaxprop.bench.train.largest import find_largest, with_batch
from jaxprop.bench.train.made import DETAIL, Made, make
from jaxprop.bench.train.parts import measure_parts, seconds_of
from jaxprop.bench.train.peaks import Peaks, kind_of, measure_peaks
from jaxprop.config.schema.config import Config
from jaxprop.core.datasheet import Sheet, sheet_of
from jaxprop.errors import JaxpropError, UsageError, one_of
from jaxprop.run import compose

WARM_UP = 3.0  # seconds, once
WAITED = 50  # batches over which the wait for data is measured, or
WAIT_SECONDS = 5.0
HOST_SECONDS = 3.0


class Options(NamedTuple):
    """What `jaxprop bench train` was asked for.

    Args:
      precisions: names of policies; empty for that of the configuration.
      batches: batch sizes, 0 for the largest that fits; empty for that of the configuration.
      roofline: whether the step's products are measured by themselves.
      plan: of the rounds of one configuration.
    """

    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    roofline: bool = True
    plan: Plan = Plan(seconds=15.0, burst=0.5, longest=float("inf"))


def run(session: Session, targets: Sequence[tuple[str, Config]], options: Options, say: Callable[[str], None]) -> None:
    """Measures configurations.

    Args:
      session: takes the rows.
      targets: names and configurations.
      options: what is measured of them.
      say: takes a line about what takes long.

    Raises:
      Exception: what went wrong first, where nothing at all could be measured.
    """
    device = jax.local_devices()[0]
    for sentence in (telemetry.busy(device), telemetry.missing(device)):
        session.note(f"{device}: {sentence}" if sentence else "")
    peaks: dict[str, Peaks] = {}
    errors: list[Exception] = []
    for (name, config), precision in itertools.product(targets, options.precisions or (None,)):
        if precision is not None:
            config = config.model_copy(update={"precision": config.precision.model_copy(update={"policy": precision})})
        precision = config.precision.policy
        if precision not in peaks:
            say(f"the device's own rate in {precision}")
            peaks[precision] = measure_peaks(precision, device, session.add)
            if noise := peaks[precision].noise:
                session.note(f"the device's own rate in {precision} is uncertain by {noise:.0%}, and so is each MFU")
        for batch in options.batches or (config.data.batch_size,):
            label = f"{name} {precision} batch {batch or 'auto'}"
            try:
                if batch == 0:
                    batch = find_largest(config, device, say)
                    label = f"{name} {precision} batch {batch} (largest)"
                say(f"compiling {label}")
                _measure(session, label, name, with_batch(config, batch), peaks[precision], device, options)
            except Exception as error:
                session.add(_failed(label, name, precision, batch, error))
                errors.append(error)
            gc.collect()
    steps = [row for row in session.document.rows if row.section == "train"]
    if not any(row.value for row in steps):
        raise errors[0] if errors else JaxpropError(f"no step could be measured: {steps[0].message}")


def _failed(label: str, name: str, precision: str, batch: int, error: Exception) -> Row:
    status, message = explain(error)
    facts: dict[str, Fact] = {"workload": name, "precision": precision, "batch": batch}
    return Row(section="train", name=label, unit="ms", better="lower", status=status, message=message, facts=facts)


def _measure(
    session: Session, label: str, name: str, config: Config, peaks: Peaks, device: jax.Device, options: Options
) -> None:
    made = make(config)
    stepper = _Stepper(made)
    jobs = [_job(label, stepper.usual, stepper, made, name, device)]
    try:
        stepper.compile_without_signals(made.experiment.config)
    except Exception as error:
        session.note(f"{label}: the cost of the signals was not measured: {explain(error)[1]}")
    else:
        jobs.append(_job(f"{label}, health off", stepper.lean, stepper, made, name, device))
    warm_up(stepper.usual, WARM_UP)
    rows: dict[str, Row] = {}
    for row in measure(jobs, options.plan, [device]):
        rows[row.name] = row
        session.add(row)
    main = rows.get(label)
    if main is None or main.value is None:
        return
    facts = _figures(
        main, rows.get(f"{label}, health off"), made, peaks, sheet_of(device), kind_of(config.precision.policy).name
    )
    facts["host_us"] = _host_microseconds(stepper.usual)
    facts["data_wait_us"] = _data_wait_microseconds(made, stepper)
    facts["device_peak_bytes"] = (device.memory_stats() or {}).get("peak_bytes_in_use")
    session.add(main.model_copy(update={"facts": main.facts | facts}))
    if options.roofline:
        products, seconds = made.products, main.value / 1e3
        del stepper, jobs, made
        gc.collect()
        parts: dict[str, Row] = {}
        for row in measure_parts(label, products, device):
            parts[row.name] = row
            session.add(row)
        facts["products_share"] = round(seconds_of([*parts.values()]) / seconds, 4)
        session.add(main.model_copy(update={"facts": main.facts | facts}))


class _Stepper:
    """One state, which the step with signals and the one without take in turn."""

    def __init__(self, made: Made):
        self._made, self._state = made, made.state
        self._step = made.experiment.step
        self._lean: Any = None
        self.loss: Any = None

    def usual(self, i: int) -> Any:
        return self._take(self._step, i)

    def lean(self, i: int) -> Any:
        return self._take(self._lean, i)

    def compile_without_signals(self, config: Config) -> None:
        self._lean = compose.compose(config, health=False).step
        jax.block_until_ready(self.lean(0))

    def take(self, batch: Any) -> Any:
        """One step with a batch of somebody else's."""
        self._state, _ = self._step(self._state, batch, DETAIL)
        return self._state.step

    def _take(self, step: Any, i: int) -> Any:
        batches = self._made.batches
        self._state, measurements = step(self._state, batches[i % len(batches)], DETAIL)
        self.loss = measurements.loss
        return self._state.step  # all that a program returns is ready at once


def _job(label: str, call: Callable[[int], Any], stepper: _Stepper, made: Made, name: str, device: jax.Device) -> Job:
    def check(step: Any) -> str:
        # Nothing of a step can be left out while what it returns is its new state; it has to be a real one.
        if int(step) < 1:
            return "no step was taken"
        return "" if np.isfinite(float(stepper.loss)) else "the loss of the first step is not finite"

    facts = {"workload": name} | {key: made.facts[key] for key in ("precision", "batch", "tokens", "parameters")}
    return Job(
        "train",
        label,
        "ms",
        lambda: Prepared(call, check),
        better="lower",
        per_call=1e3,
        device=None if made.experiment.mesh else device,
        facts=facts,
    )


def _figures(row: Row, lean: Row | None, made: Made, peaks: Peaks, sheet: Sheet | None, kind: str) -> dict[str, Fact]:
    """What follows from the time of a step."""
    assert row.value is not None
    facts, seconds = dict(made.facts), row.value / 1e3
    rate = float(facts["flops_formula"] or 0) / seconds / 1e12
    count = made.experiment.mesh.size if made.experiment.mesh else 1
    batch, tokens, power = facts["batch"], facts["tokens"], row.facts.get("power_w")
    found: dict[str, Fact] = {
        "examples_per_s": round(float(batch or 0) / seconds, 2),
        "tokens_per_s": round(float(tokens) / seconds, 1) if tokens else None,
        "step_tflops": round(rate, 4),
        "devices": count,
        "mfu": round(rate / count / peaks.tflops, 4) if peaks.tflops else None,
        "mfu_datasheet": round(rate / count / sheet.tflops[kind], 4) if sheet and kind in sheet.tflops else None,
        "peak_tflops": peaks.tflops,
        "peak_gb_per_s": peaks.bandwidth,
        "signals_cost": round(row.value / lean.value, 4) if lean and lean.value else None,
        "examples_per_joule": round(float(batch or 0) / seconds / float(power), 4) if power and count == 1 else None,
    }
    return facts | found


def _host_microseconds(call: Callable[[int], Any]) -> float:
    """Median time until a call returns, with nothing else under way."""
    taken: list[float] = []
    until = time.monotonic() + HOST_SECONDS
    while len(taken) < 15 and (not taken or time.monotonic() < until):
        start = time.perf_counter()
        out = call(len(taken))
        taken.append(time.perf_counter() - start)
        jax.block_until_ready(out)
    return round(statistics.median(taken) * 1e6, 1)


def _data_wait_microseconds(made: Made, stepper: _Stepper) -> float:
    """Mean time that a step waits for its batch, read and placed as in a run."""
    experiment = made.experiment

    def place(batch: dict[str, np.ndarray]) -> Any:
        return compose.place(experiment, batch)[0]

    waited, count, until = 0.0, 0, time.monotonic() + WAIT_SECONDS
    with data.prefetch(experiment.stream, experiment.config.data.prefetch, place) as batches:
        while count < WAITED and (count < 2 or time.monotonic() < until):
            start = time.perf_counter()
            batch, _ = next(batches)
            waited, count = waited + time.perf_counter() - start, count + 1
            # The step before is done, as in a run, which is one step ahead of the device and no more.
            jax.block_until_ready(stepper.take(batch))
    return round(waited / count * 1e6, 1)


def targets_of(
    names: Sequence[str], overrides: Sequence[str] = (), code: Sequence[str] = ()
) -> list[tuple[str, Config]]:
    """Returns the configurations that the command names: workloads, or one YAML file with its overrides.

    Args:
      names: of workloads, or one file.
      overrides: `key=value`, for a file.
      code: files and modules with code of the user's own that may be run although a run has stored the configuration.

    Raises:
      JaxpropError: there is no such workload or file.
    """
    from jaxprop.bench.train.workloads import WORKLOADS, config_of
    from jaxprop.code.load import check_code
    from jaxprop.config.load import load
    from jaxprop.config.locate import packaged

    found = []
    for name in names:
        if name in WORKLOADS:
            if overrides:
                raise UsageError(
                    f"{name}: overrides are of a YAML file, not of a workload; use --batch and --precision"
                )
            found.append((name, config_of(name)))
        elif "." not in name and name not in (known := [*WORKLOADS, *packaged()]):
            raise UsageError(f"{one_of(name, known, 'workload or configuration')}; or give a YAML file")
        else:
            loaded = load(name, tuple(overrides), code)
            check_code(loaded.config)  # before anything is measured
            found.append((loaded.name, loaded.config))
    return found

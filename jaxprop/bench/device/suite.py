"""`jaxprop bench device`: what is measured, in which order, and what is said about it."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.bench import telemetry
from jaxprop.bench.device import collectives, compiling, dispatch, matmul, memory, transfer
from jaxprop.bench.device.buffers import random
from jaxprop.bench.device.sustained import sustained
from jaxprop.bench.document import Document, Row
from jaxprop.bench.rounds import Job, Plan, Prepared, measure, warm_up
from jaxprop.bench.session import Session
from jaxprop.errors import UsageError

SECTIONS: dict[str, Callable[[jax.Device], list[Job]]] = {
    "matmul": lambda device: list(matmul.jobs(device)),
    "memory": lambda device: list(memory.jobs(device)),
    "transfer": lambda device: list(transfer.jobs(device)),
    "dispatch": lambda device: list(dispatch.jobs(device)),
    "compile": lambda device: list(compiling.jobs(device)),
}
WARM_UP = 3.0  # seconds
ODD = 0.05  # a device that is slower than the middle of the others by more than this is named
REPEATS = 3


class Options(NamedTuple):
    """What `jaxprop bench device` was asked for.

    Args:
      sections: names of `SECTIONS`, and `collectives` and `numpy`; empty for all.
      contrast: whether products of zeros are measured too.
      sustain: seconds to keep the best product up, 0 for none.
      plan: of the rounds.
    """

    sections: tuple[str, ...] = ()
    contrast: bool = False
    sustain: float = 30.0
    plan: Plan = Plan()

    def wants(self, section: str) -> bool:
        """Whether a section is measured."""
        return not self.sections or section in self.sections


NAMES = (*SECTIONS, "collectives", "numpy", "sustained")


def run(session: Session, devices: Sequence[jax.Device], options: Options) -> None:
    """Measures devices, each by itself, and then all together.

    Args:
      session: takes the rows.
      devices: to be measured.
      options: what is measured.
    """
    for device in devices:
        session.note(_busy(device))
        session.note(_unreadable(device))
    jobs = [job for section in SECTIONS if options.wants(section) for d in devices for job in SECTIONS[section](d)]
    if options.contrast:
        jobs += [job for device in devices for job in matmul.jobs(device, "zeros")]
    if options.wants("numpy") and any(telemetry.is_host(device) for device in devices):
        jobs += _numpy_jobs()
    if options.wants("collectives"):
        jobs += collectives.jobs(devices)
        if "collectives" in options.sections and len(devices) == 1:
            session.note("collectives need several devices; measure them with --device all")
    warm_up(_warming(devices[0]), WARM_UP)
    session.extend(measure(jobs, options.plan, devices))
    for sentence in _repeats(devices):
        session.note(sentence)
    if options.sustain and options.wants("sustained"):
        for i in range(len(devices)):
            _sustain(session, jobs, str(i), options.sustain, devices)
    for sentence in [*odd_ones(session.document), *_ratios(session.document)]:
        session.note(sentence)


def choose(device: str) -> list[jax.Device]:
    """Returns the devices that an option names.

    Args:
      device: index of one of this process's devices, or `all`.

    Raises:
      UsageError: there is no such device.

    Example:
      >>> len(choose("0"))
      1
    """
    found = jax.local_devices()
    if device == "all":
        return found
    if not device.isdigit() or int(device) >= len(found):
        numbers = "0, the only device," if len(found) == 1 else f"a number below {len(found)}"
        raise UsageError(f"--device {device}: expected {numbers} or `all`")
    return [found[int(device)]]


def best(document: Document, device: str = "0", dtype: str | None = None) -> Row | None:
    """The fastest product of a device.

    Args:
      document: with the section `matmul`.
      device: its index.
      dtype: of the product; None for the fastest of all.
    """
    rows = [
        row
        for row in document.rows
        if row.section == "matmul" and row.device == device and row.value and dtype in (None, row.facts.get("dtype"))
    ]
    return max(rows, key=lambda row: row.value or 0, default=None)


def odd_ones(document: Document) -> list[str]:
    """Sentences about devices that are slower than the others, figure by figure."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in document.rows:
        if row.device != "all" and row.value and row.status == "ok" and row.section in ("matmul", "memory", "transfer"):
            speed = row.value if row.better == "higher" else 1 / row.value
            found.setdefault((row.section, row.name), {})[row.device] = speed
    slow: dict[str, list[str]] = {}
    for (section, name), speeds in found.items():
        for device, speed in speeds.items():
            others = [value for other, value in speeds.items() if other != device]
            if others and speed < statistics.median(others) * (1 - ODD):
                slow.setdefault(device, []).append(f"{section} {name} ({speed / statistics.median(others) - 1:.0%})")
    return [f"device {device} is slower than the others: {', '.join(names[:5])}" for device, names in slow.items()]


# -- what else is asked ---------------------------------------------------------------------------


def _warming(device: jax.Device) -> Callable[[int], jax.Array]:
    x = random((1024, 1024), jnp.float32, 0, device)
    product = jax.jit(jnp.matmul)
    return lambda _: product(x, x)


def _busy(device: jax.Device) -> str:
    sentence = telemetry.busy(device)
    return f"{device}: {sentence} before anything is measured, so the figures are not those of an idle one" * bool(
        sentence
    )


def _unreadable(device: jax.Device) -> str:
    missing = telemetry.missing(device)
    return f"{device}: {missing}" if missing else ""


def _numpy_jobs() -> list[Job]:
    return [
        Job(
            "numpy", f"float32 {n} x {n} x {n}", "TFLOP/s", partial(_numpy_product, n), per_call=2 * n**3 / 1e12,
            device=jax.devices("cpu")[0], facts={"m": n, "k": n, "n": n, "library": _blas()},
        )
        for n in (512, 1024, 2048)
    ]  # fmt: skip


def _numpy_product(n: int) -> Prepared:
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(-1, 1, (n, n)).astype(np.float32) for _ in range(2))

    def check(found: np.ndarray) -> str:
        expected = a[0].astype(np.float64) @ b
        return "" if np.allclose(found[0], expected, rtol=1e-3, atol=1e-3) else "the product is wrong"

    return Prepared(lambda _: a @ b, check)


def _blas() -> str:
    libraries = np.show_config(mode="dicts")
    found = (libraries or {}).get("Build Dependencies", {}).get("blas", {})
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def _ratios(document: Document) -> list[str]:
    """XLA's products beside those of NumPy's library, on the same processor."""
    rows = [row for row in document.rows if row.section == "numpy" and row.value]
    ours = best(document, dtype="float32")
    if not rows or ours is None or not ours.value:
        return []
    theirs = max(rows, key=lambda row: row.value or 0)
    ratio = ours.value / (theirs.value or 1)
    return [
        f"float32 at its best size: JAX {ours.value:.3g} TFLOP/s ({ours.name}), NumPy {theirs.value:.3g} TFLOP/s "
        f"({theirs.name}); JAX is {ratio:.2f} times as fast. NumPy multiplies with {_blas()}, JAX with the kernels "
        "that XLA brings along; both use every core that this process may use, and their kernels are chosen for other "
        "processors and sizes"
    ]


def _sustain(session: Session, jobs: Sequence[Job], device: str, seconds: float, devices: Sequence[jax.Device]) -> None:
    burst = best(session.document, device)
    if burst is None:
        return
    job = next(job for job in jobs if job.name == burst.name and job.device is devices[int(device)])
    session.add(sustained(job, burst, seconds, devices))


def _repeats(devices: Sequence[jax.Device]) -> list[str]:
    """Whether the same program gives the same bits, on every device and each time."""
    digests: dict[str, set[str]] = {}
    for i, device in enumerate(devices):
        x = random((512, 512), jnp.float32, 1, device)
        program = jax.jit(lambda x: jax.nn.softmax(x @ x) @ x.T)
        digests[str(i)] = {_digest(program(x)) for _ in range(REPEATS)}
    unsteady = [device for device, found in digests.items() if len(found) > 1]
    if unsteady:
        return [f"device {device}: the same program gave other bits in {REPEATS} repeats" for device in unsteady]
    kinds = {device.device_kind for device in devices}
    if len(kinds) == 1 and len({next(iter(found)) for found in digests.values()}) > 1:
        return ["devices of one kind gave other bits for the same program and data"]
    return []


def _digest(x: jax.Array) -> str:
    return hashlib.sha256(np.asarray(x).tobytes()).hexdigest()

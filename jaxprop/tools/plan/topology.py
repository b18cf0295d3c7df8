"""The devices that a plan is for: chips of a TPU topology, NVIDIA GPUs, or devices of this host."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from jaxprop.core.datasheet import Sheet, sheet_of_kind
from jaxprop.errors import JaxpropError, MissingExtraError, UsageError, one_of

MAX_SLICES = 512
HOST = "CPU"
A_HOST = 8  # GPUs of a DGX system, beyond which they speak over the network
MOST = 512  # chips of a weak scaling


class Generation(NamedTuple):
    """A generation of TPUs.

    Args:
      kind: as its devices report it.
      axes: of its torus.
      chips: most in a slice.
      whole: what each axis has to be a multiple of for the torus to be closed.
      settings: further arguments of the topology.
    """

    kind: str
    axes: int
    chips: int
    whole: int
    settings: tuple[tuple[str, str], ...] = ()


# The two cores of a v4 and of a v5p are one device, as on Cloud TPU.
TPUS = {
    "v4": Generation("TPU v4", 3, 4096, 4, (("chip_config_name", "megacore"),)),
    "v5e": Generation("TPU v5 lite", 2, 256, 16),
    "v5p": Generation("TPU v5", 3, 8960, 4),
    "v6e": Generation("TPU v6 lite", 2, 256, 16),
    "v7x": Generation("TPU v7x", 3, 9216, 4),
}
GPUS = {
    "a100": "NVIDIA A100-SXM4-40GB",
    "a100-80gb": "NVIDIA A100-SXM4-80GB",
    "b200": "NVIDIA B200",
    "h100": "NVIDIA H100 80GB HBM3",
    "h100-pcie": "NVIDIA H100 PCIe",
    "h200": "NVIDIA H200",
    "l4": "NVIDIA L4",
    "l40s": "NVIDIA L40S",
    "t4": "Tesla T4",
    "v100": "Tesla V100-SXM2-32GB",
}
# Of libtpu, which off a TPU asks the cloud's metadata server for a minute, and lets one process of a machine in, since
# each takes the chips; compiling takes none.
SETTINGS = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
KINDS = "what there is: --topology v5e:16x16 for TPUs, --gpu h100:8 for NVIDIA GPUs, --devices 8 for this machine"


class Target(NamedTuple):
    """Devices to plan for.

    Args:
      name: as a person writes it, such as `v5e:16x16`.
      platform: `tpu`, `gpu` or `host`.
      devices: that the step is compiled for; of this host, where they stand for GPUs.
      sheet: what the maker states of one; None for a host's.
      shape: chips along each axis of a TPU's torus; of others their number.
      slices: of a TPU.
    """

    name: str
    platform: str
    devices: tuple[Any, ...]
    sheet: Sheet | None
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """How many devices there are."""
        return len(self.devices)

    @property
    def generation(self) -> Generation:
        """The generation of a TPU."""
        return TPUS[self.name.rpartition(" ")[2].partition(":")[0]]


def tpu(text: str, slices: int = 1) -> Target:
    """Returns the chips of a TPU topology, none of which is needed.

    Args:
      text: generation and shape, such as `v5e:16x16`.
      slices: how many such slices there are, connected by the data center's network.

    Raises:
      UsageError: there is no such topology.
      MissingExtraError: the compiler is not installed.
    """
    name, shape = _shape(text)
    if not 1 <= slices <= MAX_SLICES:
        raise UsageError(f"expected --slices between 1 and {MAX_SLICES}, got {slices}")
    if importlib.util.find_spec("libtpu") is None:
        raise MissingExtraError("libtpu", f"planning for {text}", "'jax[tpu]'")
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    start_on_host()
    from jax.experimental import topologies

    generation, deep = TPUS[name], (*shape, 1, 1)[:3]
    bounds = (min(2, deep[0]), min(2, deep[1]), 1)
    try:
        with _quiet():
            made = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{name}:{'x'.join(map(str, shape))}", chips_per_host_bounds=bounds,
                **({"num_slices": slices} if slices > 1 else {}), **dict(generation.settings),
            )  # fmt: skip
    except jax.errors.JaxRuntimeError as error:
        if "Invalid TPU external name" in str(error):
            others = ", ".join(key for key in TPUS if key != name)
            raise UsageError(
                f"the installed libtpu {importlib.metadata.version('libtpu')} does not know {name}; install a newer "
                f"one with pip install -U 'jax[tpu]', or plan for {others}"
            ) from None
        raise UsageError(f"{text} is no topology: {str(error).splitlines()[0]}") from None
    whole = f"{slices} x {text}" if slices > 1 else text
    return Target(whole, "tpu", tuple(made.devices), sheet_of_kind(generation.kind), shape, slices)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what libtpu says on stderr of the machine not being a TPU's."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, sizes = text.partition(":")
    if name not in TPUS:
        gpu = f"; for GPUs write --gpu {text}" if name in GPUS else ""
        raise UsageError(f"{one_of(name, TPUS, 'TPU generation')}{gpu}; {KINDS}")
    generation = TPUS[name]
    example = known_shape(name, 16)
    if not re.fullmatch(rf"\d+(x\d+){{{generation.axes - 1}}}", sizes):
        raise UsageError(f"expected chips along {generation.axes} axes, such as {name}:{example}, got {text!r}")
    shape = tuple(int(size) for size in sizes.split("x"))
    chips = math.prod(shape)
    if chips > generation.chips:
        raise UsageError(
            f"{text} has {chips} chips, and a slice of {name} has at most {generation.chips}; use --slices for more"
        )
    if any(size != 1 and size % 2 for size in shape) or not chips:
        near = known_shape(name, max(chips, 1))
        raise UsageError(f"no slice of {name} has the shape {sizes}; the nearest is {name}:{near}")
    return name, shape


def known_shape(name: str, chips: int) -> str:
    """Returns the shape of the slice with the largest power of two of chips that is at most `chips`.

    Example:
      >>> known_shape("v5e", 256), known_shape("v5e", 2), known_shape("v5p", 512)
      ('16x16', '1x2', '8x8x8')
    """
    generation = TPUS[name]
    power = int(math.log2(min(chips, generation.chips)))
    shape = [1] * generation.axes
    for i in range(power):
        # The first axes grow first to 2, as hosts do, then the last one.
        place = i if i < generation.axes else generation.axes - 1 - (i - generation.axes) % generation.axes
        shape[place] *= 2
    return "x".join(map(str, sorted(shape) if power >= generation.axes or generation.axes == 2 else shape))


def gpu(text: str) -> Target:
    """Returns NVIDIA GPUs, for which devices of this host stand in where a program is split over them.

    Args:
      text: model and number, such as `h100:8`.

    Raises:
      UsageError: there is no such model, or no number.
    """
    name, _, count = text.partition(":")
    if name.lower() not in GPUS:
        raise UsageError(f"{one_of(name.lower(), GPUS, 'GPU')}; {KINDS}")
    if not re.fullmatch(r"[1-9]\d{0,4}", count):
        raise UsageError(f"expected the number of GPUs after a colon, such as {name}:8, got {text!r}")
    return Target(text, "gpu", host_devices(int(count)), sheet_of_kind(GPUS[name.lower()]), (int(count),))


def host(count: int) -> Target:
    """Returns devices of this host, which share its cores and its memory.

    Args:
      count: how many.
    """
    return Target(f"{count} host device{'s' if count > 1 else ''}", "host", host_devices(count), None, (count,))


def host_devices(count: int) -> tuple[Any, ...]:
    """Returns devices of this host, made if jax has not started yet.

    Raises:
      UsageError: jax runs already with fewer.
    """
    if not 1 <= count <= 4096:
        raise UsageError(f"expected between 1 and 4096 devices, got {count}")
    start_on_host(count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise JaxpropError(f"jax has started with {len(devices)} host devices, so {count} can no longer be made")
    return tuple(devices[:count])


def start_on_host(count: int = 1) -> None:
    """Lets jax start on the host alone: a plan takes no accelerator from who uses it. No effect once jax runs."""
    flag = "xla_force_host_platform_device_count"
    jax.config.update("jax_platforms", "cpu")
    if flag not in os.environ.get("XLA_FLAGS", ""):
        # Read when the first device is asked for.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{flag}={count}".strip()


def smaller(target: Target, chips: int) -> Target:
    """Returns as many devices of the same kind, a power of two, for a weak scaling.

    Args:
      target: what is planned for.
      chips: how many.
    """
    if target.platform == "host":
        return host(chips)
    name = target.name.rpartition(" ")[2].partition(":")[0]
    if target.platform == "gpu":
        return gpu(f"{name}:{chips}")
    a_slice = min(chips, TPUS[name].chips)
    return tpu(f"{name}:{known_shape(name, a_slice)}", chips // a_slice)

"""How long a step takes at least: operations, memory and links each at their peak. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxprop.core.datasheet import Sheet
from jaxprop.tools.plan.account import Account, Collective
from jaxprop.tools.plan.topology import A_HOST, Target

ICI, DCN, NVLINK, NETWORK = "ICI", "data-center network", "links within a host", "network between hosts"


class Estimate(NamedTuple):
    """Times of one step, in seconds, each at the peak of what bounds it.

    Args:
      compute: of products and convolutions.
      memory: of reading and writing main memory.
      links: network -> time of what is sent over it.
      low: if everything overlaps: the longest of them.
      high: if computation waits for what is sent.
      bound: what is the longest.
      mfu: model FLOPs utilization at `high` and at `low`: the model's operations over what the chips could do.
    """

    compute: float
    memory: float
    links: dict[str, float]
    low: float
    high: float
    bound: str
    mfu: tuple[float, float]


def peak_dtype(policy: str, sheet: Sheet) -> str:
    """Returns the dtype whose peak counts for a precision policy.

    A TPU multiplies float32 in bfloat16 unless `jax_default_matmul_precision` says otherwise.

    Args:
      policy: of `precision.policy`.
      sheet: of the device.

    Example:
      >>> from jaxprop.core.datasheet import sheet_of_kind
      >>> peak_dtype("float32", sheet_of_kind("TPU v4")), peak_dtype("float32", sheet_of_kind("NVIDIA A100-SXM4-40GB"))
      ('bfloat16', 'float32')
    """
    others = ("float32", "bfloat16") if policy in ("float32", "tf32") else ("bfloat16", "float16", "float32")
    wanted = (policy, *others)
    return next(dtype for dtype in wanted if dtype in sheet.tflops)


def estimate(found: Account, model_flops: float, target: Target, order: Sequence[Any], policy: str) -> Estimate | None:
    """Returns the times of a step.

        low = max(compute, memory, links),    high = max(compute, memory) + sum(links)

    Args:
      found: what one device does.
      model_flops: of the model in a step, over all devices.
      target: the devices.
      order: the devices in the order of the mesh.
      policy: of `precision.policy`.

    Returns:
      The estimate; None where nothing is known of the devices.

    Reference: Williams, Waterman, Patterson, Roofline, 2009. https://doi.org/10.1145/1498765.1498785
    """
    sheet = target.sheet
    if sheet is None or sheet.bandwidth is None:
        return None
    peak = sheet.tflops[peak_dtype(policy, sheet)] * 1e12
    compute, memory = found.flops / peak, found.moved / (sheet.bandwidth * 1e9)
    links: dict[str, float] = {}
    for one in found.collectives:
        for name, seconds in _seconds(one, target, order, sheet).items():
            links[name] = links.get(name, 0.0) + seconds
    times = {"compute": compute, "memory": memory, **links}
    low = max(times.values())
    high = max(compute, memory) + sum(links.values())
    bound = max(times, key=lambda name: times[name])
    ideal = model_flops / (target.chips * peak)
    mfu = (ideal / high, ideal / low) if low else (0.0, 0.0)
    return Estimate(compute, memory, links, low, high, bound, mfu)


def _seconds(one: Collective, target: Target, order: Sequence[Any], sheet: Sheet) -> dict[str, float]:
    """Time of a collective by network: within a slice or a host, and between them."""
    places = np.array([_slice(order[i], i, target) for i in range(len(order))])
    members = places[one.groups]  # [G, S]
    parts = max((len(set(row)) for row in members.tolist()), default=1)
    inside, across = (ICI, DCN) if target.platform == "tpu" else (NVLINK, NETWORK)
    found: dict[str, float] = {}
    within = one.devices / parts
    if within > 1 or parts == 1:
        share = (within - 1) / within / ((one.devices - 1) / one.devices) if parts > 1 else 1.0
        bandwidth = _bandwidth(one, target, order, sheet)
        if bandwidth:
            found[inside] = one.sent * share / (bandwidth * 1e9)
    if parts > 1 and sheet.network:
        # Between slices each device exchanges the part that it holds after the collective within its own.
        twice = 2 if one.kind == "all-reduce" else 1
        crossing = one.size if one.kind in ("all-to-all", "collective-permute") else one.size / within
        found[across] = crossing * twice * (parts - 1) / parts / (sheet.network * 1e9)
    return found


def _slice(device: Any, place: int, target: Target) -> int:
    if target.platform == "tpu":
        return getattr(device, "slice_index", None) or 0
    return place // A_HOST


def _bandwidth(one: Collective, target: Target, order: Sequence[Any], sheet: Sheet) -> float | None:
    """GB/s that a device sends at in a collective: on a TPU by the axes of the torus that its group lies along."""
    if sheet.link is None or target.platform != "tpu":
        return sheet.link
    generation = target.generation
    link = sheet.link / (2 * generation.axes)  # of one of two links along each axis
    coords = np.array([order[i].coords for i in one.groups[0]])  # [S, 3]
    total = 0.0
    for axis, size in enumerate(target.shape):
        spanned = len(set(coords[:, axis].tolist()))
        if spanned > 1:
            closed = spanned == size and all(extent % generation.whole == 0 for extent in _closing(target, size))
            total += 2 * link if closed else link
    return total or link


def _closing(target: Target, size: int) -> tuple[int, ...]:
    """What has to be a multiple of the generation's number for an axis to be a ring: on a 3-D torus every axis."""
    return target.shape if target.generation.axes == 3 else (size,)

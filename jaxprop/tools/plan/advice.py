"""What a plan rests on, what it cannot know, and what to change first where a step does not fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprop.config.schema.config import Config
from jaxprop.models.remat import NONE
from jaxprop.tools.plan.compiled import SHARE, Placed
from jaxprop.tools.plan.roofline import peak_dtype
from jaxprop.tools.plan.topology import A_HOST, Target


def first_change(placed: Placed, config: Config) -> str | None:
    """Returns the first thing to change where a step does not fit in a device's memory; None where it fits.

    Args:
      placed: what was found.
      config: the configuration.
    """
    if placed.fits is not False:
        return None
    mesh, held = placed.mesh, placed.held
    split = mesh.get("fsdp", 1) * mesh.get("tensor", 1)
    assert placed.capacity is not None
    # The state alone takes much of it, and is on more devices than it has to be.
    if held / split > 0.4 * placed.capacity and mesh.get("data", 1) > 1:
        return f"parallel.mesh.fsdp={mesh.get('fsdp', 1) * mesh['data']} parallel.mesh.data=1"
    if held / split > placed.capacity:
        return f"more chips: the state alone is {held / split / 2**30:.1f} GiB on each of {placed.chips}"
    if placed.remat == NONE:
        return "run.remat=full"
    parts = mesh.get("data", 1) * mesh.get("fsdp", 1)
    if config.data.batch_size % (2 * config.run.accumulate * parts) == 0:
        return f"run.accumulate={2 * config.run.accumulate}"
    if placed.remat != "full":
        return "run.remat=full"
    return "more chips, or parallel.mesh.tensor=2: one example on a device is too much"


def assumptions(target: Target, config: Config, detail: str) -> Iterator[str]:
    """Yields what the estimates rest on.

    Args:
      target: the devices.
      config: the configuration.
      detail: how much the step measures.
    """
    what = "a step that measures the norms of all layers, as most do" if detail == "rows" else "a step of full records"
    yield f"The program is {what}; prefetched batches, evaluations and checkpoints come on top."
    if config.run.per_call > 1:
        yield f"One step of a call of {config.run.per_call}; the call holds all of its batches."
    if config.health.layers and detail == "rows":
        yield "Steps of full records need more memory; --full plans one."
    if target.platform == "host":
        yield "The devices share the cores and the memory of this machine, and no times are estimated for them."
        return
    sheet = target.sheet
    assert sheet is not None
    dtype = peak_dtype(config.precision.policy, sheet)
    yield f"Peaks: {sheet.tflops[dtype]:g} TFLOP/s in {dtype}, {sheet.bandwidth:g} GB/s of memory ({sheet.source})."
    yield "It is a lower bound: nothing runs at its peak throughout, and the host's own work is not in it."
    yield (
        "Bytes moved: every operation of the program reads its operands from main memory and writes its result once; "
        "what lies in memory on the chip is free."
    )
    if config.parallel.offload_optimizer:
        yield "The optimizer's state crosses to the host and back in each step; the time of that link is not in it."
    if target.platform == "tpu":
        per = (sheet.link or 0) / (2 * target.generation.axes)
        yield (
            f"ICI: {per:g} GB/s in each direction of each link; a collective uses the axes of the torus that its group "
            "lies along, both ways where they are closed; ring algorithms; no latency."
        )
        if target.slices > 1:
            between = "is not stated, so its time is left out" if sheet.network is None else f"{sheet.network:g} GB/s"
            yield f"Between slices, the network's share of a chip: {between}."
        return
    yield (
        f"Links within a host of {A_HOST} GPUs: {sheet.link:g} GB/s in each direction"
        f"{'' if sheet.network is None else f'; between hosts {sheet.network:g} GB/s for each GPU'}; no latency."
    )
    yield f"A GPU's step can have {SHARE:.0%} of its memory, which JAX takes unless told otherwise."


def unknown(target: Target) -> Iterator[str]:
    """Yields what a plan for these devices cannot know.

    Args:
      target: the devices.
    """
    if target.platform == "gpu":
        yield (
            "XLA's compiler for NVIDIA needs a GPU. The program was split over devices of this host and compiled for "
            "them. The state's memory is the same. Fusions, and so temporaries and bytes moved, are not. Collectives "
            "are those of the partitioner; a GPU's compiler merges them, and writes sums of which each device keeps a "
            "part as a reduce-scatter, which sends half as much."
        )
        yield (
            "The host computes bfloat16 in float32, and attention with a [T, T] array where a GPU takes cuDNN's in "
            "bfloat16 and float16: activations and bytes moved are upper bounds there."
        )
        yield "Workspaces of cuBLAS, cuDNN and NCCL, and CUDA's own context, are not in the memory."

"""The adapters of a run with `lora` alone, as a safetensors file with the names of PEFT."""

from __future__ import annotations

import jax
import numpy as np

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError
from jaxprop.models.lora import is_adapter, is_trained, unmerged
from jaxprop.run.loaded import LoadedRun
from jaxprop.tools.export.format import Made
from jaxprop.tools.export.weights import metadata_of

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the names in PEFT
LOADING = """\
from safetensors import safe_open

with safe_open("adapter_model.safetensors", "numpy") as file:
    metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
scale = float(metadata["lora_alpha"]) / int(metadata["r"])
name = next(name.removesuffix(".lora_A.weight") for name in arrays if name.endswith(".lora_A.weight"))
added = scale * (arrays[f"{name}.lora_B.weight"] @ arrays[f"{name}.lora_A.weight"]).T  # [in, out]
print(name, added.shape)
"""
NOTE = (
    "These are adapters of rank {rank}: each adds alpha / rank * A B to a matrix [in, out] of the model that was "
    "adapted, {source}. As in PEFT, A is stored as [rank, in] and B as [out, rank]."
)


def make_adapters(run: LoadedRun, batch_size: int | None = None) -> Made:
    """Returns the adapters of a run, and what else it has trained, as the content of a safetensors file.

    Names are those of PEFT: `base_model.model.blocks.0.attn.qkv.lora_A.weight`, `[rank, in]`, and `lora_B`,
    `[out, rank]`. Metadata hold `r`, `lora_alpha` and `target_modules` beside what that of all weights has.

    Args:
      run: the run.
      batch_size: weights have none.

    Raises:
      UsageError: the run has no adapters.

    Reference:
      https://huggingface.co/docs/peft/developer_guides/checkpoint
    """
    from safetensors.numpy import save

    config = run.opened.config
    section = config.lora
    if section is None:
        raise UsageError(f"{run.folder.name} was trained without lora, so there are no adapters; leave --adapters out")
    if batch_size is not None:
        raise UsageError("weights have no batch size; leave --batch-size out")
    arrays: dict[str, np.ndarray] = {}
    for path, (a, b) in unmerged(run.params, section).items():
        name = PREFIX + path.removesuffix("/kernel").replace("/", ".")
        arrays[f"{name}.lora_A.weight"] = np.array(np.asarray(a).T, order="C")
        arrays[f"{name}.lora_B.weight"] = np.array(np.asarray(b).T, order="C")
    leaves = dict(zip(leaf_paths(run.params), jax.tree.leaves(run.params), strict=True))
    for path, leaf in leaves.items():
        if is_trained(path, section) and not is_adapter(path):
            arrays[PREFIX + path.replace("/", ".")] = np.array(leaf, order="C")
    metadata = metadata_of(run) | {
        "peft_type": "LORA", "r": str(section.rank), "lora_alpha": str(section.alpha),
        "target_modules": section.match,
    }  # fmt: skip
    source = "which was drawn" if config.run.init_from is None else config.run.init_from.source
    return Made(FILE, save(arrays, metadata), LOADING, {}, {}, (NOTE.format(rank=section.rank, source=source),))

"""jaxprop's own models for the workloads, and their first weights, which every library gets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxprop
from jaxprop.config.schema import model as schema
from jaxprop.core.trees import leaf_paths
from jaxprop.losses import ctc, softmax_cross_entropy
from jaxprop.models import make_model
from jaxprop.models.layers import INITS, dense
from jaxprop.models.rnn import RnnLayer
from jaxprop.train.objective import Objective
from jaxprop.types import Model, Spec
from peers.workloads import Workload, batches


class Frames(nnx.Module):
    """The built-in LSTM layers with an output a frame, for CTC; the built-in models of speech read audio."""

    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs):
        config = schema.Rnn(name="rnn", cell="lstm", width=sizes["width"])
        widths = [sizes["features"], *[sizes["width"]] * (sizes["layers"] - 1)]
        self.layers = nnx.List([RnnLayer(f"layers/{i}", n, config, rngs=rngs) for i, n in enumerate(widths)])
        self.head = dense(sizes["width"], sizes["vocabulary"], INITS["glorot_uniform"], rngs=rngs)

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        for layer in self.layers:
            x = layer(x)
        return {"logits": self.head(x), "lengths": jnp.full(x.shape[0], x.shape[1], jnp.int32)}


def section_of(workload: Workload) -> Any:
    """The section `model` of a configuration of this workload."""
    sizes = workload.sizes
    if workload.kind == "mlp":
        return schema.Mlp(name="mlp", hidden=sizes["hidden"])
    if workload.kind == "cnn":
        return schema.Cnn(
            name="cnn", channels=sizes["channels"], convs_per_block=sizes["convs"], hidden=(), batch_norm=False
        )
    if workload.kind == "resnet":
        return schema.ResNet(name="resnet", depths=sizes["depths"], widths=sizes["widths"])
    return schema.Transformer(
        name="transformer", layers=sizes["layers"], width=sizes["width"], heads=sizes["heads"], positions="learned",
        tie_embeddings=False,
    )  # fmt: skip


def model_of(workload: Workload) -> Model:
    """The built-in model of a workload."""
    if workload.kind == "lstm_ctc":
        return jaxprop.from_nnx(lambda rngs: Frames(workload.sizes, rngs))
    example = batches(workload)[0]["inputs"]
    size = {"vocabulary": workload.sizes["vocabulary"]} if workload.kind == "gpt" else {"classes": 10}
    spec = Spec({"inputs": jax.ShapeDtypeStruct(example.shape[1:], example.dtype)}, size)
    return make_model(section_of(workload), spec)


def objective_of(workload: Workload) -> Objective:
    """The model with its loss, as the train step takes it."""
    return jaxprop.loss_from(model_of(workload), ctc if workload.kind == "lstm_ctc" else softmax_cross_entropy)


def batches_of(workload: Workload) -> list[dict[str, np.ndarray]]:
    """The batches, with what jaxprop's losses want to know besides."""
    made = batches(workload)
    if workload.kind == "lstm_ctc":
        made = [one | {"label_lengths": np.full(len(one["labels"]), one["labels"].shape[1], np.int32)} for one in made]
    return made


def start_of(workload: Workload) -> tuple[Any, Any]:
    """First parameters and extras, from the seed 0."""
    return jax.jit(model_of(workload).init)(jax.random.key(0), batches_of(workload)[0])


def weights_of(workload: Workload) -> dict[str, np.ndarray]:
    """First parameters by path."""
    params, _ = start_of(workload)
    return dict(zip(leaf_paths(params), map(np.asarray, jax.tree.leaves(params)), strict=True))

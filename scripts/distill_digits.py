"""Trains a small network on 100 labelled digits, with a teacher and without: the table of docs/distillation.md.

    python scripts/distill_digits.py

The teacher is a convolutional network that has learned all 1,437 training digits. Takes about two minutes on two CPU
cores.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop
from jaxprop import losses, metrics
from jaxprop.config.schema.model import Cnn, Mlp
from jaxprop.data.readers.digits import open_digits
from jaxprop.models import make_model
from jaxprop.types import Spec

SPEC = Spec({"inputs": jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)}, {"classes": 10})
LABELLED, BATCH, SEEDS = 100, 50, 3
SETTINGS = ((None, None), (0.5, 2.0), (0.9, 2.0), (0.9, 4.0), (0.9, 8.0))  # weight and temperature


def digits(split: str, count: int | None = None) -> dict[str, np.ndarray]:
    """The first images of a split, all by default."""
    source = open_digits()[split]
    return dict(source.take(np.arange(count or source.length)))


def trained(
    model: jaxprop.Model, data: dict[str, np.ndarray], *, steps: int, seed: int, teacher: jaxprop.Teacher | None = None
) -> tuple[Any, Any, dict[str, float]]:
    """Parameters and extras after some steps of Adam, and their figures on the test digits."""
    objective = jaxprop.loss_from(model, losses.softmax_cross_entropy, {"accuracy": metrics.accuracy}, teacher=teacher)
    step = jaxprop.make_train_step(objective, optax.adam(1e-3), health=False)
    evaluate = jaxprop.make_eval_step(objective)
    params, extras = model.init(jax.random.key(seed), data)
    state = step.init(params, key=jax.random.key(seed), extras=extras)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(data["labels"]), BATCH, replace=False)
        state, _ = step(state, {name: values[rows] for name, values in data.items()})
    figures = evaluate.finish([evaluate(state.params, state.extras, digits("test"))])
    return state.params, state.extras, figures


def settings(
    steps: int = 2000, teacher_steps: int = 600
) -> dict[tuple[float | None, float | None], list[dict[str, float]]]:
    """Figures of every seed, by the weight and the temperature of the teacher; None without one."""
    large, small = make_model(Cnn(name="cnn"), SPEC), make_model(Mlp(name="mlp", hidden=(64,)), SPEC)
    params, extras, figures = trained(large, digits("train"), steps=teacher_steps, seed=0)
    print(f"teacher: test loss {figures['loss']:.3f}, accuracy {figures['accuracy']:.3f}")
    params, extras = jax.device_get((params, extras))
    few, found = digits("train", LABELLED), {}
    for weight, temperature in SETTINGS:
        told = None
        if weight is not None and temperature is not None:
            told = jaxprop.Teacher(large, params, extras, temperature=temperature, weight=weight)
        found[weight, temperature] = [trained(small, few, steps=steps, seed=i, teacher=told)[2] for i in range(SEEDS)]
    return found


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    print("| `weight` | `temperature` | test loss of three seeds | mean | mean accuracy |\n|---|---|---|---:|---:|")
    for (weight, temperature), rows in settings().items():
        losses_of = ", ".join(f"{row['loss']:.3f}" for row in rows)
        mean, accuracy = (np.mean([row[name] for row in rows]) for name in ("loss", "accuracy"))
        named = "no teacher | " if weight is None else f"{weight} | {temperature}"
        print(f"| {named} | {losses_of} | {mean:.3f} | {accuracy:.3f} |")


if __name__ == "__main__":
    main()

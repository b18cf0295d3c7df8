"""A model of Flax Linen with dropout, trained by `jaxprop.fit`: python docs/examples/linen_model.py"""

import jax
import optax
from flax import linen as nn

import jaxprop
from jaxprop import data, losses, metrics
from jaxprop.config.schema.data import Digits


class Net(nn.Module):
    """Two dense layers with dropout, for images of any shape."""

    @nn.compact
    def __call__(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        x = nn.relu(nn.Dense(128)(images.reshape(len(images), -1)))
        x = nn.Dropout(0.2, deterministic=deterministic)(x)
        return nn.Dense(10)(x)


def main(run: str = "runs/linen_model", steps: int = 200) -> jaxprop.Fitted:
    """Trains on the handwritten digits, and stops the run before it breaks."""
    sources = data.open_sources(Digits(name="digits", validation=0.1), "classify")
    objective = jaxprop.loss_from(
        jaxprop.from_linen(Net()), losses.softmax_cross_entropy, {"accuracy": metrics.accuracy}
    )
    batches = data.Stream(sources["train"], batch_size=64, seed=0)
    return jaxprop.fit(
        objective, optax.adamw(1e-3), batches, run=run, steps=steps, evaluate=sources["validation"], batch_size=128,
        health={"on_alert": ["clip", "rollback", "stop"]},
    )  # fmt: skip


if __name__ == "__main__":
    print(main().metrics)

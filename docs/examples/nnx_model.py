"""A model of Flax NNX, trained by `jaxprop.fit`: python docs/examples/nnx_model.py"""

import jax
import optax
from flax import nnx

import jaxprop
from jaxprop import data, losses, metrics
from jaxprop.config.schema.data import Digits


class Net(nnx.Module):
    """Two convolutions and a dense layer, for images `[B, 8, 8, 1]`."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 32, 10, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.first(images))
        x = nnx.relu(self.norm(self.second(x)))
        return self.head(x.reshape(len(x), -1))


def main(run: str = "runs/nnx_model", steps: int = 200) -> jaxprop.Fitted:
    """Trains on the handwritten digits."""
    sources = data.open_sources(Digits(name="digits", validation=0.1), "classify")
    objective = jaxprop.loss_from(jaxprop.from_nnx(Net), losses.softmax_cross_entropy, {"accuracy": metrics.accuracy})
    batches = data.Stream(sources["train"], batch_size=64, seed=0)
    return jaxprop.fit(
        objective, optax.adamw(1e-3), batches, run=run, steps=steps, evaluate=sources["validation"], batch_size=128
    )


if __name__ == "__main__":
    print(main().metrics)

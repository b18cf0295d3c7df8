"""A model of Equinox, trained by `jaxprop.fit`: python docs/examples/equinox_model.py"""

import equinox as eqx
import jax
import optax

import jaxprop
from jaxprop import data, losses, metrics
from jaxprop.config.schema.data import Digits


class Net(eqx.Module):
    """A multi-layer perceptron for one image, as Equinox writes models."""

    layers: eqx.nn.MLP

    def __init__(self, key: jax.Array):
        self.layers = eqx.nn.MLP(64, 10, width_size=128, depth=2, key=key)

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.layers(image.reshape(-1))


def main(run: str = "runs/equinox_model", steps: int = 200) -> jaxprop.Fitted:
    """Trains on the handwritten digits with a moving average of the parameters."""
    sources = data.open_sources(Digits(name="digits", validation=0.1), "classify")
    objective = jaxprop.loss_from(
        jaxprop.from_equinox(Net), losses.softmax_cross_entropy, {"accuracy": metrics.accuracy}
    )
    batches = data.Stream(sources["train"], batch_size=64, seed=0)
    return jaxprop.fit(
        objective, optax.adamw(1e-3), batches, run=run, steps=steps, evaluate=sources["validation"], batch_size=128,
        ema_decay=0.99,
    )  # fmt: skip


if __name__ == "__main__":
    print(main().metrics)

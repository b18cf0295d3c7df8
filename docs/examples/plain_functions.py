"""A loss function of plain JAX, trained by `jaxprop.fit`: python docs/examples/plain_functions.py"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop


def loss_fn(params, batch, key):
    """Mean squared error of a small network, and the mean absolute error to report."""
    hidden = jnp.tanh(batch["x"] @ params["hidden"]["w"] + params["hidden"]["b"])
    error = (hidden @ params["head"]["w"])[:, 0] - batch["y"]
    return jnp.mean(error**2), {"absolute_error": jnp.mean(jnp.abs(error))}


def batches(seed: int, size: int = 64):
    """Yields noisy points of a sine for as long as they are asked for."""
    rng = np.random.default_rng(seed)
    while True:
        x = rng.uniform(-3, 3, (size, 1)).astype(np.float32)
        yield {"x": x, "y": np.sin(x[:, 0]) + 0.1 * rng.normal(size=size).astype(np.float32)}


def main(run: str = "runs/plain_functions", steps: int = 400) -> jaxprop.Fitted:
    """Trains on a generator; a resume draws the batches that were used again, in the order of the seed."""
    rng = np.random.default_rng(0)
    params = {
        "hidden": {"w": jnp.asarray(rng.normal(size=(1, 64)), jnp.float32), "b": jnp.zeros(64)},
        "head": {"w": jnp.asarray(rng.normal(size=(64, 1)) / 8, jnp.float32)},
    }
    held_out = [batch for _, batch in zip(range(4), batches(seed=1), strict=False)]
    schedule = optax.cosine_decay_schedule(1e-2, steps)
    return jaxprop.fit(
        loss_fn, optax.adam(schedule), batches(seed=0), params=params, run=run, steps=steps, evaluate=held_out,
        eval_every=100, schedule=schedule,
    )  # fmt: skip


if __name__ == "__main__":
    print(jax.tree.map(float, dict(main().metrics)))

"""An own loop over a Grain iterator with the train step and the watch: python docs/examples/grain_loop.py"""

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop


def loss_fn(params, batch, key):
    """Softmax cross-entropy of a linear classifier."""
    logits = batch["x"] @ params["w"] + params["b"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def dataset(size: int = 1024) -> grain.MapDataset:
    """Three clouds of points."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, size)
    x = (rng.normal(size=(size, 2)) + np.array([[0, 0], [3, 0], [0, 3]])[y]).astype(np.float32)
    return grain.MapDataset.source([{"x": x[i], "y": np.int32(y[i])} for i in range(size)])


def main(steps: int = 100) -> float:
    """Trains, and prints what the watch has to say; returns the last loss."""
    batches = iter(dataset().shuffle(seed=0).repeat().batch(64).to_iter_dataset())
    step = jaxprop.make_train_step(loss_fn, optax.adamw(1e-1))
    state = step.init({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}, key=jax.random.key(0))
    watch = jaxprop.health.Watch()
    for i in range(1, steps + 1):
        state, m = step(state, next(batches))
        for alert in watch.update(i, m):
            print(alert.message)
    print(f"saved with a checkpoint, {batches.get_state()} goes on with the exact next batch")
    return float(m.loss)


if __name__ == "__main__":
    print(main())

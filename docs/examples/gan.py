"""A GAN: two networks, two train steps, each with its own records: python docs/examples/gan.py"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprop


def init(rng: np.random.Generator, sizes: tuple[int, ...]) -> dict:
    """Parameters of a multi-layer perceptron."""
    pairs = enumerate(itertools.pairwise(sizes))
    return {f"dense_{i}": jnp.asarray(rng.normal(0, (2 / n) ** 0.5, (n, m)), jnp.float32) for i, (n, m) in pairs}


def mlp(params: dict, x: jax.Array) -> jax.Array:
    """Applies it, with leaky ReLU between the layers."""
    for i in range(len(params)):
        x = x @ params[f"dense_{i}"]
        x = jax.nn.leaky_relu(x, 0.2) if i < len(params) - 1 else x
    return x


def discriminator_loss(params, batch, key):
    """Tells real points from generated ones."""
    fake = mlp(batch["generator"], jax.random.normal(key, (len(batch["real"]), 4)))
    real, fake = mlp(params, batch["real"])[:, 0], mlp(params, fake)[:, 0]
    return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))


def generator_loss(params, batch, key):
    """Makes points that the discriminator takes for real."""
    fake = mlp(params, jax.random.normal(key, (batch["size"].shape[0], 4)))
    return jnp.mean(jax.nn.softplus(-mlp(batch["discriminator"], fake)[:, 0]))


def main(steps: int = 300) -> float:
    """Trains both in turn on points of a ring; returns the mean radius of generated points, 1 if they lie on it."""
    rng = np.random.default_rng(0)
    first = jaxprop.make_train_step(discriminator_loss, optax.adam(2e-3, b1=0.5))
    second = jaxprop.make_train_step(generator_loss, optax.adam(1e-3, b1=0.5))
    d = first.init(init(rng, (2, 64, 64, 1)), key=jax.random.key(0))
    g = second.init(init(rng, (4, 64, 64, 2)), key=jax.random.key(1))
    for _ in range(steps):
        angle = rng.uniform(0, 2 * np.pi, 128)
        real = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
        d, m_d = first(d, {"real": real, "generator": g.params})
        g, m_g = second(g, {"size": np.zeros(128, np.float32), "discriminator": d.params})
    print(float(m_d.loss), float(m_g.loss), dict(zip(second.layer_names, m_g.layers.grad_norm.tolist(), strict=True)))
    points = mlp(g.params, jax.random.normal(jax.random.key(2), (512, 4)))
    return float(jnp.mean(jnp.linalg.norm(points, axis=1)))


if __name__ == "__main__":
    print(main())

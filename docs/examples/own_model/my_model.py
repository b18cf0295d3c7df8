"""A residual network for small images in Flax NNX, and a metric of its own: the model of my_model.yaml."""

import jax
import jax.numpy as jnp
from flax import nnx


class Block(nnx.Module):
    """x + conv(relu(norm(x)))."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.conv = nnx.Conv(width, width, (3, 3), rngs=rngs)

    def __call__(self, x):
        return x + self.conv(jax.nn.relu(self.norm(x)))


class Net(nnx.Module):
    """`width`, `blocks` and `dropout` come from the YAML; jaxprop gives `input_shape`, `classes` and `rngs` by name."""

    def __init__(self, width: int = 32, blocks: int = 2, dropout: float = 0.0, *, input_shape, classes, rngs):
        self.stem = nnx.Conv(input_shape[-1], width, (3, 3), rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(blocks)])
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.head = nnx.Linear(width * input_shape[0] * input_shape[1] // 4, classes, rngs=rngs)

    def __call__(self, inputs):  # [B, H, W, C]
        x = self.stem(inputs)
        for block in self.blocks:
            x = block(x)
        x = nnx.max_pool(x, (2, 2), (2, 2))
        return self.head(self.dropout(x.reshape(len(x), -1)))  # logits [B, classes]


def top_k(outputs, batch, k: int = 2):
    """The number of examples whose class is among the k likeliest, and the number of examples."""
    _, likeliest = jax.lax.top_k(outputs, k)
    found = (likeliest == batch["labels"][:, None]).any(-1)
    return jnp.where(found, batch["weight"], 0).sum(), batch["weight"].sum()

"""A torch `DataLoader` as the batches of `jaxprop.fit`: python docs/examples/torch_loader.py"""

import jax.numpy as jnp
import optax
import torch
from torch.utils.data import DataLoader, TensorDataset

import jaxprop


def loss_fn(params, batch, key):
    """Softmax cross-entropy of a small network; the loader gives a list of inputs and labels."""
    x, y = batch
    logits = jnp.tanh(x @ params["hidden"] + params["bias"]) @ params["head"]
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return loss, {"accuracy": jnp.mean(logits.argmax(-1) == y)}


def loader(seed: int, size: int = 512) -> DataLoader:
    """Points in two rings; the order is seeded, so that a resumed run draws the same batches again."""
    made = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (size,), generator=made)
    x = torch.randn(size, 2, generator=made)
    x = x / x.norm(dim=1, keepdim=True) * (1.0 + y[:, None]) + 0.1 * torch.randn(size, 2, generator=made)
    return DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, generator=torch.Generator().manual_seed(seed))


def main(run: str = "runs/torch_loader", steps: int = 200) -> jaxprop.Fitted:
    """Trains on one loader and evaluates on another."""
    made = torch.Generator().manual_seed(2)
    params = {
        "hidden": jnp.asarray(torch.randn(2, 32, generator=made).numpy()),
        "bias": jnp.asarray(torch.randn(32, generator=made).numpy()),
        "head": jnp.asarray(torch.randn(32, 2, generator=made).numpy() / 6),
    }
    return jaxprop.fit(
        loss_fn, optax.adam(1e-2), loader(0), params=params, run=run, steps=steps, evaluate=loader(1), eval_every=50
    )


if __name__ == "__main__":
    print(main().metrics)

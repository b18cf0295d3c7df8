"""Averages of the parameters over a run's updates, which evaluations use in place of the newest ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprop.core.precision import wide
from jaxprop.errors import UsageError, one_of
from jaxprop.types import Average, PyTree, TrainState


class Ema(NamedTuple):
    """An exponential moving average, `a <- d a + (1 - d) x` with `d = min(decay, (1 + t) / (10 + t))` after t updates.

    The warm-up lets the average follow while the parameters still move fast: otherwise it would stay near the first
    weights for `1 / (1 - decay)` updates.

    Args:
      decay: above 0 and below 1; the average stands for about the last `1 / (1 - decay)` updates.

    Example:
      >>> ema = Ema(0.9)
      >>> ema.name, round(float(ema.share(jnp.float32(1000))), 3)
      ('ema_0.9', 0.1)
    """

    decay: float

    @property
    def name(self) -> str:
        """How the average is called in records and on the command line."""
        return f"ema_{self.decay:g}"

    def share(self, before: jax.Array) -> jax.Array:
        """The share of the parameters that an update leaves, by the number of updates before it; float32 scalars."""
        return 1 - jnp.minimum(jnp.float32(self.decay), (1 + before) / (10 + before))


class Swa(NamedTuple):
    """Stochastic weight averaging: the mean of the parameters after every `every`-th update from `start` on.

        a_n = a_{n-1} + (x - a_{n-1}) / n

    Before `start` it is the newest parameters.

    Args:
      start: number of the first update in the mean, counted from 1.
      every: updates between two of the mean.

    Example:
      >>> swa = Swa(start=4, every=2)
      >>> [round(float(swa.share(jnp.float32(n - 1))), 2) for n in (3, 4, 5, 6, 7, 8)]
      [1.0, 1.0, 0.0, 0.5, 0.0, 0.33]

    Reference:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018.
      https://arxiv.org/abs/1803.05407
    """

    start: int
    every: int = 1

    @property
    def name(self) -> str:
        """How the average is called in records and on the command line."""
        return "swa"

    def share(self, before: jax.Array) -> jax.Array:
        """The share of the parameters that an update leaves, by the number of updates before it; float32 scalars."""
        past = before + 1 - self.start
        sampled = jnp.where(past % self.every == 0, 1 / (past // self.every + 1), jnp.float32(0))
        return jnp.where(past < 0, jnp.float32(1), sampled)


Averaging = Ema | Swa


def averagings(ema_decay: float | Sequence[float] | None, swa: Swa | None = None) -> tuple[Averaging, ...]:
    """Returns the averages that a step keeps.

    Args:
      ema_decay: the decay of a moving average, those of several, or None.
      swa: the mean of parameters, or None.

    Example:
      >>> [one.name for one in averagings([0.9, 0.99], Swa(100))]
      ['ema_0.9', 'ema_0.99', 'swa']
    """
    decays = ema_decay if isinstance(ema_decay, Sequence) else () if ema_decay is None else (ema_decay,)
    return (*map(Ema, decays), *(() if swa is None else (swa,)))


def options_of(averagings: Sequence[Averaging]) -> dict[str, Any]:
    """Returns the arguments `ema_decay` and `swa` that averages come from."""
    decays = tuple(one.decay for one in averagings if isinstance(one, Ema))
    return {"ema_decay": decays, "swa": next((one for one in averagings if isinstance(one, Swa)), None)}


def follow(
    averagings: Sequence[Averaging],
    ema: Average | tuple[Average, ...],
    params: PyTree,
    extras: PyTree,
    count: jax.Array,
    updated: jax.Array,
) -> Average | tuple[Average, ...]:
    """Returns the averages after an update.

    Args:
      averagings: which they are.
      ema: the averages before, as the state holds them.
      params: the trained parameters that the update leaves.
      extras: what the model carries besides, after the step.
      count: number of updates before this one, int32 scalar.
      updated: whether the step is an update, boolean scalar; `optax.MultiSteps` makes one in every k-th step.
    """
    if not averagings:
        return ema
    new, before = Average(averaged(params), averaged(extras)), count.astype(jnp.float32)
    return held(
        [
            _moved(old, new, jnp.where(updated, how.share(before), jnp.float32(0)), isinstance(how, Swa))
            for how, old in zip(averagings, kept(ema), strict=True)
        ]
    )


def _moved(old: Average, new: Average, share: jax.Array, exact: bool) -> Average:
    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        moved = old + share.astype(old.dtype) * (new.astype(old.dtype) - old)
        # What is the newest parameters is that to the bit: the difference to the old ones may have been rounded.
        return jnp.where(share == 1, new.astype(old.dtype), moved) if exact else moved

    return jax.tree.map(average, old, new)


def averaged(tree: PyTree) -> PyTree:
    """Returns the floats of a tree in the dtype that they are averaged in, float32 or wider; None for other leaves.

    In bfloat16 `d ema + (1 - d) w` would round back to `ema`.

    Example:
      >>> averaged({"mean": jnp.ones(1, jnp.bfloat16), "count": jnp.int32(3)})["mean"].dtype.name
      'float32'
    """

    def floats(x: jax.Array) -> jax.Array | None:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return None
        info = jnp.finfo(x.dtype)
        # Else XLA may average what an update of 16-bit parameters was before it was rounded.
        return wide(jax.lax.reduce_precision(x, info.nexp, info.nmant) if info.bits < 32 else x)

    return jax.tree.map(floats, tree)


def kept(ema: Average | tuple[Average, ...]) -> tuple[Average, ...]:
    """Returns the averages that a state's `ema` holds, in the order of `averagings`."""
    return (ema,) if isinstance(ema, Average) else ema


def held(averages: Sequence[Average]) -> Average | tuple[Average, ...]:
    """Returns averages as a state's `ema` holds them: a single one by itself."""
    return averages[0] if len(averages) == 1 else tuple(averages)


def chosen(averagings: Sequence[Averaging], state: TrainState, name: str | None) -> TrainState:
    """Returns the state with one of its averages alone, which evaluations then use.

    Args:
      averagings: that the state keeps.
      state: of a step.
      name: of the average; None leaves the state as it is.

    Raises:
      UsageError: no average has that name.
    """
    names = [one.name for one in averagings]
    if name is None:
        return state
    if name not in names:
        raise UsageError(one_of(name, names, "average") if names else f"no average is kept, so there is no {name!r}")
    return state._replace(ema=kept(state.ema)[names.index(name)])

"""Constants of a model's forward pass that depend on its width, for rates that hold at every width. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax

from jaxprop.config.schema import model as schema


class Multipliers(NamedTuple):
    """Factors in the forward pass; 1 where nothing is scaled.

    Args:
      attention: of the logits of attention, beside their 1/sqrt(D).
      logits: of the logits that a tied embedding gives.
    """

    attention: float = 1.0
    logits: float = 1.0


_USUAL = Multipliers()
_BUILT_WITH: ContextVar[Multipliers] = ContextVar("multipliers", default=_USUAL)


def multipliers(section: schema.ModelSection, base: schema.ModelSection | None) -> Multipliers:
    """Returns the factors of a built-in model of some width.

        attention: sqrt(D_base / D), so that logits have q k^T / D in all;   logits: width_base / width

    Args:
      section: the model.
      base: the model of the width at which it is as usual; None where no factor is wanted.

    Example:
      >>> sections = [schema.Transformer(name="transformer", width=width) for width in (256, 64)]
      >>> multipliers(*sections)
      Multipliers(attention=0.5, logits=0.25)

    Reference:
      Yang et al., Tensor Programs V, 2022, definition 4.1 and table 8. https://arxiv.org/abs/2203.03466
    """
    if base is None or not isinstance(section, schema.Blocks | schema.Conformer):
        return Multipliers()
    assert isinstance(base, schema.Blocks | schema.Conformer)
    attention = (base.width / base.heads * section.heads / section.width) ** 0.5
    return Multipliers(attention, base.width / section.width)


@contextlib.contextmanager
def built_with(factors: Multipliers) -> Iterator[None]:
    """Has the modules that are built inside take these factors.

    Example:
      >>> with built_with(Multipliers(logits=0.5)):
      ...     current().logits
      0.5
    """
    token = _BUILT_WITH.set(factors)
    try:
        yield
    finally:
        _BUILT_WITH.reset(token)


def current() -> Multipliers:
    """Returns the factors that a module which is being built takes.

    Example:
      >>> current()
      Multipliers(attention=1.0, logits=1.0)
    """
    return _BUILT_WITH.get()


def times(x: jax.Array, factor: float) -> jax.Array:
    """Returns `x` times a factor, in its dtype; by 1 nothing is computed.

    Example:
      >>> times(jax.numpy.ones(2), 0.5).tolist()
      [0.5, 0.5]
    """
    return x if factor == 1.0 else x * jax.numpy.asarray(factor, x.dtype)

"""The maximal update parametrization: rates and initial values that hold at every width. Pure.

Of each parameter, every axis grows with the width or does not, and is one that the model sums over or one that it
spreads along. With r_in and r_out, the products of the ratios of these axes to those of a base model, the initial
values and the rates of the base model are multiplied by

    parameter                  standard deviation    rate, Adam    rate, SGD
    r_in = 1                   1                     1             r_out
    both other than 1          1 / sqrt(r_in)        1 / r_in      r_out / r_in
    r_out = 1                  1 / r_in              1 / r_in      1 / r_in

so that a step changes what every layer gives by as much as at the base width.

Reference:
  Yang et al., Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer, 2022, table 3.
  https://arxiv.org/abs/2203.03466
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from jaxprop.core.jaxprs.roles import Axes
from jaxprop.errors import ConfigError

Shape = tuple[int, ...]


class Growth(NamedTuple):
    """How much larger a parameter is than that of the base model.

    Args:
      summed: ratio of the axes that the model sums over, r_in.
      spread: ratio of the others, r_out.
    """

    summed: float
    spread: float


def growths(
    paths: Sequence[str], shapes: Sequence[Shape], base: Sequence[Shape], axes: Sequence[Axes], *, tied: bool
) -> list[Growth]:
    """Returns how much each parameter grows from the base model to the model.

    Args:
      paths: of the parameters.
      shapes: of the model's.
      base: of the base model's.
      axes: how the model uses each.
      tied: whether the model itself scales the logits of a table that is looked up and is the output layer, too.

    Raises:
      ConfigError: a parameter of the one has no counterpart in the other, or is used both ways along one axis.

    Example:
      >>> growths(["head/kernel"], [(512, 10)], [(64, 10)], [Axes(frozenset({0}), frozenset({1}))], tied=False)
      [Growth(summed=8.0, spread=1.0)]
    """
    found = []
    for path, shape, before, used in zip(paths, shapes, base, axes, strict=True):
        if len(shape) != len(before):
            raise ConfigError(f"optimizer.base: {path} has {len(shape)} axes, and {len(before)} in the base model")
        ratios = [new / old for new, old in zip(shape, before, strict=True)]
        grown = {axis for axis, ratio in enumerate(ratios) if ratio != 1}
        summed, both = used.summed & grown, used.summed & used.spread & grown
        if both and not (tied and len(grown) == 1):
            raise ConfigError(
                f"optimizer.parametrization: {path} is used along axis {min(both)} both as a table that is looked up "
                "and as an output layer, or in some such two ways, for which mup has no one rate; give each its own "
                "parameter, such as model.tie_embeddings=false"
            )
        found.append(Growth(_product(ratios, summed - both), _product(ratios, grown - summed | both)))
    return found


def _product(ratios: Sequence[float], axes: Iterable[int]) -> float:
    return math.prod((ratios[axis] for axis in axes), start=1.0)


def rate_factor(growth: Growth, *, adam: bool) -> float:
    """Returns what multiplies the learning rate of a parameter.

    Args:
      growth: of the parameter.
      adam: whether updates keep their size where gradients are scaled; else they are proportional to them, as SGD's.

    Example:
      >>> hidden = Growth(summed=8.0, spread=8.0)
      >>> rate_factor(hidden, adam=True), rate_factor(hidden, adam=False)
      (0.125, 1.0)
    """
    return (1.0 if adam else growth.spread) / growth.summed


def muon_factor(growth: Growth, scale: Callable[[float, float], Any], fans: tuple[float, float]) -> float:
    """Returns what multiplies the rate of a matrix whose update is orthogonalized, so that its norm is as large as any.

    The norm of an update, as that of a matrix that maps vectors of size 1 an entry to others, is to grow with
    sqrt(fan_out / fan_in), of which an optimizer's own scale has a part.

    Args:
      growth: of the parameter.
      scale: `(fan_in, fan_out) ->` what the optimizer multiplies orthogonal updates by.
      fans: numbers of inputs and of outputs.

    Example:
      >>> muon_factor(Growth(4.0, 4.0), lambda fan_in, fan_out: max(1, fan_out / fan_in) ** 0.5, (256, 256))
      1.0

    Reference:
      Yang, Simon and Bernstein, A spectral condition for feature learning, 2023. https://arxiv.org/abs/2310.17813
    """
    fan_in, fan_out = fans
    before = scale(fan_in / growth.summed, fan_out / growth.spread)
    return float((growth.spread / growth.summed) ** 0.5 * before / scale(fan_in, fan_out))


def init_factor(growth: Growth) -> float:
    """Returns the ratio of the standard deviation of a parameter's initial values to that in the base model.

    Example:
      >>> init_factor(Growth(4.0, 4.0)), init_factor(Growth(4.0, 1.0)), init_factor(Growth(1.0, 4.0))
      (0.5, 0.25, 1.0)
    """
    return growth.summed**-0.5 if growth.spread != 1 else 1 / growth.summed

"""The optimizers that a configuration names and whose function in optax has no `learning_rate`. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optax
import optax.contrib

from jaxprop.types import Schedule


def polyak_sgd(learning_rate: float, **arguments: Any) -> optax.GradientTransformationExtraArgs:
    """Returns SGD with the Polyak step size.

    Args:
      learning_rate: the largest step size.
      **arguments: of `optax.polyak_sgd`.

    Reference:
      Loizou et al., Stochastic Polyak Step-size for SGD, 2021. https://arxiv.org/abs/2002.10542
    """
    return optax.polyak_sgd(max_learning_rate=learning_rate, **arguments)


def sam(
    learning_rate: float | Schedule, rho: float, momentum: float | None, nesterov: bool
) -> optax.GradientTransformationExtraArgs:
    """Returns sharpness-aware minimization: SGD with the gradient at `params + rho grad / ||grad||`.

    Args:
      learning_rate, momentum, nesterov: of SGD.
      rho: distance of the second point.

    Reference:
      Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2021.
      https://arxiv.org/abs/2010.01412
    """
    away = optax.chain(optax.contrib.normalize(), optax.sgd(rho))
    sgd = optax.sgd(learning_rate, momentum, nesterov)
    return optax.contrib.sam(sgd, away, sync_period=2, opaque_mode=True)


NAMED: dict[str, Callable[..., optax.GradientTransformationExtraArgs]] = {"polyak_sgd": polyak_sgd, "sam": sam}

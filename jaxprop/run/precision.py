"""What the section `precision` of a configuration stands for: dtypes, and the loss scale. Pure."""

from __future__ import annotations

from typing import Any

from jaxprop.core.precision import Policy, Scaling, policy


def policy_of(config: Any) -> Policy:
    """Returns the dtypes of a run, for its step and for everything that computes with its model.

    Args:
      config: a configuration, or the settings of `jaxprop.fit`.

    Example:
      >>> from jaxprop.config.schema.fit import Settings
      >>> sections = {"precision": {"policy": "bfloat16", "overrides": [{"match": "head", "dtype": "float32"}]}}
      >>> made = policy_of(Settings.model_validate(sections | {"run": {"steps": 1}}))
      >>> made.compute.__name__, made.overrides[0].match, made.stochastic
      ('bfloat16', 'head', False)
    """
    section = config.precision
    return policy(
        section.policy, params=section.params, overrides=[(one.match, one.dtype) for one in section.overrides]
    )


def scaling_of(config: Any) -> Scaling:
    """Returns the constants of the loss scale of a run.

    Example:
      >>> from jaxprop.config.schema.fit import Settings
      >>> scaling_of(Settings.model_validate({"precision": {"loss_scale": 8.0}, "run": {"steps": 1}})).initial
      8.0
    """
    return Scaling(initial=config.precision.loss_scale, growth_interval=config.precision.growth_interval)

"""The train step of a configuration: its optimizer, its signals, and what of the model is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxprop import tasks
from jaxprop.code.load import RATES, load_code
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.fit import Settings
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError
from jaxprop.health.signals.rate import Rates
from jaxprop.health.signals.settings import Signals
from jaxprop.models.edges import edges
from jaxprop.models.lora import expect_train, is_trained
from jaxprop.parallel.rules import Rule
from jaxprop.run.held import held_statistics, hold
from jaxprop.run.precision import policy_of, scaling_of
from jaxprop.train import optimizers
from jaxprop.train.averages import Swa
from jaxprop.train.compiled import TrainStep
from jaxprop.train.estimators import estimator
from jaxprop.train.make import make_train_step
from jaxprop.train.mup import Growth
from jaxprop.train.parts import FROZEN
from jaxprop.train.schedules import is_fixed
from jaxprop.train.trainable import split, trainable_mask
from jaxprop.types import PyTree
from jaxprop.untrusted.patterns import fullmatch


class Shapes(NamedTuple):
    """Shapes of a model's parameters, and of what it carries besides; how each parameter grows with the width."""

    params: PyTree
    extras: PyTree
    growths: tuple[Growth, ...] | None = None


class Made(NamedTuple):
    """A train step, and the optimizer that it applies."""

    step: TrainStep
    optimizer: optimizers.Optimizer


def step_of(
    config: Config, task: tasks.Task, shapes: Shapes, *, total_steps: int, mesh: Mesh | None, health: bool = True
) -> Made:
    """Makes the train step of a configuration.

    Args:
      config: the configuration; numbers in it may be scalar arrays, where one program is for many of them.
      task: model, loss and metrics.
      shapes: of the model.
      total_steps: steps of the run.
      mesh: the devices, or None for a single one.
      health: whether the step has its signals.

    Raises:
      JaxpropError: optimizer, model and devices do not fit together.
    """
    trainable = _trainable(config, shapes.params)
    mask = trainable_mask(trainable, shapes.params)
    trained = split(shapes.params, mask)
    grown = shapes.growths and [growth for growth, kept in zip(shapes.growths, mask, strict=True) if kept]
    at_edge = edges(None if isinstance(config.model, Custom) else config.model.name)
    optimizer = optimizers.make_optimizer(
        config.optimizer,
        steps=total_steps,
        params=trained,
        own=_own_optimizer,
        growths=grown,
        at_edge=at_edge,
    )
    scales, leaves = iter(optimizer.lr_scales), iter(optimizer.leaves)
    optimizer = optimizer._replace(
        lr_scales=tuple(next(scales) if trained else 0.0 for trained in mask),
        leaves=tuple(next(leaves) if trained else FROZEN for trained in mask),
    )
    signals = signals_of(config)._replace(eps=_eps(optimizer.eps, leaf_paths(trained)))
    rates = Rates(optimizer.schedule, optimizer.rates)
    objective = hold(task.objective, held_statistics(config, shapes.params, shapes.extras))
    step = make_train_step(
        objective, optimizer.tx, precision=policy_of(config),
        accumulate=config.run.accumulate, steps_per_call=config.run.per_call,
        health=signals if health else False, **averages_of(config, total_steps), schedule=rates, clip=optimizer.clip,
        scaling=scaling_of(config), mesh=mesh, trainable=trainable,
        rules=() if mesh is None else rules_of(config), deterministic=config.parallel.deterministic,
        offload_optimizer=config.parallel.offload_optimizer,
        gradient=estimator(config.gradient.estimator, **config.gradient.settings()),
    )  # fmt: skip
    return Made(step, optimizer)


def averages_of(config: Config | Settings, total_steps: int) -> dict[str, Any]:
    """Returns the arguments `ema_decay` and `swa` of the step.

    Args:
      config: the configuration.
      total_steps: of the run, whose last part the mean is over.
    """
    mean = config.run.swa
    swa = None if mean is None else Swa(int(mean.start * total_steps) + 1, mean.every_steps)
    return {"ema_decay": config.run.ema_decay, "swa": swa}


def _own_optimizer(where: str, section: Custom, rate: Any) -> Any:
    """What an optimizer of the user's own makes of a rate; the run has one, or a group."""
    path = tuple(int(key) if key.isdigit() else key for key in where.split("."))
    return load_code(section, path)(**({} if rate is None else dict.fromkeys(RATES, rate)))


def _trainable(config: Config, params: PyTree) -> Callable[[str], bool] | None:
    """Which parameters are trained: adapters, or those that `run.init_from.freeze` does not match; None for all."""
    patterns = config.run.init_from.freeze if config.run.init_from else ()
    paths = leaf_paths(params)
    for pattern in patterns:
        if not any(fullmatch(pattern, path) for path in paths):
            near = f"{pattern}/.*"
            whole = f"; write {near!r} for the whole layer" if any(fullmatch(near, path) for path in paths) else ""
            raise ConfigError(
                f"run.init_from.freeze: {pattern!r} matches no parameter{whole}; there are: {', '.join(paths[:8])}"
                f"{', ...' if len(paths) > 8 else ''}"
            )
    if patterns and all(any(fullmatch(pattern, path) for pattern in patterns) for path in paths):
        raise ConfigError("run.init_from.freeze: every parameter is frozen, so nothing would be trained; free some")
    section = config.lora
    if section is not None:
        expect_train(params, section)
        return lambda path: is_trained(path, section)
    return (lambda path: not any(fullmatch(pattern, path) for pattern in patterns)) if patterns else None


def _eps(found: Sequence[Any], paths: Sequence[str]) -> Any:
    """Adam's epsilon: one, or that of each parameter by its path where groups have optimizers with another one."""
    usual: Any = Signals().eps
    known = [usual if eps is None or (is_fixed(eps) and not eps) else eps for eps in found]
    one = all(eps is known[0] or (is_fixed(eps) and is_fixed(known[0]) and eps == known[0]) for eps in known)
    return known[0] if one else dict(zip(paths, known, strict=True))


def signals_of(config: Config) -> Signals:
    """Returns what a configuration asks of the step itself; how often it is asked for is the pace's.

    Args:
      config: the configuration.

    Example:
      >>> from jaxprop.config.build import build
      >>> sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
      >>> sections |= {"optimizer": {"name": "adam", "lr": 0.1}, "run": {"epochs": 1}}
      >>> made = signals_of(build(sections | {"health": {"on_alert": ["clip", "stop"]}}))
      >>> made.spikes, made.respond
      ('clip', True)
    """
    health, eps, usual = config.health, config.optimizer.arguments().get("eps"), Signals()
    responses = health.responses
    return Signals(
        taps=health.taps,
        curvature=health.curvature,
        eps=usual.eps if eps is None or (is_fixed(eps) and not eps) else eps,
        spikes=next((name for name in ("skip", "clip") if name in responses), None),
        respond=bool({"clip", "cut_lr", "rollback"} & set(responses)),
    )


def rules_of(config: Config) -> tuple[Rule, ...]:
    """Returns the rules of `parallel.rules`."""
    return tuple(Rule(rule.match, rule.spec) for rule in config.parallel.rules)

"""Checks of how a run trains: averages, growing batches, 8 bits, estimates of the gradient, adapters, a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.growth import GrowByNoise
from jaxprop.config.tasks import TASK_TABLE
from jaxprop.config.tree import Problem
from jaxprop.errors import one_of

DIFFERENTIATING = ("lbfgs", "sophia")  # optimizers that call jax.grad of the loss


def _averages(config: Config) -> Iterator[Problem]:
    names, named = config.run.averages, config.run.average
    if len(set(names)) < len(names):
        yield Problem(("run", "ema_decay"), f"expected different decays, got {', '.join(names)}")
    if named is not None and named not in names:
        known = one_of(named, names, "average") if names else "no average is kept; add run.ema_decay or run.swa"
        yield Problem(("run", "average"), known)


def _growth(config: Config) -> Iterator[Problem]:
    grown, run, path = config.run.grow_batch, config.run, ("run", "grow_batch")
    if grown is None:
        return
    if run.steps_per_call != 1:
        yield Problem(path, "a step that takes several batches is a call of its own; set run.steps_per_call: 1")
    if isinstance(grown, GrowByNoise):
        if run.accumulate < 2:
            yield Problem(path, "the noise scale is measured between microbatches; set run.accumulate to 2 or more")
        if config.health.rare_every == "auto" and config.health.every == "auto":
            what = "records of all signals, which the noise scale is in, would come at steps that time decides; set "
            yield Problem(path, f"{what}health.rare_every to a number, such as 20")
        if run.epochs is not None:
            yield Problem(path, "how many steps an epoch takes is not known beforehand; give run.steps, not run.epochs")


def _quantize(config: Config) -> Iterator[Problem]:
    if config.precision.quantize is not None and config.health.curvature:
        what = "a product in 8 bits is a step function, which has no curvature; remove this or precision.quantize"
        yield Problem(("health", "curvature"), what)


def _gradient(config: Config) -> Iterator[Problem]:
    found = config.gradient
    for key, what in found.problems():
        yield Problem(("gradient", key), what)
    where, name = ("gradient", "estimator"), found.estimator
    if name == "backprop":
        return
    if config.precision.scaled:
        what = f"{name} takes no backward pass, which float16 scales the loss for; use bfloat16"
        yield Problem(("precision", "policy" if config.precision.policy == "float16" else "overrides"), what)
    if config.health.curvature:
        what = f"an estimate by {name} changes with its directions alone, so it shows no curvature; remove this"
        yield Problem(("health", "curvature"), what)
    optimizer = "" if isinstance(config.optimizer, Custom) else config.optimizer.name
    if optimizer in DIFFERENTIATING:
        what = f"{optimizer} differentiates the loss itself; use another optimizer, such as adam, or backprop"
        yield Problem(where, what)
    if name == "forward" and config.precision.quantize is not None:
        what = "a product in 8 bits has a rule for the backward pass alone; use spsa, or remove precision.quantize"
        yield Problem(where, what)


def _lora(config: Config) -> Iterator[Problem]:
    if config.lora is None:
        return
    if config.run.init_from is not None and config.run.init_from.freeze:
        what = "lora freezes all but its adapters and what lora.train matches; remove this"
        yield Problem(("run", "init_from", "freeze"), what)
    if getattr(config.optimizer, "parametrization", "standard") != "standard":
        what = "rates by the width are for the weights themselves, which lora freezes; remove this or lora"
        yield Problem(("optimizer", "parametrization"), what)


def _teacher(config: Config) -> Iterator[Problem]:
    if config.task.teacher is None:
        return
    fitting = [name for name, entry in TASK_TABLE.items() if entry.divergence]
    if config.task.name not in fitting:
        what = f"the task {config.task.name} is not learned from a teacher, but {', '.join(fitting)} are; remove this"
        yield Problem(("task", "teacher"), what)


METHODS: tuple[Callable[[Config], Iterator[Problem]], ...] = (_averages, _growth, _quantize, _gradient, _lora, _teacher)

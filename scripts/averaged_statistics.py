"""Averages of parameters with averaged statistics of batch normalization, against statistics that are computed again.

    python scripts/averaged_statistics.py [--configs digits_cnn digits_resnet] [--seeds 3] [OVERRIDE ...]

Each config is trained with a constant rate. Printed is the test loss of every average, once with the statistics that
were averaged beside it and once with those of its own activations: the mean of the running statistics over `--batches`
training batches, after as many again have let them forget where they began.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.config.load import load
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.run.experiment import Experiment
from jaxprop.types import TrainState

KEYS = ("optimizer.schedule={name: constant}", "run.ema_decay=[0.9, 0.99]", "run.swa.start=0.75")


def trained(config: str, seed: int, overrides: Sequence[str]) -> tuple[Experiment, TrainState]:
    """Returns a run's parts and its last state."""
    experiment = compose(load(config, [*KEYS, f"run.seed={seed}", *overrides]).config, health=False)
    state = experiment.init(seed)
    for batch in itertools.islice(experiment.stream, experiment.total_steps):
        state, _ = experiment.step(state, batch)
    return experiment, state


def computed_again(experiment: Experiment, params: Any, extras: Any, batches: Sequence[Any]) -> Any:
    """Returns the statistics that batches of training have with these parameters."""
    model = experiment.task.model
    assert model is not None
    apply = jax.jit(lambda extras, batch: model.apply(params, extras, batch, key=jax.random.key(0), train=True)[1])
    for batch in batches:
        extras = apply(extras, batch)
    seen = []
    for batch in batches:
        extras = apply(extras, batch)
        seen.append(extras)
    return jax.tree.map(lambda last, *all_: jnp.mean(jnp.stack(all_), 0) if last.dtype == jnp.float32 else last,
                        extras, *seen)  # fmt: skip


def losses(experiment: Experiment, state: TrainState, average: str, batches: Sequence[Any]) -> Iterator[float]:
    """Yields the test loss of an average with averaged statistics, and with those that are computed again."""
    picked = experiment.step.picked(state, average)
    params, extras = experiment.step.eval_params(picked), experiment.step.eval_extras(picked)
    for statistics in (extras, computed_again(experiment, params, extras, batches)):
        held = state._replace(params=params, extras=statistics, ema=())
        found = evaluate(experiment, held, source=experiment.sources["test"])
        assert found is not None  # nothing asks it to stop
        yield found["loss"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["digits_cnn", "digits_resnet"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    print(f"{'config':16}{'seed':>5}  {'average':10}{'averaged':>10}{'again':>10}")
    for config, seed in itertools.product(asked.configs, range(asked.seeds)):
        experiment, state = trained(config, seed, asked.overrides)
        batches = list(itertools.islice(experiment.stream, asked.batches))
        for average in experiment.step.averages:
            averaged, again = losses(experiment, state, average, batches)
            print(f"{config:16}{seed:>5}  {average:10}{averaged:10.4f}{again:10.4f}", flush=True)


if __name__ == "__main__":
    main()

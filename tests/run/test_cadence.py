"""What is due when: whole calls, epochs, evaluations, checkpoints."""

import pytest

from jaxprop.config.build import build
from jaxprop.run.cadence import Rhythm, rhythm_of

SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "optimizer": {"name": "sgd", "lr": 0.1},
}


def rhythm(batches=6, test=True, total=12, checkpoint=None, **run):
    config = build(SECTIONS | {"run": {"epochs": 9, "log_every": 100} | run, "checkpoint": checkpoint or {}})
    return rhythm_of(config, total, batches, test)


@pytest.mark.parametrize(
    ("start", "total", "per_call", "sizes"),
    [
        (0, 6, 1, [1] * 6),
        (0, 7, 3, [3, 3, 1]),
        (3, 7, 3, [3, 1]),
        (7, 14, 3, [2, 3, 2]),  # made longer after a short last call: whole calls again, on the old rhythm
        (7, 8, 3, [1]),
        (7, 7, 3, []),
        (0, 2, 5, [2]),
    ],
)
def test_calls_stop_at_multiples_of_steps_per_call(start, total, per_call, sizes):
    assert list(Rhythm(per_call, total, None, None).call_sizes(start)) == sizes


@pytest.mark.parametrize(("batches", "per_call", "every"), [(6, 1, 6), (7, 2, 8), (8, 5, 10), (1, 4, 4), (5, 5, 5)])
def test_an_epoch_is_rounded_to_whole_calls(batches, per_call, every):
    assert rhythm(batches, steps_per_call=per_call).eval_every == every


@pytest.mark.parametrize(
    ("made", "evaluated", "saved"),
    [
        (rhythm(), [6, 12], [6, 12]),
        (rhythm(test=False), [], [6, 12]),
        (rhythm(total=14), [6, 12, 14], [6, 12, 14]),
        (rhythm(eval_every=4), [4, 8, 12], [4, 8, 12]),
        (rhythm(checkpoint={"every_steps": 5}), [6, 12], [5, 6, 10, 12]),
        (rhythm(test=False, checkpoint={"every_steps": 5}), [], [5, 10, 12]),
    ],
)
def test_what_is_due(made, evaluated, saved):
    steps = range(1, made.total + 1)
    assert [step for step in steps if made.evaluates(step)] == evaluated
    assert [step for step in steps if made.saves(step)] == saved

"""Which steps measure what, and settings that make no sense."""

import optax
import pytest

import jaxprop
from jaxprop.errors import UsageError
from jaxprop.health.signals.settings import Signals
from tests.steps import mean_loss

DUE = {
    (1, 1): "rows", (10, 10): "rows", (49, 49): "rows", (50, 50): "full", (51, 51): "rows", (100, 100): "flush",
    (150, 150): "full", (1, 4): "rows", (49, 52): "full", (97, 100): "flush", (101, 104): "rows", (1, 60): "full",
}  # fmt: skip


@pytest.mark.parametrize("steps", DUE, ids=str)
def test_what_a_call_measures_is_decided_by_the_steps_it_takes(steps):
    assert Signals().detail(*steps) == DUE[steps]


def test_lean_steps_lie_between_rows_and_every_call_that_holds_a_multiple_measures():
    sparse = Signals(every=5, rare_every=20)
    assert [i for i in range(1, 41) if sparse.detail(i, i) == "rows"] == [5, 10, 15, 25, 30, 35]
    assert [i for i in range(1, 41) if sparse.detail(i, i) == "full"] == [20, 40]
    assert [sparse.detail(i, i + 2) for i in range(1, 22, 3)] == [
        "lean", "rows", "lean", "rows", "rows", "lean", "full",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("health", "message"),
    [
        (Signals(every=0), "every of at least 1, got 0"),
        (Signals(rare_every=-1), "rare_every of at least 1, got -1"),
        (Signals(flush_every=0), "flush_every of at least 1"),
        (Signals(spikes="stop"), "'clip' or 'skip', got 'stop'"),
    ],
)
def test_settings_that_make_no_sense(health, message):
    with pytest.raises(UsageError, match=message):
        jaxprop.make_train_step(mean_loss, optax.sgd(0.1), health=health)

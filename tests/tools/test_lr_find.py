"""What curves of every shape suggest, and sweeps of the run's own model and optimizer."""

import math

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.errors import RunFolderError, UsageError
from jaxprop.run.compose import compose
from jaxprop.tools import lr_find
from jaxprop.tools.lr_find import Sweep, check_folder, conclude, find_rate, is_over, smooth, suggest, sweep, write
from tests.benches import merged

RATES = np.geomspace(1e-6, 10, 150)
BASE = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 32},
    "model": {"name": "mlp", "hidden": [8]},
    "optimizer": {"name": "adam", "lr": 0.1},
    "parallel": {"devices": 1},
    "run": {"epochs": 1, "ema_decay": 0.9, "accumulate": 2},
}


def noisy(losses, seed=0, size=0.05):
    return list(losses + np.random.default_rng(seed).normal(0, size, len(losses)))


def valley(lowest):
    """A loss that falls over two decades up to `lowest`, and rises after it."""
    x = np.log10(RATES) - math.log10(lowest)
    return 1.0 + 0.5 * np.clip(-x, 0, 2) + np.clip(x - 0.2, 0, None) * 4


def swept(losses):
    """What a sweep leaves of a curve: it ends where it has diverged."""
    end = next((n for n in range(1, len(losses) + 1) if is_over(losses[:n])), len(losses))
    rates, losses = RATES[:end].tolist(), losses[:end]
    return Sweep(tuple(rates), tuple(losses), tuple(smooth(losses)), suggest(rates, losses))


@pytest.mark.parametrize("lowest", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_valley_suggests_a_rate_between_its_slope_and_its_floor(lowest, seed):
    suggestion = swept(noisy(valley(lowest), seed)).suggestion
    assert 0.004 * lowest < suggestion.fastest < 0.9 * lowest
    assert 0.4 * lowest < suggestion.best < 4 * lowest
    assert suggestion.fastest < suggestion.rate < suggestion.best
    assert suggestion.diverged > lowest
    assert suggestion.slope == pytest.approx(-0.5, abs=0.25)


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_flat(seed):
    found = conclude([swept(noisy(np.full(150, 2.0), seed + k, 0.2)) for k in (0, 100)])
    assert found.suggested is None
    assert found.flat
    assert found.why.startswith("the loss is flat")


def test_a_loss_that_only_rises_has_no_suggestion_and_is_not_flat():
    found = conclude([swept(noisy(2 + 50 * RATES**0.5, seed)) for seed in (0, 1)])
    assert found.suggested is None
    assert not found.flat
    assert found.why.startswith("the loss never falls by more than its noise, and then rises")
    assert len(found.lr) < 150


def test_a_loss_that_is_not_finite_ends_a_sweep():
    for losses in ([math.nan], [2.0] * 30 + [math.inf]):
        assert is_over(losses)
        assert suggest(RATES[: len(losses)].tolist(), losses).rate is None
    falling = [*noisy(valley(0.1))[:100], math.nan]
    suggestion = suggest(RATES[:101].tolist(), falling)
    assert suggestion.rate is not None
    assert suggestion.diverged == pytest.approx(RATES[100])
    assert np.isfinite(smooth(falling)).all()


def test_a_curve_that_never_diverges_goes_to_the_end():
    found = swept(noisy(3 - np.clip(np.log10(RATES) + 4, 0, 3)))
    assert len(found.lr) == 150
    assert found.suggestion.diverged is None


def test_smoothing_lags_behind_in_neither_direction():
    x = np.arange(60.0)
    np.testing.assert_allclose(smooth(x)[15:45], x[15:45], atol=0.5)
    assert smooth([3.0])[0] == pytest.approx(3.0)


def test_the_median_of_three_and_a_minority_that_sees_nothing():
    rates = [1e-3, 1e-2, 2e-2]
    sweeps = [swept(noisy(valley(rate), seed)) for seed, rate in enumerate(rates)]
    found = conclude(sweeps)
    assert found.suggested == pytest.approx(sorted(one.suggestion.rate for one in sweeps)[1], rel=0.05)
    assert found.lr in [one.lr for one in sweeps]
    assert "3 sweeps say" in found.why
    flat = swept(noisy(np.full(150, 2.0)))
    assert conclude([sweeps[1], flat, sweeps[1]]).suggested == pytest.approx(sweeps[1].suggestion.rate, rel=0.05)
    assert conclude([sweeps[1], flat, flat]).suggested is None


def test_a_sweep_takes_the_rates_it_says_and_learns():
    found = find_rate(build(BASE), steps=60)
    growth = np.diff(np.log(found.lr))
    np.testing.assert_allclose(growth, np.log(1e7) / 59, rtol=1e-3)
    assert found.lr[0] == pytest.approx(1e-6)
    assert 1e-4 < found.suggested < 1.0
    assert not found.flat
    assert len(found.sweeps) in (2, 3)


def test_a_sweep_with_a_seed_is_the_same_again():
    experiment = compose(build(merged(BASE, {"run": {"epochs": None, "steps": 12, "ema_decay": None}})))
    first, other, again = (sweep(experiment, seed) for seed in (0, 1, 0))
    assert first == again
    assert first.loss != other.loss


def test_frozen_parameters_make_a_flat_curve():
    frozen = {"optimizer": {"name": "sgd", "lr": 0.1, "groups": [{"match": "head/kernel|layers/.*", "freeze": True}]}}
    config = build(merged(BASE, {**frozen, "model": {"init": "zeros"}}))
    found = find_rate(config, highest=1e-4, steps=60)
    assert found.suggested is None
    assert found.flat


def test_the_second_rate_of_muon_keeps_its_proportion():
    optimizer = {"name": "muon", "lr": 0.02, "adam_learning_rate": 0.002}
    found = find_rate(build(merged(BASE, {"optimizer": optimizer, "model": {"hidden": [8, 8]}})), steps=60)
    assert found.suggested is not None


def test_groups_with_an_optimizer_keep_the_rates_that_they_have():
    groups = [{"match": "head/.*", "optimizer": {"name": "adam", "lr": 0.01}}, {"match": ".*/bias", "lr_scale": 2.0}]
    optimizer = {"name": "sgd", "lr": 0.1, "schedule": {"name": "linear"}, "groups": groups}
    swept = lr_find._sweeping(build(merged(BASE, {"optimizer": optimizer})), 1e-6, 10.0, 60).optimizer
    assert (swept.lr, swept.schedule.name) == (1e-6, "exponential")
    assert (swept.groups[0].optimizer.lr, swept.groups[0].optimizer.schedule.name) == (0.01, "linear")
    assert swept.groups[1].lr_scale == 2.0


def test_an_optimizer_that_chooses_its_rate_has_none_to_find():
    with pytest.raises(UsageError, match="chooses its learning rate itself, so there is none to search for"):
        find_rate(build(merged(BASE, {"optimizer": {"name": "adafactor", "lr": None}})))


def test_a_runs_folder_is_left_alone(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match="holds the checkpoints of a run, so a sweep is not written there"):
        check_folder(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        check_folder(tmp_path / "file" / "below")


def test_what_is_written(tmp_path):
    import json

    from jaxprop.config.load import load

    found = conclude([swept([*noisy(valley(0.01))[:110], math.inf])] * 2)
    config = build(BASE)
    check_folder(tmp_path / "a" / "b")
    write(found, config, tmp_path / "a" / "b")
    held = json.loads((tmp_path / "a" / "b" / "lr_find.json").read_text())
    assert {"lr", "loss", "smoothed", "suggested", "why", "flat"} <= set(held)
    assert len(held["lr"]) == len(held["loss"]) == len(held["smoothed"])
    assert held["suggested"] == found.suggested
    assert load(tmp_path / "a" / "b" / "config.yaml").config == config

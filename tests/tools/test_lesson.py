"""Lessons: figures against plain computations, and one lesson taught from end to end."""

import json
import math

import pytest

from jaxprop.config.load import load
from jaxprop.config.locate import packaged
from jaxprop.errors import UsageError
from jaxprop.tools import lesson as lessons
from jaxprop.tools.lesson import LESSONS, Lesson, Run, teach


def run(records=(), rows=(), metrics=None, status="completed"):
    return Run({"status": status, "metrics": metrics or {}}, list(records), list(rows))


def row(step, layer, **values):
    return {"step": step, "layer": layer, **values}


# -- figures --------------------------------------------------------------------------------------


def test_first_over_last():
    rows = [row(s, f"layers/{i}", grad_norm=(10.0**i) * s) for s in (1, 2, 60) for i in range(3)]
    rows += [{"step": 1, "tap": "layers/0", "grad_rms": 1.0}, row(1, "head", grad_norm=7.0)]
    assert lessons.first_over_last(run(rows=rows)) == pytest.approx(0.01)
    assert math.isnan(lessons.first_over_last(run(rows=[row(1, "layers/0", grad_norm=None)])))


def test_largest_gradient_and_skips():
    records = [
        {"split": "train", "grad_norm": 2.0},
        {"split": "train", "grad_norm": None, "skips": 3},
        {"split": "eval"},
    ]
    assert lessons.largest_gradient(run(records)) == 2.0
    assert lessons.steps_skipped(run(records)) == 3.0
    assert lessons.steps_skipped(run(records[:1])) == 0.0


def test_update_ratio_is_of_the_first_steps():
    rows = [row(1, "a", update_ratio=0.1), row(2, "a", update_ratio=0.3), row(90, "a", update_ratio=9.0), row(3, "a")]
    assert lessons.median_update_ratio(run(rows=rows)) == pytest.approx(0.2)


def test_the_loss_that_a_run_has_settled_at():
    records = [{"split": "train", "loss": float(i)} for i in range(10)]
    assert lessons.settled_loss(run(records)) == 8.5
    assert lessons.settled_loss(run([{"split": "train", "loss": None}])) == math.inf


def test_a_run_that_has_diverged_has_no_loss():
    assert lessons.last_loss(run(metrics={"loss": 1.0})) == 1.0
    assert lessons.last_loss(run(metrics={"loss": 1.0}, status="diverged")) == math.inf
    assert lessons.last_loss(run()) == math.inf
    assert lessons.accuracy(run()) == 0.0


def test_figures_of_the_first_step_and_the_speed():
    records = [{"split": "train", "loss": 2.0, "grad_norm": 3.0}, {"split": "train", "loss": 1.0, "grad_norm": 4.0}]
    found = run(records)._replace(summary={"examples_per_second": 640.0})
    figures = (lessons.first_loss(found), lessons.first_gradient(found), lessons.speed(found))
    assert figures == (2.0, 3.0, 640.0)
    assert lessons.early_gradient(found) == pytest.approx(math.sqrt((9 + 16) / 2))
    assert lessons.first_gradient(run([{"split": "train", "grad_norm": None}])) == math.inf


def estimated(excess=1.0, share=0.1):
    """Figures of the lesson on estimators: squares of norms against theory, and the share of progress at 1e6."""
    runs = {}
    for size, (n, _) in lessons.SIZES.items():
        exact = {"first gradient norm": 2.0, "first loss": 3.0, "last training losses": 1.0}
        runs[f"{size} backprop"] = exact
        left = 3.0 - 2.0 * (share if size == "1e6" else 0.4)
        norm = 2.0 * math.sqrt(excess * (1 + n / lessons.DIRECTIONS))
        runs |= {f"{size} {name}": exact | {"early gradient norms": norm, "last training losses": left}
                 for name in lessons.ESTIMATORS}  # fmt: skip
    return runs


def test_the_claim_on_estimators_is_of_their_noise_and_of_their_progress():
    holds = LESSONS["evolution"].holds
    assert holds(estimated())
    assert holds(estimated(excess=0.5))
    assert not holds(estimated(excess=5.0))
    assert not holds(estimated(excess=0.2))
    assert not holds(estimated(share=0.3))
    assert not holds(estimated() | {"1e2 backprop": dict.fromkeys(LESSONS["evolution"].figures, 1.0)})


@pytest.mark.parametrize("size", lessons.SIZES)
def test_the_sizes_of_the_lesson_on_estimators_are_what_is_trained(size):
    count, overrides = lessons.SIZES[size]
    config = load("lessons/evolution", overrides).config
    units = config.model.hidden[0]
    head = 10 * units + 10
    assert count == (head if config.optimizer.groups else 64 * units + units + head)


# -- lessons --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LESSONS)
def test_every_lesson_has_a_config_and_variants_that_are_valid(name):
    config = packaged()[f"lessons/{name}"]
    assert f"jaxprop lesson {name}" in config.read_text()
    for overrides in LESSONS[name].variants.values():
        load(f"lessons/{name}", overrides)


def test_every_config_of_a_lesson_is_one():
    assert {name.removeprefix("lessons/") for name in packaged() if "/" in name} == set(LESSONS)


@pytest.mark.parametrize("name", LESSONS)
def test_no_claim_holds_whatever_is_found(name):
    """All variants alike: then none of the claims does."""
    figures = dict.fromkeys(LESSONS[name].figures, 1.0)
    assert not LESSONS[name].holds(dict.fromkeys(LESSONS[name].variants, figures))


@pytest.fixture
def small(monkeypatch):
    """A lesson that takes a second a run."""
    tiny = ("run.epochs=1", "run.eval_every=23", "model.hidden=[8]", "health.every=5")
    lesson = Lesson(
        "?", {"slow": (*tiny, "optimizer.lr=1e-6"), "fast": (*tiny, "optimizer.lr=0.1")},
        {"test loss": lessons.last_loss, "update ratio": lessons.median_update_ratio},
        "a claim", lambda runs: runs["fast"]["test loss"] < runs["slow"]["test loss"], "the loss",
    )  # fmt: skip
    monkeypatch.setitem(LESSONS, "rates", lesson)
    return lesson


def test_a_lesson_is_taught(small, tmp_path):
    taught = teach("rates", tmp_path, seeds=2)
    assert [path.name for path in taught.folders] == ["slow-0", "fast-0", "slow-1", "fast-1"]
    assert taught.held == [True, True]
    losses = [json.loads((path / "summary.json").read_text())["metrics"]["loss"] for path in taught.folders]
    assert [run["test loss"] for run in taught.measured["slow"]] == losses[::2]
    assert losses[0] != losses[2]  # another seed, another run
    before = (tmp_path / "slow-0" / "metrics.jsonl").stat().st_mtime_ns
    assert teach("rates", tmp_path, seeds=1).measured["slow"][0] == taught.measured["slow"][0]
    assert (tmp_path / "slow-0" / "metrics.jsonl").stat().st_mtime_ns == before


def test_bad_input(tmp_path):
    with pytest.raises(UsageError, match="unknown lesson 'rate'; did you mean 'rates'"):
        teach("rate", tmp_path)
    with pytest.raises(UsageError, match="at least one seed, got 0"):
        teach("rates", tmp_path, seeds=0)

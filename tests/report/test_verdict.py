"""What a run comes to, in words."""

import numpy as np
import pytest

from jaxprop.health.watch.advice import ADVICE as KNOWN_CAUSES
from jaxprop.health.watch.alerts import TITLES
from jaxprop.report.read import Reader
from jaxprop.report.verdict import CAUSES, ENDED, SHORT, judge, origin, short, worst_layers
from tests.report.runs import ACTION, ALERT, FINDING, LR_FIND, make_run, rows, train_records

ADVICE = ALERT | {"step": 20, "since": 20, "kind": "dead", "severity": "advice", "layer": "head", "cause": "dead_relu"}


def read(folder, **given):
    return Reader(make_run(folder / "run", **given)).read()


def test_every_kind_cause_and_status_has_its_words():
    assert set(SHORT) <= set(TITLES)
    assert set(CAUSES) == set(KNOWN_CAUSES) | {"no_warmup", "nan_batch"}  # those of earlier versions
    assert set(ENDED) >= {"completed", "stopped_early", "interrupted", "diverged", "failed"}


RECOMPILED = {"step": 3, "kind": "recompilation", "severity": "advice", "value": 1.5, "message": "compiled again"}
HEADLINES = [
    ({}, "good", "Healthy: 100 steps without an alert."),
    ({"ended": "stopped_early"}, "good", "Healthy: 100 steps without an alert (stopped early)."),
    ({"config": "health: {watch: false}"}, "open", "100 steps without the watch, since health.watch is false."),
    (
        {"metrics": [*train_records(5), {"step": 6, "split": "train", "loss": None}]},
        "watch",
        "No alert, but loss or gradient were not finite at step 6; the run completed all the same.",
    ),
    ({"ended": None}, "open", "No alert up to step 100; the run has not ended, or was killed."),
    ({"ended": "failed"}, "bad", "Failed at step 100: out of memory"),
    ({"alerts": [ADVICE]}, "watch", "Dead units in head at step 20; the run completed all the same."),
    (
        {"alerts": [ADVICE, ALERT]},
        "bad",
        "Gradient spike in layers/1/dense at step 60; the run completed all the same.",
    ),
    (
        {"alerts": [ALERT], "ended": "diverged"},
        "bad",
        "Gradient spike in layers/1/dense at step 60; the run diverged at",
    ),
    (
        {"alerts": [ALERT | {"layer": None}], "ended": "interrupted"},
        "bad",
        "Gradient spike at step 60; the run was int",
    ),
    (
        {"alerts": [RECOMPILED]},
        "watch",
        "The step was compiled again at step 3; the run completed all the same.",
    ),
    ({"alerts": [RECOMPILED, ADVICE]}, "watch", "Dead units in head at step 20; the run completed all the same."),
    ({"finding": FINDING}, "bad", "A value that is not finite, at step 60."),
]


@pytest.mark.parametrize(("given", "tone", "headline"), HEADLINES, ids=[row[2][:30] for row in HEADLINES])
def test_headline(tmp_path, given, tone, headline):
    run = read(tmp_path, **given)
    if run.status == "failed":
        run = run._replace(summary=run.summary | {"error": "out of memory"})
    verdict = judge(run)
    assert verdict.tone == tone
    assert verdict.headline.startswith(headline)


def test_a_run_that_has_learned_nothing_says_so_first(tmp_path):
    run = read(tmp_path, alerts=[ALERT])
    summary = {"metrics": {"accuracy": 0.103}, "reference": {"majority_accuracy": 0.103}}
    worse = run._replace(summary=run.summary | summary)
    assert judge(worse)[:2] == (
        "bad",
        "No better than the majority predictor: accuracy 0.103 against 0.103; the run completed all the same.",
    )
    assert judge(worse._replace(status="running")).headline.startswith("Gradient spike")
    better = run._replace(summary=run.summary | summary | {"metrics": {"accuracy": 0.9}})
    assert judge(better).headline.startswith("Gradient spike")
    dead = run._replace(summary=run.summary | {"outcome": "dead since step 31: the gradient of 3 of 4 layers is zero"})
    assert judge(dead).headline.startswith("Dead since step 31: ")
    fine = run._replace(summary=run.summary | summary | {"outcome": None})
    assert judge(fine).headline.startswith("Gradient spike"), "what the run said of itself is what the report says"
    assert judge(run._replace(summary=None)).tone == "bad"


def test_a_run_that_is_being_written(tmp_path):
    run = read(tmp_path)._replace(status="running")
    assert judge(run)[:2] == ("open", "No alert up to step 100; the run is still being written.")
    held = judge(run._replace(alerts=[ALERT]))
    assert held.headline == "Gradient spike in layers/1/dense at step 60; still being written, step 100 so far."


def test_facts(tmp_path):
    metrics = [*train_records(), {"step": 101, "split": "train", "loss": None, "skips": 3}]
    facts = judge(read(tmp_path, alerts=[ADVICE, ALERT, ACTION], metrics=metrics, finding=FINDING)).facts
    assert facts == [
        ("what", "The gradient norm is far above its own history (z-score): 12, the limit is 4.5"),
        ("when", "step 60, first sign at step 55"),
        ("where", "layers/1/dense"),
        ("why", "likely rate_too_high: the learning rate is too high"),
        ("fix", "optimizer.lr=0.01"),
        ("besides", "1 more alert, 0 of them to act on"),
        ("origin", "log in layers/1 (model.py:12), in the forward pass of step 60"),
        ("done", "step 60: learning rate x 0.5 after step 62"),
        ("skipped", "3 steps that were not finite changed nothing"),
        ("status", "completed, step 101, train loss not finite, eval loss 0.5275, eval accuracy 0.99"),
    ]


def test_many_actions_are_counted(tmp_path):
    facts = judge(read(tmp_path, alerts=[ACTION] * 9)).facts
    assert [text for name, text in facts if name == "done"][-1] == "and 3 more actions"


def test_an_alert_of_which_little_is_known(tmp_path):
    run = read(tmp_path, alerts=[{"step": None, "kind": "novelty", "value": None}])
    assert judge(run).headline == "Novelty at step 0; the run completed all the same."
    assert judge(run).facts[0] == ("what", "Novelty: not finite")


def test_a_search_for_the_rate(tmp_path):
    run = read(tmp_path, lr_find=LR_FIND)._replace(train={}, evaluation={})
    assert judge(run)[:2] == ("good", "A search for the learning rate: it suggests 0.02.")
    flat = run._replace(lr_find=run.lr_find | {"suggested": None})
    assert judge(flat)[:2] == ("watch", "A search for the learning rate, without a rate to suggest.")


def test_worst_layers_by_alert_then_not_finite_then_the_outliers(tmp_path):
    table = list(rows())
    table += [{"step": 101, "layer": "layers/2/dense", "grad_norm": None}]
    run = read(tmp_path, alerts=[ADVICE, ALERT], layers=table)
    assert worst_layers(run) == [
        ("layers/1/dense", "gradient spike at step 60"),
        ("head", "dead units at step 20"),
        ("layers/2/dense", "gradient not finite in 1 records, first at step 101"),
        ("layers/0/dense", "gradient RMS 0.0012, 3.2 times below the median layer"),
    ]
    assert worst_layers(run, 1) == worst_layers(run)[:1]


def test_layers_that_are_alike_are_not_called_worst(tmp_path):
    table = [{"step": s, "layer": f"l{i}", "grad_norm": 1.0} for s in range(9) for i in range(3)]
    assert worst_layers(read(tmp_path, layers=table)) == []


def test_layers_that_get_no_gradient_are_no_outliers_of_minus_infinity(tmp_path):
    table = [{"step": s, "layer": f"l{i}", "grad_norm": float(i)} for s in range(9) for i in range(3)]
    with np.errstate(all="raise"):
        assert len(worst_layers(read(tmp_path, layers=table))) == 2


def test_words():
    assert short("some_new_kind") == "some new kind"
    assert origin({}) == "an operation, in the forward pass"
    assert origin({"file": "m.py", "line": "x", "phase": "backward"}) == "an operation (m.py), in the backward pass"

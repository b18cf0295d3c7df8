"""The fault benchmark: its definitions on series made by hand, and one family from end to end with few steps."""

import json
import math
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.timeout(400)  # whole runs of training

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture(scope="module", autouse=True)
def _importable():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def score(_importable):
    from faultbench import score

    return score


@pytest.fixture(scope="module")
def faults(_importable):
    from faultbench import faults

    return faults


# -- divergence -----------------------------------------------------------------------------------


def series(*parts):
    return np.concatenate([np.full(count, value, float) for value, count in parts])


@pytest.mark.parametrize(
    ("loss", "onset"),
    [
        (series((1, 300), (2, 100)), 301),
        (series((1, 300), (1.49, 100)), None),  # below both 1.5 m and m + 0.5
        (series((1, 300), (2, 19), (1, 81)), None),  # not long enough
        (series((1, 300), (2, 20), (1, 80)), 301),
        (series((1, 300), (2, 10), (1, 1), (2, 60)), 312),  # in a row
        (series((1, 250), (2, 50), (1, 100)), None),  # before the fault
        (series((0.1, 300), (0.55, 100)), None),  # above 1.5 m, below m + 0.5
        (series((0.1, 300), (0.65, 100)), 301),
        (series((1, 310), (math.nan, 1), (1, 89)), 311),
        (series((1, 310), (math.inf, 90)), 311),
        (series((1, 100), (math.nan, 1), (1, 299)), None),  # before the fault
        (series((1, 395), (2, 5)), None),  # ends too soon to tell
    ],
)
def test_onset_is_the_first_step_of_a_divergence(score, loss, onset):
    usual = score.usual_loss(loss, 301, np.ones(400))
    assert score.divergence(loss, 301, usual) == onset


def test_the_usual_loss_is_the_median_of_the_200_before(score):
    loss = series((9, 100), (1, 100), (2, 100), (7, 100))
    assert score.usual_loss(loss, 301, np.ones(400)) == 1.5
    assert score.usual_loss(loss, 302, np.ones(400)) == 2
    assert score.usual_loss(loss, 101, np.ones(400)) == 9


def test_a_fault_from_the_first_step_is_held_against_an_untrained_model(score):
    twin = series((3, 20), (1, 380))
    assert score.usual_loss(series((50, 400)), 1, twin) == 3
    assert score.divergence(series((50, 400)), 1, 3.0) == 1


# -- verdicts -------------------------------------------------------------------------------------


@pytest.fixture
def case(score):
    return score.Case("rate_ramp", "gradual", "mlp-sgd", 0, 0, None, 301, 361, None, False, False)


def alert(step, severity="advice", cause="rate_too_high", layer=None):
    return {"step": step, "kind": "k", "layer": layer, "severity": severity, "cause": cause}


@pytest.mark.parametrize(
    ("changes", "deadline"),
    [
        ({}, 360),  # before the onset
        ({"onset": 305}, 321),  # too soon for that
        ({"onset": None}, 601),
        ({"kind": "structural", "start": 1, "onset": None}, 301),
        ({"kind": "sudden"}, 321),
        ({"kind": "sudden", "onset": 302}, 321),
        ({"kind": "sudden", "onset": 301, "nonfinite": 301}, 301),  # in the step itself
        ({"nonfinite": 400}, 360),
    ],
)
def test_deadlines(score, case, changes, deadline):
    assert score.deadline(case._replace(**changes)) == deadline


@pytest.mark.parametrize(
    ("alerts", "detected", "lead"),
    [
        ([], False, None),
        ([alert(301)], True, 60),
        ([alert(360)], True, 1),
        ([alert(361)], False, None),  # the onset itself is no warning
        ([alert(300)], False, None),  # a false alarm
        ([alert(200), alert(330), alert(340)], True, 31),
    ],
)
def test_detection_and_lead(score, case, alerts, detected, lead):
    verdict = score.judge(case, alerts, ("rate_too_high",))
    assert (verdict.detected, verdict.lead) == (detected, lead)
    assert verdict.before == sum(a["step"] < 301 for a in alerts)


def test_the_first_alert_to_act_speaks_if_it_comes_soon(score, case):
    advice, act = alert(310, cause="label_shift"), alert(320, "act")
    verdict = score.judge(case, [advice, act], ("rate_too_high",))
    assert verdict.cause
    assert verdict.first["step"] == 310
    assert verdict.lead == 51
    late = score.judge(case, [advice, act | {"step": 321}], ("rate_too_high",))
    assert not late.cause


def test_layers_are_judged_where_one_was_planted(score, case):
    assert score.judge(case, [alert(310, layer="head")], ()).layer is None
    planted = case._replace(layer="block_0/up")
    assert score.judge(planted, [alert(310, layer="block_0")], ()).layer
    assert score.judge(planted, [alert(310, layer="block_0/up")], ()).layer
    assert not score.judge(planted, [alert(310, layer="block_0/upper")], ()).layer
    assert not score.judge(planted, [alert(310)], ()).layer


def test_harmless_is_the_twins_loss(score):
    twin = np.linspace(2, 1, 400)
    assert score.harmless(twin * 1.01, twin, 301)
    assert not score.harmless(np.r_[twin[:320], twin[320:] * 1.1], twin, 301)


def test_rescued_is_within_a_tenth_or_next_to_nothing(score):
    assert score.rescued(1.1, 1.0)
    assert not score.rescued(1.11, 1.0)
    assert score.rescued(0.02, 0.001)
    assert not score.rescued(math.inf, 1.0)
    assert score.final([9.0] * 10 + [1.0] * 50) == 1


# -- the suite ------------------------------------------------------------------------------------


def test_half_of_the_families_are_held_out(faults):
    assert len(faults.FAMILIES) == 18
    old = sorted(set(faults.FAMILIES) - set(faults.NEW))
    assert sorted(faults.CALIBRATION - set(faults.NEW)) == old[::2]


def test_nothing_is_wrong_in_quiet_families(faults):
    for name, family in faults.QUIET.items():
        assert family.causes == ()
        for program in faults.programs(name):
            plan, cases, layers = faults.planted(name, program, seeds=1)
            usual = faults.undisturbed(program, plan.seed)
            differs = {f for f, a, b in zip(plan._fields, plan, usual, strict=True) if (a != b).any()}
            assert differs <= {"rate"}
            assert (plan.rate <= 2.01 * usual.rate.max()).all()
            assert [case.start for case in cases] == [0] * len(cases)
            assert layers == [None] * len(cases)
            assert set(program.frozen) <= set(program.layers)


@pytest.mark.parametrize("family", range(18))
def test_every_fault_changes_the_plan_of_its_runs_only(faults, family):
    name = sorted(faults.FAMILIES)[family]
    for program in faults.programs(name):
        plan, cases, layers = faults.planted(name, program, seeds=2)
        usual = faults.undisturbed(program, plan.seed)
        changed = [any((a[r] != b[r]).any() for a, b in zip(plan, usual, strict=True)) for r in range(len(plan.seed))]
        expected = name != "adam_eps"  # there it is the program that differs
        assert changed == [expected] * len(cases) + [False] * (len(plan.seed) - len(cases))
        assert all(layer is None or layer in program.layers for layer in layers)


def test_faults_begin_when_they_are_said_to(faults):
    program = faults.Program("mlp", "sgd")
    for name, family in faults.FAMILIES.items():
        if family.kind == "structural" or "mlp" not in family.models:
            continue
        plan, cases, _ = faults.planted(name, program, seeds=1)
        usual = faults.undisturbed(program, plan.seed)
        for case in cases:
            for field in ("rate", "active", "outlier", "nans", "shift"):
                differs = np.flatnonzero(getattr(plan, field)[case.r] != getattr(usual, field)[case.r])
                assert not len(differs) or differs[0] in (case.start, case.start + 1)  # a ramp begins at x1


def test_healthy_runs_have_warmups_restarts_and_other_batch_sizes(faults):
    plan = faults.healthy(faults.Program("mlp", "adam"), 30)
    rate = plan.rate[:, : faults.HEALTHY]
    assert (rate[:, 0] < rate.max(1) / 5).all()
    assert (np.diff(rate, axis=1).max(1) > rate.max(1) / 3).sum() > 5  # restarts
    assert (plan.size.min(1) < 1).sum() > 5
    assert len(np.unique(plan.dropout)) == 3


@pytest.fixture(scope="module")
def results(_importable, tmp_path_factory):
    from faultbench import suite

    folder = tmp_path_factory.mktemp("records")
    options = suite.Options(("nan_batch",), ("mlp",), ("adam",), seeds=1, healthy=False, save=str(folder))
    with jax.numpy_dtype_promotion("standard"):
        (programs,) = suite.groups(options)
        return suite.work((programs, options)), folder


def test_one_family_from_end_to_end(results):
    found, _ = results
    faulty = [result for result in found if result["family"] == "nan_batch"]
    assert [result["case"]["severity"] for result in faulty] == [0, 1, 2]
    for result in faulty:
        assert result["case"]["start"] == result["case"]["onset"] == result["case"]["nonfinite"] == 291
        assert not result["case"]["leaked"]
        assert result["verdict"]["detected"]
        assert result["rescue"]["rescued"]


@pytest.mark.parametrize(
    ("family", "at", "layers"), [("frozen_on_purpose", 2, ("head",)), ("sparse_embedding", 0, None)]
)
@pytest.mark.usefixtures("_importable")
def test_what_a_family_needs_of_its_program(family, at, layers):
    """A frozen group has no row, and labels of bags of words are one a bag."""
    from faultbench.faults import programs, undisturbed
    from faultbench.run import Simulator

    program = programs(family)[at]
    with jax.numpy_dtype_promotion("standard"):
        records = Simulator(program).run(undisturbed(program, np.arange(2)), 50)
    assert records.layout.layers == (layers or ("embed", "dense_0", "head"))
    assert np.isfinite(records.packed[..., 0]).all()


def test_full_records_may_be_rarer(results):
    from faultbench import suite

    _, folder = results
    path = next(folder.glob("nan_batch*.npz"))
    job = suite.load(path)
    viewer, packed = job._replace(every=50).viewer, job.records.packed[0]

    def shown(opening):
        view = viewer._replace(opening=opening)
        return [step for step in range(1, 101) if view.at(packed[step - 1], step).rare is not None]

    assert (shown(opening=True), shown(opening=False)) == ([1, 50, 100], [50, 100])
    assert np.isnan(viewer._replace(hide_rate=True).at(packed[0], 1).learning_rate)
    assert all(result["verdict"]["detected"] for result in suite.replay((path, 50, False)))


def test_replay_says_what_the_run_said(results):
    from faultbench import suite

    found, folder = results
    again = [result for path in sorted(folder.glob("*.npz")) for result in suite.replay((path, 10, True))]
    first = [{key: value for key, value in result.items() if key != "rescue"} for result in found]
    assert json.dumps(sorted(again, key=str), default=float) == json.dumps(sorted(first, key=str), default=float)


def test_the_tables_have_a_cell_a_column(results):
    from faultbench import report

    text = report.tables(results[0])
    for block in text.split("\n\n"):
        rows = [line.count("|") for line in block.splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1
    assert "| faults detected | 100.0 % |" in text


@pytest.mark.usefixtures("_importable")
def test_seeds_may_be_others_than_those_that_thresholds_were_chosen_on():
    from faultbench import faults

    (program,) = [p for p in faults.programs("dying_relu") if (p.model, p.optimizer) == ("mlp", "adam")]
    plan, cases, _ = faults.planted("dying_relu", program, seeds=2, first=1003)
    assert {case.seed for case in cases} == set(plan.seed.tolist()) == {1003, 1004}
    assert {case.start for case in cases} == {290 + 7 * 3, 290 + 7 * 4}
    assert faults.healthy(program, 2, first=1003).seed.tolist() == [1103, 1104]


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("name", ["regression", "q_learning", "copy_task"])
def test_a_program_in_which_nothing_is_wrong(name):
    pytest.importorskip("equinox")
    from faultbench import programs, thirdparty

    assert set(programs.KEPT_BACK) < set(programs.PROGRAMS)
    with jax.numpy_dtype_promotion("standard"):
        run = thirdparty.train(programs.PROGRAMS[name](), seed=0, steps=20)
    assert (run["steps"], run["outcome"]) == (20, None)
    assert run["end"] < run["start"]
    text = thirdparty.table([{"program": name} | run])
    assert text.splitlines()[2].startswith(f"| {name} | ")
    assert text.splitlines()[-1].endswith("| 20 steps |")


def test_advice_that_leaves_it_open_is_neither_right_nor_wrong(score, case):
    from faultbench import report

    causes = ("rate_too_high", "rate_or_data", "rate_or_data", "label_shift")
    alerts = [[alert(310, cause=cause)] for cause in causes] + [[]]
    judged = [score.judge(case, found, ("rate_too_high",))._asdict() for found in alerts]
    assert report.first_advice(judged) == "first advice right 25.0 %, rate or data 50.0 %, wrong 25.0 %"

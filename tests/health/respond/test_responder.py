"""Decisions on alerts: which action, from which step, back to which checkpoint; the same whenever they are read."""

import json
import math

import numpy as np
import pytest

from jaxprop.health.respond.actions import Sign
from jaxprop.health.respond.calm import CALM
from jaxprop.health.respond.fault import PATIENCE, RELATED
from jaxprop.health.respond.ladder import WAIT
from jaxprop.health.respond.levers import Levers
from jaxprop.health.respond.points import kept_points
from jaxprop.health.respond.responder import Responder
from jaxprop.health.watch.alerts import Alert
from tests.health.records import record


class Script:
    """Alerts given by step: `{step: since}`; remembers when it was re-armed."""

    def __init__(self, since=None, severity="act"):
        self.since, self.severity, self.rearmed = since or {}, severity, []

    def update(self, step, m):
        if step not in self.since:
            return []
        return [
            Alert(
                step, "loss_jump", "head", self.severity, 9.0, 2.0, self.since[step], {}, "unstable", "optimizer.lr=0.1"
            )
        ]

    def rearm(self, step):
        self.rearmed.append(step)

    def state(self):
        return {"rearmed": self.rearmed}

    def restore(self, state):
        self.rearmed = list(state["rearmed"])


class OfTheScale(Script):
    """The same of the loss scale, with a cause."""

    def __init__(self, cause, *steps):
        super().__init__({step: step - 1 for step in steps})
        self.cause = cause

    def update(self, step, m):
        return [alert._replace(cause=self.cause) for alert in super().update(step, m)]


def good(norm=1.0, rate=0.1, loss=1.0, **rest):
    return record(loss=loss, grad_norm=norm, learning_rate=rate, **rest)


def responder(actions, watch=None, points=(), **options):
    made = Responder(actions, watch, **{"total_steps": 10_000, **options})
    for point in points:
        made.saved(point)
    return made


def feed(made, first, last, m=None):
    """Reads the same record for some steps; returns the lines."""
    return [line for step in range(first, last + 1) for line in made.read(step, m or good())]


def taken(lines):
    return [(line["step"], line["action"]) for line in lines if line["kind"] == "action"]


def every(*steps):
    return Script({step: step for step in steps})


NEXT = PATIENCE + 3  # from one alert to the first step at which another is answered


# -- the ladder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "tries", "expected"),
    [
        (["clip"], 3, ["clip"] * 5 + ["none"]),
        (["cut_lr", "stop"], 3, ["cut_lr", "stop", "stop"]),
        (["clip", "cut_lr"], 3, ["clip", "cut_lr", "cut_lr", "cut_lr"]),
        (["skip", "cut_lr"], 3, ["cut_lr", "cut_lr"]),
        (["rollback", "stop"], 2, ["rollback", "rollback", "stop"]),
        (["rollback"], 1, ["rollback", "none"]),
        (["clip", "rollback", "stop"], 1, ["clip", "rollback", "stop"]),
        (["clip", "cut_lr", "rollback"], 2, ["clip", "cut_lr", "cut_lr", "rollback", "cut_lr", "rollback", "cut_lr"]),
    ],
)
def test_actions_escalate_in_the_order_given(actions, tries, expected):
    made = responder(actions, every(*range(10, 3000)), points=[0], tries=tries)
    lines = []
    for step in range(1, 600):
        lines += made.read(step, good())
        made.due(step)
    assert [action for _, action in taken(lines)][: len(expected)] == expected
    assert [action for _, action in taken(lines)].count("none") <= 1


def test_one_action_answers_all_alerts_until_it_has_had_its_time():
    watch = every(10, 11, 12, 30, 10 + NEXT - 1, 10 + NEXT)
    lines = feed(responder(["clip", "cut_lr"], watch), 1, 100)
    assert taken(lines) == [(10, "clip"), (10 + NEXT - 1, "cut_lr")]
    assert len([line for line in lines if line["kind"] != "action"]) == 6
    # What lasts is told once more when the action has had its time.
    assert watch.rearmed == [10 + NEXT - 1]


def test_advice_is_only_written_down():
    lines = feed(responder(["stop"], Script({5: 5}, severity="advice")), 1, 20)
    assert [line["severity"] for line in lines] == ["advice"]


def test_log_only_writes_down():
    assert taken(feed(responder([], every(5)), 1, 20)) == []


@pytest.mark.parametrize(
    ("per_call", "total", "step", "due"),
    [(1, 100, 7, 8), (1, 8, 8, 8), (4, 100, 5, 12), (4, 100, 8, 12), (4, 100, 9, 16), (4, 10, 9, 10), (4, 10, 5, 10)],
)
def test_an_action_is_due_one_call_after_the_one_that_showed_it(per_call, total, step, due):
    made = responder(["stop"], every(step), per_call=per_call, total_steps=total)
    lines = feed(made, 1, step)
    assert lines[-1]["due"] == due
    assert made.due(due - 1) == []
    assert made.diagnosis is None
    assert [action.name for action in made.due(due)] == ["stop"]
    assert "likely unstable: try optimizer.lr=0.1" in made.diagnosis
    assert made.due(due) == []


# -- clip and cut_lr --------------------------------------------------------------------------------


def test_clip_is_a_little_above_the_healthy_median():
    made = responder(["clip"], Script({30: 21}))
    feed(made, 1, 20, good(norm=2.0))
    feed(made, 21, 30, good(norm=50.0))
    assert made.levers == Levers(1.0, 3.0)


def test_clip_without_a_healthy_step_leaves_it_to_the_next():
    assert taken(feed(responder(["clip", "cut_lr"], Script({5: 1})), 1, 5)) == [(5, "cut_lr")]


@pytest.mark.parametrize(
    ("rates", "since", "scale", "limit"),
    [
        ([0.1] * 30, 20, 0.5, math.inf),
        ([0.1] * 20 + [4.0] * 10, 20, 1.0, 0.1),  # x 40 from step 21 on
        ([0.1] * 20 + [4.0] * 10, 25, 0.5, math.inf),
        ([0.2 - 0.005 * i for i in range(30)], 20, 0.5, math.inf),  # a rate that falls
        ([1e-5] + [0.128] * 29, 2, 1.0, 0.002),  # early in a warmup
        ([1e-5] + [0.1] * 29, 1, 0.5, math.inf),  # nothing was well before it
        ([math.nan] * 30, 20, 0.5, math.inf),
    ],
)
def test_cut_lr_halves_or_goes_back_to_the_rate_before(rates, since, scale, limit):
    made = responder(["cut_lr"], Script({30: since}))
    for step, rate in enumerate(rates, 1):
        made.read(step, good(rate=rate))
    assert made.levers == pytest.approx((scale, math.inf, limit))


def test_cut_lr_ends_at_a_floor():
    made = responder(["cut_lr"], every(*range(1, 2000)))
    lines = feed(made, 1, 1500)
    assert made.levers.lr_scale == 2.0**-10
    assert [action for _, action in taken(lines)] == ["cut_lr"] * 10 + ["none"]


def test_a_cut_is_given_back_once_after_calm_steps():
    made = responder(["cut_lr"], every(50, 400))
    lines = feed(made, 1, 700)
    assert taken(lines) == [(50, "cut_lr"), (51 + CALM, "release"), (400, "cut_lr")]
    assert "learning rate x 2 after step 152" in lines[2]["message"]
    assert made.levers.lr_scale == 0.5


def test_a_cut_is_not_given_back_while_the_loss_is_broken():
    made = responder(["cut_lr"], every(50))
    lines = feed(made, 1, 50) + feed(made, 51, 56, good(loss=9.0)) + feed(made, 57, 300)
    assert [action for _, action in taken(lines)] == ["cut_lr", "cut_lr", "release"]
    assert taken(lines)[1][0] == 56  # five broken losses: the next action at once
    late = responder(["cut_lr"], every(50))
    lines = feed(late, 1, 150) + feed(late, 151, 151, good(loss=9.0)) + feed(late, 152, 300)
    assert taken(lines)[-1] == (151 + CALM, "release")


def test_a_cut_is_given_back_once_the_loss_has_recovered_and_never_to_a_dead_network():
    """A loss a little above what was usual is not broken, but the fault has left it there."""
    made = responder(["cut_lr"], every(50))
    assert taken(feed(made, 1, 50) + feed(made, 51, 500, good(loss=1.3))) == [(50, "cut_lr")]
    assert [action for _, action in taken(feed(made, 501, 560))] == ["release"]
    dead = responder(["cut_lr"], every(50))
    assert taken(feed(dead, 1, 50) + feed(dead, 51, 500, good(norm=0.0))) == [(50, "cut_lr")]


def test_a_rate_that_rose_is_not_given_back():
    made = responder(["cut_lr"], Script({30: 20}))
    lines = feed(made, 1, 20, good(rate=0.1)) + feed(made, 21, 400, good(rate=4.0))
    assert taken(lines) == [(30, "cut_lr")]
    assert "learning rate held at 0.1 after step 31" in lines[1]["message"]


def test_a_run_without_a_watch_is_held_against_a_trivial_predictor():
    made = responder(["stop"])
    assert made.outcome({"accuracy": 0.1}, {"majority_accuracy": 0.1}).startswith("no better than the majority")
    assert made.outcome({"accuracy": 0.9}, {"majority_accuracy": 0.1}) is None


# -- rollback -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("since", "to"), [(401, 400), (400, 200), (399, 200), (201, 200), (200, 0), (2, 0), (1, 0), (0, None)]
)
def test_a_rollback_goes_to_before_the_first_sign(since, to):
    made = responder(["rollback"], Script({450: since}), points=[0, 200, 400])
    lines = feed(made, 1, 450)
    assert [(line["action"], line["value"]) for line in lines[1:]] == (
        [("rollback", to)] if to is not None else [("none", None)]
    )
    assert [action.to for action in made.due(451)] == ([to] if to is not None else [])


def test_rollbacks_wait_longer_each_time_for_the_bad_data_to_pass():
    made = responder(["rollback"], every(*range(10, 3000)), points=[0], tries=4)
    dues = []
    for _ in range(4):
        start = 10
        line = next(line for step in range(start, 3000) for line in made.read(step, good()) if line["kind"] == "action")
        dues.append(line["due"] - line["step"])
        made.due(line["due"])
        made.went_back(0, None)
    assert dues == [1, 1 + WAIT, 1 + 4 * WAIT, 1 + 16 * WAIT]


def test_advice_of_the_same_cause_is_the_first_sign():
    class Both(Script):
        def update(self, step, m):
            self.severity = "advice" if step == 380 else "act"
            return [alert._replace(cause="a" if step < 500 else "b") for alert in super().update(step, m)]

    for act, to in ((450, 200), (380 + RELATED + 1, 400), (500, 400)):
        made = responder(["rollback"], Both({380: 370, act: act}), points=[0, 200, 400])
        assert feed(made, 1, act)[-1]["value"] == to, act


def test_a_fault_counts_from_its_first_sign_until_it_is_undone():
    second = 250 + NEXT - 1
    made = responder(["clip", "rollback"], Script({250: 210, second: second, 500: 500}), points=[0, 200])
    lines = feed(made, 1, second)
    assert taken(lines) == [(250, "clip"), (second, "rollback")]
    assert lines[-1]["value"] == 200
    late = 250 + NEXT + PATIENCE + RELATED
    made = responder(["clip", "rollback"], Script({250: 210, late: late}), points=[0, 200])
    feed(made, 1, 300)
    made.saved(400)
    assert feed(made, 301, late)[-1]["value"] == 400


def test_after_a_rollback_the_watch_is_as_it_was_and_armed_anew():
    watch = Script({250: 230, 260: 250})
    made = responder(["cut_lr", "rollback"], watch, points=[0])
    feed(made, 1, 200)
    made.saved(200)
    saved = json.loads(json.dumps(made.state()))
    watch.since[250 + 1] = 251
    feed(made, 201, 250)
    made._make("rollback", Sign(250, None, 250, "unstable", "why"))
    made.due(251)
    made.went_back(200, saved)
    assert watch.rearmed == [200]
    assert made.levers.lr_scale == 0.25  # stays as tightened
    assert feed(made, 201, 249) == []
    assert made._points.steps == [0, 200]
    assert made.diagnosis is None


def test_points_are_kept_until_a_save_without_them_is_whole():
    made = responder(["rollback"], point_every=10)
    pins = {}
    for step in range(0, 1001, 10):
        pins[step] = made.saved(step)
    assert made._points.steps == kept_points(range(0, 1001, 10), 10)
    for step in range(10, 1001, 10):
        whole_before = set(kept_points(range(0, step, 10), 10))
        assert whole_before <= pins[step]
    assert all(len(pin) <= 8 for pin in pins.values())


def test_a_checkpoint_that_a_rollback_is_on_its_way_to_is_kept():
    made = responder(["rollback"], Script({30: 1}), point_every=10, per_call=10)
    for step in (0, 10, 20):
        made.saved(step)
    feed(made, 1, 30)
    for step in (30, 40):
        assert 0 in made.saved(step)
    assert [action.to for action in made.due(40)] == [0]


def test_where_going_back_is_new_the_first_checkpoint_is_the_one_resumed_from():
    made = responder(["rollback"], Script({90: 80}))
    assert made.resumed(37) == {37}
    assert feed(made, 38, 90)[-1]["value"] == 37


def test_without_rollback_nothing_is_pinned():
    made = responder(["clip"])
    assert (made.saved(0), made.is_point(200), made.resumed(5)) == (frozenset(), False, frozenset())


# -- the guard in the step --------------------------------------------------------------------------


def test_what_the_guard_did_is_a_line_once_a_streak():
    made = responder(["skip"])
    lines = feed(made, 1, 5) + feed(made, 6, 8, good(norm=99.0, guard=0.0)) + feed(made, 9, 9)
    lines += feed(made, 10, 10, good(norm=99.0, guard=0.0))
    assert taken(lines) == [(6, "skip"), (10, "skip")]
    assert "99" in lines[0]["message"]
    assert taken(feed(made, 11, 12, good(guard=0.2))) == []  # the streak goes on
    assert taken(feed(responder(["clip"]), 1, 3, good(guard=0.2))) == [(1, "clip")]


def test_an_alert_that_the_step_itself_has_held_is_not_answered():
    for m in (good(guard=0.3), good(guard=0.0), good(skipped=1.0)):
        made = responder(["skip", "cut_lr"], every(4))
        lines = feed(made, 1, 3) + feed(made, 4, 4, m) + feed(made, 5, 9)
        assert "cut_lr" not in [action for _, action in taken(lines)]


def test_a_guard_that_acts_step_after_step_is_not_enough():
    made = responder(["clip", "stop"])
    lines = feed(made, 1, 20) + feed(made, 21, 40, good(norm=9.0, guard=0.1))
    assert taken(lines) == [(21, "clip"), (30, "clip")]
    assert lines[1]["since"] == 21


def test_the_limit_of_a_response_is_not_taken_for_a_spike():
    made = responder(["clip"], every(20))
    feed(made, 1, 21)
    assert made.levers.grad_limit == 1.5
    assert feed(made, 22, 60, good(norm=3.0, guard=0.5)) == []
    assert taken(feed(made, 61, 61, good(norm=30.0, guard=0.01))) == [(61, "clip")]


# -- skips in a row ---------------------------------------------------------------------------------


def test_skips_in_a_row_are_a_divergence():
    made = responder([], max_skips=4)
    feed(made, 1, 3, good(skipped=1.0))
    assert made.diagnosis is None
    feed(made, 4, 4, good(skipped=1.0))
    assert made.diagnosis.startswith("loss or gradients were not finite for 4 steps in a row, up to step 4")


def test_skips_in_a_row_go_back_where_that_is_listed():
    made = responder(["cut_lr", "rollback"], max_skips=4, points=[0], tries=1)
    feed(made, 1, 10)
    lines = feed(made, 11, 16, good(skipped=1.0))
    assert taken(lines) == [(14, "cut_lr"), (14, "rollback")]
    assert [action.to for action in made.due(15)] == [None, 0]
    made.went_back(0, None)
    assert made.diagnosis is None
    feed(made, 1, 4, good(skipped=1.0))
    assert made.diagnosis is not None


# -- state ------------------------------------------------------------------------------------------


def test_a_state_goes_through_json_and_continues_bit_for_bit():
    rng = np.random.default_rng(0)
    norms = np.exp(rng.normal(size=400)).astype(np.float32)
    script = {60: 50, 61: 50, 130: 120, 200: 190, 300: 290}

    def run(cuts):
        made, lines = responder(["clip", "cut_lr", "rollback", "stop"], Script(script), points=[0]), []
        due = []
        for step, norm in enumerate(norms, 1):
            lines += made.read(step, good(norm=norm, rate=0.1 / step))
            due += made.due(step - 1)
            if step in cuts:
                state = json.loads(json.dumps(made.state()))
                made = responder(["clip", "cut_lr", "rollback", "stop"], Script(script))
                made.restore(state)
        return lines, due, made.levers, made.lines

    whole = run(())
    assert len(whole[1]) >= 4
    assert whole[3] == len(whole[0])
    for cut in (1, 59, 60, 61, 62, 129, 130, 131, 200, 201, 250, 300, 301, 302):
        assert run((cut,)) == whole
    assert run(range(1, 400)) == whole


def test_another_response_may_be_asked_for_on_the_way():
    made = responder(["clip", "cut_lr", "stop"], every(10))
    feed(made, 1, 10)
    state = made.state()
    other = responder(["stop"], every(200))
    other.restore(state)
    assert other.due(11) == []
    assert taken(feed(other, 11, 200)) == [(200, "stop")]
    nothing = responder([])
    nothing.restore(state)
    assert feed(nothing, 11, 30) == []


ALL = ["clip", "raise_scale", "lower_scale", "stop"]


@pytest.mark.parametrize(
    ("cause", "scale", "skipped", "action"),
    [
        ("no_loss_scaling", 8.0, False, "raise_scale"),
        ("loss_scale_falls", 8.0, True, "lower_scale"),
        ("loss_scale_falls", 1.0, True, "stop"),  # it cannot go lower, and nothing was healthy that could be clipped to
        ("no_loss_scaling", 2.0**24, False, "clip"),
        ("unstable", 8.0, False, "clip"),
        ("unstable", 8.0, True, None),  # a skipped step is answered by its own rules
    ],
)
def test_what_sets_the_loss_scale_answers_alerts_on_it_and_no_others(cause, scale, skipped, action):
    made = responder(ALL, OfTheScale(cause, 11))
    m = good(loss_scale=scale, skipped=float(skipped), norm=np.inf) if skipped else good(loss_scale=scale)
    lines = (feed(made, 1, 10, good(loss_scale=scale)) if action != "stop" else []) + made.read(11, m)
    told = [line["action"] for line in lines if line["kind"] == "action"]
    assert told == ([] if action is None else [action])
    if action in ("raise_scale", "lower_scale"):
        assert [step.name for step in made.due(12)] == [action]
        assert made.levers == Levers()
        assert f"loss scale x {1024 if action == 'raise_scale' else 0.0625:g} after step 12" in lines[-1]["message"]


@pytest.mark.parametrize(("listed", "next_one"), [(["lower_scale"], []), (["lower_scale", "cut_lr"], ["cut_lr"])])
def test_a_loss_that_breaks_after_the_scale_was_lowered_is_no_reason_to_lower_it_again(listed, next_one):
    made = responder(listed, OfTheScale("loss_scale_falls", 31))
    feed(made, 1, 30, good(loss_scale=2.0**15))
    first = made.read(31, good(loss_scale=2.0**15, skipped=1.0, norm=np.inf))
    broken = feed(made, 32, 60, good(loss_scale=2.0**10, loss=1e4))
    told = [line["action"] for line in (*first, *broken) if line["kind"] == "action"]
    assert told[:2] == ["lower_scale", *next_one]
    assert "lower_scale" not in told[1:]


def test_responses_to_the_loss_scale_alone_say_nothing_of_another_fault():
    made = responder(["raise_scale", "lower_scale"])
    assert made.decide([Sign(80, None, 70, "unstable", "loss x 2")]) == []


def test_the_ladder_stays_where_it_is_after_the_loss_scale_was_set():
    made = responder(ALL, OfTheScale("no_loss_scaling", 11))
    feed(made, 1, 11, good(loss_scale=8.0))
    made.due(12)
    other = responder(ALL)
    other.restore(json.loads(json.dumps({**made.state(), "watch": None})))
    feed(other, 12, 13 + PATIENCE)
    assert [line["action"] for line in other.decide([Sign(80, None, 70, "unstable", "loss x 2")])] == ["clip"]

"""How often what is measured: by the configuration, or by what it costs."""

import pytest

from jaxprop.config.schema.run import Health
from jaxprop.run.pace import Pace


def chosen(full, rows=0.010, per_call=1, **section):
    """The choice and its line, from seconds of a call of each kind."""
    pace = Pace(Health(**section), per_call)
    for _ in range(4):
        pace.book("full", full)
    for i in range(20):
        assert pace.measuring
        assert pace.book("rows", rows * (50 if i == 7 else 1)) == (i == 19)
    line = pace.choose()
    assert not pace.measuring
    return pace.state(), line


@pytest.mark.parametrize(
    ("full", "choice"),
    [
        (0.0108, [1, 10]),
        (0.0118, [1, 20]),
        (0.0145, [1, 50]),
        (0.0190, [1, 100]),
        (0.0900, [1, 100]),  # over budget even so
        (0.0090, [1, 10]),  # noise
    ],
)
def test_the_shortest_interval_within_the_budget(full, choice):
    assert chosen(full)[0] == choice


def test_a_larger_budget_buys_a_shorter_interval():
    assert chosen(0.0190, budget=0.02)[0] == [1, 50]
    assert chosen(0.0190, budget=0.1)[0] == [1, 10]


def test_an_interval_that_the_configuration_fixes_is_kept_whatever_it_costs():
    choice, line = chosen(0.0900, rare_every=7)
    assert choice == [1, 7]
    assert line.endswith("all signals every 7 steps (1.1e+02 % of the time)")


def test_a_call_of_several_steps_pays_for_everything_once():
    # 4 steps of 10 ms; everything takes 1.8 ms more, once a call: as one step of 10 ms that takes 11.8 ms.
    assert chosen(0.0418, rows=0.040, per_call=4) == chosen(0.0118)
    # Every call of 40 steps has one that measures everything, whatever the interval below that.
    choice, line = chosen(0.402, rows=0.400, per_call=40)
    assert choice == [1, 10]
    assert line.endswith("(0.5 % of the time)")


def test_the_line_says_what_was_chosen():
    said = "health: gradient norms of the layers every step, all signals every 20 steps (0.9 % of the time)"
    assert chosen(0.0118)[1] == said


@pytest.mark.parametrize(
    ("section", "per_call", "details", "measuring"),
    [
        ({}, 1, {1: "full", 2: "rows", 9: "rows", 10: "full", 11: "rows", 100: "full"}, True),
        ({"every": 3}, 1, {1: "full", 2: "lean", 3: "rows", 10: "full", 12: "rows"}, False),
        ({"every": 3, "rare_every": 4}, 1, {3: "rows", 4: "full", 5: "lean"}, False),
        ({"rare_every": 4}, 1, {3: "rows", 4: "full"}, True),
        ({"layers": False}, 1, {1: "lean", 10: "lean"}, False),
        ({"layers": False, "every": 1}, 1, {10: "lean"}, False),
        ({}, 4, {4: "full", 8: "rows", 12: "full", 16: "rows", 20: "full"}, True),
        ({"every": 10, "rare_every": 100}, 4, {4: "full", 8: "lean", 12: "rows", 100: "full"}, False),
        ({}, 10, {10: "full", 20: "full", 30: "rows"}, True),  # some calls must show what a call without costs
    ],
)
def test_what_a_call_measures(section, per_call, details, measuring):
    pace = Pace(Health(**section), per_call)
    assert {last: pace.detail(last - per_call + 1, last) for last in details} == details
    assert pace.measuring == measuring


def test_what_float16_flushes_is_measured_with_a_loss_scale_only():
    assert Pace(Health(every=1), scaled=True).detail(100, 100) == "flush"
    assert Pace(Health(every=1)).detail(100, 100) == "full"
    assert Pace(Health(every=1), scaled=True).detail(1, 1) == "flush"


@pytest.mark.parametrize(
    ("every", "rare", "per_call", "rows", "full"),
    [
        (1, 10, 1, [50, 100, 120], [50, 100, 120]),
        (1, 20, 1, [50, 100, 120], [40, 100, 120]),
        (20, 20, 1, [40, 100, 120], [40, 100, 120]),
        (7, 50, 1, [50, 100, 119], [50, 100]),
        (1, 100, 1, [50, 100, 120], [100]),
        (1, 20, 10, [50, 100, 120], [40, 100, 120]),
        (1, 15, 10, [50, 100, 120], [50, 90, 120]),
    ],
)
def test_the_last_of_each_kind_before_a_log_step_is_logged(every, rare, per_call, rows, full):
    """At most one of each kind between two log steps besides the first, and one wherever there is one."""
    pace = Pace(Health(every=every, rare_every=rare), per_call)
    logged = {"rows": [], "full": []}
    for last in range(per_call, 121, per_call):
        detail = pace.detail(last - per_call + 1, last)
        with_rows, with_all = pace.logged(last, 50, 120)
        if detail != "lean" and with_rows:
            logged["rows"].append(last)
        if detail == "full" and with_all:
            logged["full"].append(last)
    assert logged == {"rows": [per_call, *rows], "full": [per_call, *full]}


def test_a_resumed_run_keeps_the_choice():
    choice = chosen(0.0118)[0]
    resumed = Pace(Health())
    resumed.restore(choice)
    assert (resumed.measuring, resumed.state()) == (False, choice)
    fixed = Pace(Health(every=2, rare_every=4))
    fixed.restore(choice)
    assert (fixed.detail(2, 2), fixed.state()) == ("rows", None)
    early = Pace(Health())
    early.restore(None)
    assert (early.measuring, early.state()) == (True, None)

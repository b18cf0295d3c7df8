"""`jaxprop lesson`: what is printed."""

import json
from pathlib import Path

from jaxprop.tools import lesson as lessons
from jaxprop.tools.lesson import LESSONS, Taught


def answering(monkeypatch, held):
    lesson = LESSONS["rates"]
    runs = {label: [dict.fromkeys(lesson.figures, 0.5 + i) for i in range(3)] for label in lesson.variants}
    folders = [Path(f"runs/lessons/rates/{label}-{seed}") for seed in range(3) for label in lesson.variants]
    calls = []

    def teach(name, folder, *, seeds, fresh):
        calls.append((name, folder, seeds, fresh))
        return Taught(lesson, runs, held, folders)

    monkeypatch.setattr(lessons, "teach", teach)
    return calls


def test_the_table_the_claim_and_where_to_look(jaxprop, monkeypatch):
    calls = answering(monkeypatch, [True] * 3)
    ran = jaxprop("lesson", "rates")
    assert (ran.code, ran.err) == (0, "")
    assert calls == [("rates", Path("runs/lessons/rates"), 3, False)]
    assert ran.out.startswith(LESSONS["rates"].question)
    assert "1.5 (0.5 to 2.5)" in ran.out
    assert f"Found: {LESSONS['rates'].claim} (3 of 3 seeds)." in ran.out
    assert ran.out.splitlines()[-1] == (
        "  jaxprop report 'runs/lessons/rates/too low-0' runs/lessons/rates/right-0 'runs/lessons/rates/too high-0'"
    )


def test_a_claim_that_is_not_found_is_an_error(jaxprop, monkeypatch):
    answering(monkeypatch, [True, False, True])
    ran = jaxprop("lesson", "rates")
    assert ran.code == 1
    assert "Claimed: " in ran.out
    assert "(2 of 3 seeds)" in ran.out


def test_json(jaxprop, monkeypatch):
    answering(monkeypatch, [True])
    found = json.loads(jaxprop("lesson", "rates", "--seeds", "1", "--json").out)
    assert (found["lesson"], found["holds"]) == ("rates", [True])
    assert set(found["figures"]) == set(LESSONS["rates"].variants)


def test_options(jaxprop, monkeypatch):
    calls = answering(monkeypatch, [True])
    jaxprop("lesson", "rates", "--seeds", "1", "--run", "x", "--fresh")
    assert calls == [("rates", Path("x"), 1, True)]


def test_the_list(jaxprop):
    out = jaxprop("lesson").out
    assert all(name in out for name in LESSONS)

"""`jaxprop runs`: the table, its order, and JSON."""

import json
from pathlib import Path

import pytest

from tests.tools.test_runs import done, make


def rows(ran):
    return [" ".join(line.split()) for line in ran.out.splitlines() if "─" not in line]


def test_the_table(jaxprop):
    done("runs", "a", 0.9, step=1000, seconds=75.0, when=2000)
    done("runs", "b", 0.95, when=1000)
    ran = jaxprop("runs")
    assert (ran.code, ran.err) == (0, "")
    header, *lines = rows(ran)
    assert header == "run status step metric best last time when"
    assert [line.rsplit(" ", 2)[0] for line in lines] == [
        "a completed 1,000 accuracy 0.91 0.9 1 min 15 s",
        "b completed 10 accuracy 0.96 0.95 1 s",
    ]
    assert [line.split()[0] for line in rows(jaxprop("runs", "--sort", "metric"))[1:]] == ["b", "a"]


def test_a_broken_run_has_a_column_of_its_own(jaxprop):
    done("elsewhere", "a", 0.9)
    make("elsewhere", "b")
    header, *lines = rows(jaxprop("runs", "elsewhere", "--sort", "name"))
    assert header.endswith("when problem")
    assert lines[1].endswith("metrics.jsonl is missing")


def test_json(jaxprop):
    done("runs", "a", 0.9, when=0)
    make("runs", "b")
    ran = jaxprop("runs", "--json", "--sort", "name")
    found = json.loads(ran.out)
    assert (ran.code, ran.err, list(found)) == (0, "", ["command", "run", "folder", "sort", "runs"])
    assert (found["command"], found["run"], found["folder"]) == ("runs", None, str(Path("runs").absolute()))
    a, b = found["runs"]
    assert a == {
        "name": "a", "run": str(Path("runs/a").absolute()), "status": "completed", "step": 10, "metric": "accuracy",
        "best": 0.91, "last": 0.9, "seconds": 1.0, "when": "1970-01-01T00:00:00+00:00", "problem": "",
    }  # fmt: skip
    assert (b["step"], b["problem"]) == (None, "metrics.jsonl is missing")


def test_no_runs_yet(jaxprop):
    ran = jaxprop("runs")
    assert (ran.code, ran.out) == (0, "no runs in runs; 'jaxprop train CONFIG' makes one in runs\n")
    assert json.loads(jaxprop("runs", "--json").out)["runs"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "error: nowhere: there is no such folder; 'jaxprop runs' lists those in runs/\n"),
        (["--sort", "tme"], "error: --sort: unknown order 'tme'; did you mean 'time'? (known: metric, name, step, "),
    ],
)
def test_what_cannot_be_listed(jaxprop, arguments, sentence):
    ran = jaxprop("runs", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(sentence)


def test_names_of_folders_cannot_steer_the_terminal(jaxprop):
    done("runs", "a\x1b[31m", 0.9)
    assert "\x1b" not in jaxprop("runs").out

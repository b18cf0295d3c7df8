"""`jaxprop report`: what it prints and writes, and one sentence for what it cannot."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from jaxprop.errors import UsageError
from jaxprop.report import serve
from tests.processes import started
from tests.report.runs import ALERT, CONFIG, make_run, rows
from tests.run.sweeps import make_sweep


def test_a_run(jaxprop):
    make_run("runs/a", alerts=[ALERT])
    ran = jaxprop("report", "runs/a")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("a: Gradient spike in layers/1/dense at step 60; the run completed all the same.\n")
    assert ran.out.endswith("report: runs/a/report.html\n")
    assert Path("runs/a/report.html").read_text().startswith("<!doctype html>")


def test_several_runs(jaxprop):
    make_run("runs/a")
    make_run("runs/b", layers=rows(layers=("x", "y")))
    ran = jaxprop("report", "runs/a", "b", "runs/a", "--out", "both.html")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("Healthy: 100 steps without an alert.") == 2
    assert "These runs have different layers" in Path("both.html").read_text()
    assert not list(Path("runs").rglob("*.html"))


def test_no_page(jaxprop):
    make_run("runs/a")
    assert "report:" not in jaxprop("report", "runs/a", "--no-html").out
    assert not list(Path("runs").rglob("*.html"))


@pytest.mark.parametrize(("options", "port"), [([], None), (["--port", "0"], 0), (["--port", "9000"], 9000)])
def test_the_server_gets_the_port(jaxprop, monkeypatch, options, port):
    def open_server(source, port):
        raise UsageError(f"asked for {port}")

    monkeypatch.setattr(serve, "open_server", open_server)
    make_run("runs/a")
    assert jaxprop("report", "runs/a", "--serve", *options).err == f"error: asked for {port}\n"


REFUSED = [
    ("report nowhere", 2, "nowhere: there is no such run folder; did you mean"),
    ("report runs", 2, "runs is not a run's folder"),
    ("report runs/empty", 1, "runs/empty has an empty metrics.jsonl"),
    ("report runs/a runs/empty", 1, "runs/empty has an empty metrics.jsonl"),
    ("report runs/a --out none/x.html", 2, "none/x.html cannot be written"),
    ("report runs/a --out runs/a/metrics.jsonl", 2, "--out runs/a/metrics.jsonl: expected a file that ends in .html"),
    ("report runs/a --port 3", 2, "--port 3 needs --serve; add it"),
    ("report runs/a --serve --no-html", 2, "--serve writes no file; leave out --no-html"),
    ("report runs/a --serve --out x.html", 2, "--serve writes no file; leave out --out x.html"),
    ("report runs/a --no-html --out x.html", 2, "--no-html writes no page, so --out x.html has no effect"),
    ("report runs/a --serve --json", 2, "--serve goes on until Ctrl-C and prints no result; leave out --json"),
]


@pytest.mark.parametrize(("line", "code", "sentence"), REFUSED, ids=[row[0] for row in REFUSED])
def test_one_sentence_and_nothing_lost(jaxprop, line, code, sentence):
    make_run("runs/a")
    make_run("runs/nowhere1")
    make_run("runs/empty", metrics=[])
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    ran = jaxprop(*line.split())
    assert ran.code == code
    # What came of a run that can be read is told, although its page cannot be written.
    assert ran.out[:10] == ("a: Healthy" if "none/x.html" in line else "")
    assert ran.err.startswith(f"error: {sentence}")
    assert ran.err.count("\n") == 1
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("default_signals")
def test_the_server_stops_on_ctrl_c_with_exit_code_0(tmp_path):
    folder = make_run(tmp_path / "a")
    command = [sys.executable, "-m", "jaxprop", "report", str(folder), "--serve", "--port", "0"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        url = server.stdout.readline().split()[1]
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(url + "data.json", timeout=10) as answer:
            assert answer.status == 200
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        assert (server.stdout.read(), server.stderr.read()) == ("stopped\n", "")
    assert not (folder / "report.html").exists()


def test_json(jaxprop):
    make_run("runs/a", alerts=[ALERT])
    ran = jaxprop("report", "a", "--json")
    found = json.loads(ran.out)
    assert (ran.code, ran.err) == (0, "")
    assert (found["command"], found["run"]) == ("report", str(Path("runs/a").absolute()))
    assert found["report"] == str(Path("runs/a/report.html").absolute())
    assert [(run["name"], run["tone"], run["step"]) for run in found["runs"]] == [("a", "bad", 100)]
    make_run("runs/b")
    found = json.loads(jaxprop("report", "a", "b", "--json", "--no-html").out)
    assert (found["run"], found["report"], found["compare"]["order"]) == (None, None, [0, 1])


def test_quiet(jaxprop):
    make_run("runs/a")
    assert jaxprop("report", "a", "-q").out == "report: runs/a/report.html\n"
    assert jaxprop("report", "a", "-q", "--no-html").out == "a: Healthy: 100 steps without an alert.\n"


def test_several_runs_end_with_a_table_of_them(jaxprop):
    make_run("runs/a")
    make_run("runs/b", config=CONFIG.replace("lr: 0.1", "lr: 0.2"))
    ran = jaxprop("report", "a", "b", "--no-html")
    header, first, second = [line.split() for line in ran.out.splitlines() if "─" not in line][-3:]
    assert header[:5] == ["run", "optimizer.lr", "best", "eval", "accuracy"]
    assert header[-1] == "status"
    assert (first[:2], second[:2]) == (["a", "0.1"], ["b", "0.2"])


# -- sweeps -----------------------------------------------------------------------------------------


def swept(name="runs/s", *, lost="the loss was not finite for 25 steps in a row"):
    runs = [({"optimizer.lr": lr}, seed, value) for lr, value in ((0.1, 0.8), (0.2, 0.9)) for seed in (0, 1)]
    folder = make_sweep(name, [*runs, ({"optimizer.lr": 9}, 0, lost)])
    for one in ("lr=0.1,seed=0", "lr=0.2,seed=0", "lr=0.2,seed=1"):
        make_run(folder / one, alerts=[ALERT] if one == "lr=0.1,seed=0" else [])
    return folder


def test_a_sweep(jaxprop):
    swept()
    ran = jaxprop("report", "s")
    assert (ran.code, ran.err) == (0, "")
    rows = [line.split() for line in ran.out.splitlines() if line.strip()[:2] in ("1 ", "2 ", "3 ")]
    assert rows == [["1", "0.2", "0.9", "±", "0", "2"], ["2", "0.1", "0.8", "±", "0", "2"], ["3", "9", "0", "1"]]
    for line in (
        "lost: lr=9, seed=0: the loss was not finite for 25 steps in a row",
        "alerts: lr=0.1: gradient spike",
        "best against next (lr=0.1): +0.1, p = 0 over 2 seeds, which is more than the spread of the seeds",
        "use it with: jaxprop train --from runs/s",
    ):
        assert line in ran.out.splitlines()
    assert ran.out.endswith("report: runs/s/report.html\n")
    assert "lr%3D0.2%2Cseed%3D1/" in Path("runs/s/report.html").read_text()


def test_a_sweep_in_json_and_in_one_line(jaxprop):
    swept()
    found = json.loads(jaxprop("report", "runs/s", "--json", "--no-html").out)
    assert (found["command"], found["report"], found["runs"]) == ("report", None, [])
    assert found["run"] == str(Path("runs/s").absolute())
    assert [one["mean"] for one in found["sweep"]["settings"]] == [0.9, 0.8, None]
    assert found["sweep"]["alerts"][0]["kinds"] == [["gradient spike", 1]]
    assert not Path("runs/s/report.html").exists()
    assert jaxprop("report", "runs/s", "-q", "--no-html").out == "use it with: jaxprop train --from runs/s\n"
    assert jaxprop("report", "runs/s", "-q", "--out", "x.html").out == "report: x.html\n"


def test_sweeps_among_runs_stand_for_their_best_run(jaxprop):
    swept()
    swept("runs/t")
    make_run("runs/a")
    ran = jaxprop("report", "s", "runs/a", "t", "--out", "x.html")
    assert (ran.code, ran.err) == (0, "")
    assert "runs/s: the run of its best setting with the first seed, lr=0.2,seed=0" in ran.out
    names = [run["name"] for run in json.loads(jaxprop("report", "s", "a", "t", "--json", "--no-html").out)["runs"]]
    assert names == ["s/lr=0.2,seed=0", "a", "t/lr=0.2,seed=0"]


def test_a_sweep_that_has_nothing_to_show(jaxprop):
    folder = swept()
    (folder / "results.json").unlink()
    for words in (("runs/s",), ("runs/s", "--serve"), ("runs/s", "runs/s/lr=0.1,seed=0")):
        ran = jaxprop("report", *words)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("error: runs/s has no results.json: none of its runs has ended")
    assert jaxprop("report", "runs/s", "--out", "a.txt").code == 2


def test_names_in_a_sweep_cannot_steer_the_terminal(jaxprop):
    evil = "a.\x1b[2J"
    make_sweep("runs/s", [({evil: evil}, 0, 0.5), ({evil: 1}, 0, evil)], metric="[/x]")
    ran = jaxprop("report", "s")
    assert (ran.code, ran.err) == (0, "")
    assert "\x1b" not in ran.out
    assert "[/x]" in ran.out


def test_a_sweep_is_served(jaxprop, monkeypatch):
    seen = []

    def open_server(page, port):
        seen.append(json.loads(page.newest()[0])["sweep"]["settings"][0])
        raise UsageError(f"asked for {port}")

    monkeypatch.setattr(serve, "open_server", open_server)
    swept()
    assert jaxprop("report", "s", "--serve", "--port", "0").err == "error: asked for 0\n"
    assert seen[0]["runs"] == [[0, None, "completed"], [1, None, "completed"]]  # a server leads to no folders

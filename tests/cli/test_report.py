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

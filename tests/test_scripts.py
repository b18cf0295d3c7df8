"""The scripts start, and the benchmark compares what it says it compares. No timing is asserted."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxprop.bench.document import read
from jaxprop.config.schema.data import Coco
from jaxprop.data import open_sources
from jaxprop.run import champions
from tests.bench.documents import make_document, make_row, save

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(script):
    command = [sys.executable, str(script), "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=script.parent.parent)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("usage: ")


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS[0].parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    return loaded("bench_step")


@pytest.fixture(scope="module", params=[1, 2], ids=lambda n: f"steps_per_call {n}")
def sides(bench, request):
    with jax.numpy_dtype_promotion("standard"):  # optax itself needs it, in the step by hand
        return bench.sides(bench.mlp(8, [4, 5, 3], 4), request.param, ["lean", "rows", "full"])


def test_all_sides_have_taken_the_same_steps(sides):
    assert set(sides) == {"hand", "again", "lean", "rows", "full"}
    assert len({side.calls for side in sides.values()}) == 1
    by_hand = jax.tree.leaves(sides["hand"].state[0])
    for name, side in sides.items():
        params = side.state[0] if name == "again" else sides["hand"].state[0] if name == "hand" else side.state.params
        for mine, hand in zip(jax.tree.leaves(params), by_hand, strict=True):
            if name == "again":
                np.testing.assert_array_equal(mine, hand)
            np.testing.assert_allclose(mine, hand, rtol=1e-5, atol=1e-7)


def test_sides_measure_what_they_are_named_after(sides):
    for name, layers, rare in (("lean", 0, False), ("rows", 2, False), ("full", 2, True)):
        with jax.numpy_dtype_promotion("standard"):
            _, m = jax.eval_shape(sides[name].step, sides[name].state, sides[name].batch)
        assert (len(m.layout.layers), m.layout.rare) == (layers, rare)


def test_peak_memory_counts_what_is_held_once(sides):
    hand = sides["hand"]
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((hand.state, hand.batch)))
    with jax.numpy_dtype_promotion("standard"):
        assert held <= hand.peak_bytes() < 2 * held + 20_000
        # What is measured rarely is added up in blocks of 1,024 entries, which these few are padded to.
        for name, room in {"lean": 20_000, "rows": 20_000, "full": 40_000}.items():
            assert hand.peak_bytes() <= sides[name].peak_bytes() < 2 * held + room


def test_a_round_goes_there_and_back(bench):
    order = []

    def side(name, *timings):
        left = list(timings)
        return type("Side", (), {"time": lambda self: order.append(name) or left.pop(0)})()

    runners = {"a": side("a", (1.0, 10.0), (3.0, 30.0), (5.0, 50.0), (5.0, 50.0)), "b": side("b", *[(2.0, 4.0)] * 4)}
    assert list(bench.rounds(runners, 2)) == [{"a": (2.0, 20.0), "b": (2.0, 4.0)}, {"a": (5.0, 50.0), "b": (2.0, 4.0)}]
    assert "".join(order) == "ABBAABBA".lower()


def test_as_it_comes_weighs_steps_as_a_run_of_200_takes_them(bench):
    # With the defaults steps 50, 100, 150 and 200 measure everything; of calls of 20 steps those that hold one do.
    assert bench.as_it_comes({"rows": 1.0, "full": 2.0}, 1) == 1 + 4 / 200
    assert bench.as_it_comes({"rows": 1.0, "full": 2.0}, 20) == 1 + 4 / 10


def test_a_row_of_the_table_has_a_cell_a_column(bench, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench_step.py", "--case", "tiny MLP, batch 64", "--rounds", "2"])
    monkeypatch.setattr(bench, "CASES", {"tiny MLP, batch 64": lambda: bench.mlp(8, [4, 5, 3], 20)})
    with jax.numpy_dtype_promotion("standard"):
        bench.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        f"tiny MLP, batch 64{more}" for more in ("", ", cpu", ", steps_per_call 20", ", steps_per_call 20, cpu")
    ]
    assert {len(row.split("|")) for row in rows} == {2 + 7}


# -- how long the path is -------------------------------------------------------------------------

SOURCE = '''"""A module."""

# A comment.
import os


def f():
    """Of two
    lines."""
    return os, """no
    docstring"""  # counted
'''


def test_lines_of_code_are_neither_blank_nor_comments_nor_docstrings():
    assert loaded("count_path").code_lines(SOURCE) == 4


def test_the_path_is_not_counted_where_the_package_is_imported_already(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxprop", object())
    with pytest.raises(RuntimeError, match="in a process of its own"):
        loaded("count_path").count()


def test_a_new_count_replaces_the_old_one_and_nothing_else(monkeypatch, tmp_path):
    script = loaded("count_path")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    guide = tmp_path / "CONTRIBUTING.md"
    guide.write_text(f"# Guide\n\n{script.HEADING}\n\nWords.\n\n| old |\n|---|\n\n## Next\n\n| kept |\n")
    frames = [script.Frame("a.py", 3, "f"), script.Frame("b.py", 9, "g")]
    counted = script.Count(frames, {"a.py": 1000, "b.py": 2, "c.py": 3})
    for _ in range(2):
        script.write(counted)
        told = guide.read_text()
        assert told == f"# Guide\n\n{script.HEADING}\n\nWords.\n\n{script.table(counted)}\n\n## Next\n\n| kept |\n"
    assert "| every file that has run, imports included | 3 | 1,005 |" in told
    assert "| files of the 2 frames on the stack | 2 | 1,002 |" in told


# -- the config reference -------------------------------------------------------------------------


def test_the_committed_config_reference_is_what_the_script_writes():
    script = loaded("make_config_reference")
    written = script.REFERENCE.read_text(encoding="utf-8")
    assert written == script.reference(), "write it anew: python scripts/make_config_reference.py"


# -- comparing results ----------------------------------------------------------------------------


def test_pairs_of_results_are_judged_by_kind(tmp_path, capsys):
    for i in range(2):
        for kind, seconds in (("planted", 0.0108), ("equal", 0.01)):
            waited = {"waited_seconds": 0.001 * i}
            save(make_document(make_row(seed=4 * i, facts=waited)), tmp_path / f"{kind}-{i:02}-a.json")
            save(make_document(make_row(seconds=seconds, seed=4 * i + 1)), tmp_path / f"{kind}-{i:02}-b.json")
    save(make_document(make_row()), tmp_path / "equal-02-a.json")  # of a measurement that was interrupted
    loaded("bench_compare").report(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("planted 00: slower     1.0")
    assert "| planted | 2 of 2 | 0 of 2 | 0 of 2 | 0 of 2 |" in lines
    assert "| equal | 0 of 2 | 0 of 2 | 2 of 2 | 0 of 2 |" in lines
    assert lines[-1].startswith("waited for a core: median ")


def test_a_planted_document_says_how_long_it_slept(tmp_path, monkeypatch):
    script = loaded("bench_compare")
    monkeypatch.setattr(script, "WIDTH", 32)
    for name, slower in (("a", 0.0), ("b", 0.5)):
        script.measure_one(tmp_path / f"{name}.json", slower, 2.0)
    first, second = (read(tmp_path / f"{name}.json") for name in "ab")
    assert first.complete
    assert len(first.rows[0].samples) > 1
    assert "slept" not in first.rows[0].facts
    assert second.rows[0].facts["slept"] >= 0.5


def test_weeks_that_drift_are_read_as_they_are_meant(tmp_path):
    script, classes, labels = loaded("weekly_drift"), {}, {}
    script.write_weeks(tmp_path, {"train": 30, "test": 8}, side=64, seed=0)
    for number in range(1, 5):
        week = tmp_path / f"week{number}"
        section = Coco(name="coco", train=str(week / "train.json"), test=str(week / "test.json"))
        sources = open_sources(section, "detect")
        assert {split: source.length for split, source in sources.items()} == {"train": 30, "test": 8}
        classes[number] = sources["train"].info["class_names"]
        batch = sources["train"].take(np.arange(30))
        labels[number] = batch["labels"][batch["mask"] > 0]
        assert "notes" not in sources["train"].info  # no box is cut or left out
    assert classes[1] == classes[2] == [str(digit) for digit in range(9)]
    assert classes[3] == classes[4] == [str(digit) for digit in range(10)]
    assert 9 in labels[3]
    wrong = json.loads((tmp_path / "week4" / "wrong.json").read_text())
    assert len(wrong) == round(0.3 * len(labels[4]))


def test_the_classes_that_are_wrong_are_those_that_are_listed():
    script = loaded("weekly_drift")
    held = {
        "categories": [{"id": i + 1} for i in range(10)],
        "annotations": [{"id": i, "category_id": i % 10 + 1} for i in range(100)],
    }
    wrong = script.mislabel(held, 0.3, np.random.default_rng(0))
    assert [item["id"] for item in held["annotations"] if item["category_id"] != item["id"] % 10 + 1] == wrong
    assert len(wrong) == 30


FOUR_WEEKS = """
import importlib.util, json, sys
from pathlib import Path
from jaxprop.config.load import load
from jaxprop.errors import DataError
from jaxprop.run.train import train
from jaxprop.tools.retrain import Request, retrain
script, folder = sys.argv[1], Path(sys.argv[2])
spec = importlib.util.spec_from_file_location("weekly_drift", script)
drift = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drift)
drift.write_weeks(folder, {"train": 1200, "test": 200}, side=40, seed=0)
(folder / "detect.yaml").write_text(drift.CONFIG.format(root=folder, side=40, epochs=45))
quick = ("model.widths=[16,32,48]", "parallel.devices=1", "health.layers=false", "health.taps=false")
assert train(load(folder / "detect.yaml", quick).config, folder / "digits", quiet=True).exit_code == 0

def challenge(week, **changes):
    data, root = str(folder / f"week{week}"), folder / "champions"
    asked = Request("champion:digits", data, root=root, overrides=("run.epochs=10",))
    return retrain(asked._replace(**changes), quiet=True).record

told = {"second": challenge(2, run=str(folder / "digits"))}
try:
    challenge(3)
except DataError as error:
    told["refused"] = str(error)
told |= {"third": challenge(3, new_classes=True), "fourth": challenge(4, replay=0.1)}
(folder / "told.json").write_text(json.dumps(told))
"""


@pytest.mark.skipif("JAXPROP_LONG_TESTS" not in os.environ, reason="takes ten minutes; JAXPROP_LONG_TESTS=1 runs it")
@pytest.mark.timeout(2400)
def test_four_weeks_of_a_detector_end_with_a_week_of_wrong_labels_that_is_refused(tmp_path):
    """New clutter is learned, and a new class once it is asked for; wrong labels are named.

    In a process of its own, whose programs are optimized: here computing takes longer than compiling.
    """
    command = [sys.executable, "-c", FOUR_WEEKS, str(SCRIPTS[0].parent / "weekly_drift.py"), str(tmp_path)]
    flags = os.environ["XLA_FLAGS"] + " --xla_backend_optimization_level=3 --xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(SCRIPTS[0].parent.parent)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    told, root = json.loads((tmp_path / "told.json").read_text()), tmp_path / "champions"
    second, third, fourth = (told[name] for name in ("second", "third", "fourth"))
    assert second["decision"] == "promoted", second["reason"]
    assert "the new data have '9', which the champion does not know" in told["refused"]
    assert third["decision"] == "promoted", third["reason"]
    assert third["new_classes"] == ["9"]
    assert fourth["decision"] == "kept aside", fourth["reason"]
    assert champions.current(root, "digits").number == 3

    found = fourth["suspects"]
    assert found["share"] > found["usual"] + 0.2
    held, wrong = (json.loads((tmp_path / "week4" / f"{name}.json").read_text()) for name in ("train", "wrong"))
    mislabelled = {one["image_id"] for one in held["annotations"] if one["id"] in set(wrong)}
    places = {str(tmp_path / "week4" / one["file_name"]) for one in held["images"] if one["id"] in mislabelled}
    lines = (root / "digits" / "versions" / "0004" / "suspects.jsonl").read_text().splitlines()
    suspects = {line["name"] for line in map(json.loads, lines) if line["suspect"]}
    assert len(suspects & places) > 0.7 * len(suspects)
    assert len(suspects & places) > 0.5 * len(places)


# -- scripts/distill_digits.py --------------------------------------------------------------------


def test_a_network_that_learns_few_labels_is_better_with_a_teacher(monkeypatch):
    script = loaded("distill_digits")
    monkeypatch.setattr(script, "SETTINGS", ((None, None), (0.9, 4.0)))
    alone, taught = script.settings(steps=1000, teacher_steps=200).values()
    assert len(alone) == len(taught) == 3
    for one, other in zip(alone, taught, strict=True):
        assert other["loss"] < 0.95 * one["loss"]
    assert sum(row["accuracy"] for row in taught) > sum(row["accuracy"] for row in alone)


# -- scripts/cron ---------------------------------------------------------------------------------

CRON = SCRIPTS[0].parent / "cron"
RECORD = '#!/bin/sh\nprintf "%s\\n" "$@"\n'


def setting(file, name):
    (value,) = [
        line.partition("=")[2] for line in (CRON / file).read_text().splitlines() if line.startswith(f"{name}=")
    ]
    return value


def crontab_line():
    """The command of the crontab as cron hands it to the shell: `\\%` is a percent sign."""
    (line,) = [line for line in (CRON / "jaxprop-retrain.crontab").read_text().splitlines() if line.startswith("15 3 ")]
    return line.split(" ", 5)[5].replace("\\%", "%")


def service_line():
    """The command of the service as systemd hands it to the system: `%%` is a percent sign."""
    return shlex.split(setting("jaxprop-retrain.service", "ExecStart").replace("%%", "%"))


@pytest.fixture
def project(tmp_path):
    """A folder with a `jaxprop` that prints its arguments."""
    program = tmp_path / ".venv" / "bin" / "jaxprop"
    program.parent.mkdir(parents=True)
    program.write_text(RECORD)
    program.chmod(0o755)
    return tmp_path


def test_the_crontab_and_the_timer_run_the_same_command_at_the_same_time(project):
    subprocess.run(
        ["/bin/sh", "-c", crontab_line()], env={"PROJECT": str(project), "PATH": os.environ["PATH"]}, check=True
    )
    ran = subprocess.run(service_line(), cwd=project, capture_output=True, text=True, check=True)
    assert (project / "retrain.log").read_text() == ran.stdout
    *start, data, replay, share, quiet = ran.stdout.splitlines()
    assert start == ["retrain", "champion:detector", "--data"]
    assert re.fullmatch(r"new/20\d\d-W[0-5]\d", data)
    assert (replay, share, quiet) == ("--replay", "0.3", "--quiet")
    assert setting("jaxprop-retrain.timer", "OnCalendar") == "Mon *-*-* 03:15:00"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    units = [shutil.copy(path, tmp_path) for path in sorted(CRON.glob("jaxprop-retrain.[st]*"))]
    assert len(units) == 2
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_poisoned_batches_are_left_out_to_the_bit():
    """A tenth of what docs/results/FAULTS.md is to tell of; in a process of its own, which has one device."""
    command = [sys.executable, "scripts/faults_poison.py", "--trials", "5", "--seed", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS[0].parent.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 of 5 trials as they must be, 25 batches" in ran.stdout


@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("signals", [["KILL"], ["TERM", "INT"]], ids=" ".join)
def test_runs_that_are_killed_or_stopped_end_as_the_undisturbed_one(signals):
    command = [sys.executable, "scripts/faults_signals.py", "--trials", "5", "--seed", "2", "--signals", *signals]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS[0].parent.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count('"wrong": []') == 5


@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_that_live_through_faults_end_as_the_undisturbed_one():
    command = [sys.executable, "scripts/soak.py", "--runs", "2", "--faults", "5", "--minutes", "8", "--seed", "11"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS[0].parent.parent)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 of 2 runs as they must be" in ran.stdout


# -- precision_proof --------------------------------------------------------------------------------


@pytest.fixture
def proof(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    return loaded("precision_proof")


def test_welch_is_that_of_scipy(proof):
    stats = pytest.importorskip("scipy.stats")
    full, half = [0.91, 0.93, 0.92], [0.95, 0.90, 0.96]
    found, told = proof.welch(half, full), stats.ttest_ind(half, full, equal_var=False).confidence_interval(0.95)
    assert (found.difference - found.margin, found.difference + found.margin) == pytest.approx((told.low, told.high))
    assert found.within
    assert not proof.welch([0.5, 0.51, 0.49], full).within
    assert proof.welch([1.0, 1.0], [1.0, 1.0]) == (0, 0)
    assert not proof.welch([1.0, 1.0], [0.9, 0.9]).within
    assert proof.welch([1.0], full) is None


def test_a_run_is_shortened_in_proportion(proof):
    assert proof.shortened("stdlib_lm", 1, None) == (0, ())
    steps, overrides = proof.shortened("stdlib_lm", 0.1, None)
    assert steps == 32
    assert overrides == ("run.steps=32", "run.eval_every=16", "optimizer.schedule.warmup_steps=6")
    assert proof.shortened("stdlib_lm", 1, 400) == (320, ())
    assert proof.shortened("digits_mlp", 1, 46)[1][:2] == ("run.steps=46", "run.eval_every=12")  # it has 920


def test_only_what_is_missing_is_run_and_failures_are_shown(proof, monkeypatch, tmp_path, capsys):
    ran = []

    def run(config, seed, precision, *, quiet, overrides, cached):
        ran.append((seed, precision))
        found = {"config": config, "seed": seed, "precision": precision, "cpu_seconds": 1.0}
        if (seed, precision) == (1, "float16"):
            return found | {"failed": 3, "error": "error: it diverged"}
        if (seed, precision) == (0, "bfloat16") and len(ran) < 9:
            return found | {"failed": 137, "error": "killed"}
        values = {"float32": 0.90, "bfloat16": 0.91, "float16": 0.5}[precision]
        return found | {"step": 320, "test": {"step": 320, "loss": 1.0, "accuracy": values + seed / 100}}

    monkeypatch.setattr(proof.bench_configs, "run", run)
    out = tmp_path / "found.jsonl"
    for _ in range(2):
        proof.measure(["stdlib_lm"], [0, 1, 2], out, scale=1.0, most=None, again=False)
    assert len(ran) == 10  # what was killed is run once more, what has diverged is not
    assert ran[-1] == (0, "bfloat16")
    capsys.readouterr()
    lines = proof.table(proof.records(out)).splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {10}
    assert "| stdlib_lm | 320 | failed: float16 1: error: it diverged |" in lines[2]
    accuracy = next(line for line in lines if "accuracy" in line)
    assert "| 3/3/2 | 0.91 ± 0.01 | 0.92 ± 0.01 | 0.51 ± 0.014 | +0.01 ± 0.023: within | -0.4 ±" in accuracy
    assert accuracy.endswith(": different |")
    assert "bfloat16: 2 of 2 rows within" in lines[-3]

"""Which changes are tried and advised, and what a run says that does not fit."""

import json
import subprocess
import sys

import jax
import pytest

from jaxprop.config.build import build
from jaxprop.config.dump import dump
from jaxprop.config.load import load
from jaxprop.config.merge import merge, overrides_tree
from jaxprop.config.tree import Tree
from jaxprop.errors import DataError, OutOfMemoryError
from jaxprop.run import memory
from jaxprop.run import train as runner
from jaxprop.run.compose import compose
from jaxprop.train.compiled import TrainStep

SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 256, "prefetch": 0},
    "model": {"name": "cnn", "channels": [8], "hidden": []},
    "optimizer": {"name": "sgd", "lr": 0.01},
    "parallel": {"devices": 1},
    "run": {"steps": 4, "eval_every": 2, "eval_batches": 1},
    "sinks": {"console": False},
}
FULL = "RESOURCE_EXHAUSTED: Out of memory allocating 6400000000 bytes."


def config_with(**changes):
    return build({**SECTIONS, **{name: {**SECTIONS.get(name, {}), **keys} for name, keys in changes.items()}})


def lines(config):
    return [change.line for change in memory.changes(config)]


def test_the_changes_that_are_tried():
    assert lines(config_with()) == [
        "run.remat=full",
        "run.accumulate=4",
        "run.accumulate=2",
        "data.batch_size=128",
        "precision.policy=bfloat16",
        "run.remat=dots",
        "run.remat=dots_no_batch",
    ]


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"data": {"batch_size": 6}}, "run.accumulate=4"),
        ({"data": {"batch_size": 1}}, "data.batch_size=0"),
        ({"run": {"remat": "full"}}, "run.remat=dots"),
        ({"run": {"remat": "dots"}}, "run.remat=dots"),
        ({"precision": {"policy": "bfloat16"}}, "precision.policy=bfloat16"),
        ({"precision": {"policy": "float16"}}, "precision.policy=bfloat16"),
    ],
)
def test_changes_that_are_impossible_or_useless_are_not_tried(changes, absent):
    assert absent not in lines(config_with(**changes))


def test_every_change_is_a_line_that_can_be_pasted():
    config = config_with()
    for change in memory.changes(config):
        patch, problems = overrides_tree([change.line])
        assert not problems
        assert build(merge(Tree(SECTIONS, {}), patch).value) == change.config


def test_advice_lowers_the_compiled_peak_and_the_largest_saving_comes_first():
    config, notes = config_with(health={"layers": False}), []
    now = memory.predicted(compose(config))
    advice = memory.advise(config, now, note=notes.append)
    assert len(notes) == len(lines(config))
    assert "run.accumulate=4" in {one.line for one in advice}
    assert [one.saving for one in advice] == sorted((one.saving for one in advice), reverse=True)
    assert {one.line for one in advice} == set(lines(config))  # what does not help is told, too
    assert all(one.peak + one.saving == now.peak and one.helps == (one.saving > 0.01 * now.peak) for one in advice)
    assert {one.line: one.resumes for one in advice}["run.accumulate=4"] is False
    by_line = {change.line: change.config for change in memory.changes(config)}
    assert memory.predicted(compose(by_line[advice[0].line])).peak == advice[0].peak


@pytest.mark.parametrize("changes", [{"run": {"steps_per_call": 2}}, {"health": {"layers": False}}])
def test_the_call_that_is_predicted_is_the_run_s_own(changes):
    config = config_with(**changes)
    experiment = compose(config)
    found = memory.predicted(experiment)
    calls = config.run.steps_per_call
    batch = sum(leaf.nbytes for leaf in next(experiment.stream).values())
    assert found.parts["batch"] == calls * batch


def raised_from(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError(FULL), True),
        (jax.errors.JaxRuntimeError("INTERNAL: another"), False),
        (raised_from(DataError("no"), MemoryError()), True),
        (ValueError("RESOURCE_EXHAUSTED"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error, expected):
    assert memory.is_out_of_memory(error) == expected


@pytest.fixture
def full_from(monkeypatch):
    """Has the compiled step run out of memory from a call on."""

    def plant(first):
        calls, step = [], TrainStep.__call__

        def planted(self, *args):
            calls.append(None)
            if len(calls) >= first:
                raise jax.errors.JaxRuntimeError(FULL)
            return step(self, *args)

        monkeypatch.setattr(TrainStep, "__call__", planted)

    return plant


def known(monkeypatch, *advice):
    findings = [{"peak": 8 << 30, "part": "activations", "size": 6 << 30}, *(one._asdict() for one in advice)]
    monkeypatch.setattr(memory, "_worked_out", lambda experiment: findings)


ACCUMULATE = memory.Advice("run.accumulate=2", 5 << 30, 3 << 30, resumes=False)
REMAT = memory.Advice("run.remat=full", 6 << 30, 2 << 30, resumes=True)


@pytest.mark.parametrize(
    ("first", "advice", "end"),
    [
        (1, [REMAT, ACCUMULATE], "; run.accumulate=2 lowers it to 5.0 GiB, which saves 3.0 GiB"),
        (
            4,
            [ACCUMULATE, REMAT],
            "; run.remat=full lowers it to 6.0 GiB, which saves 2.0 GiB, and goes on from the checkpoint of step 2",
        ),
        (
            4,
            [ACCUMULATE],
            "; run.accumulate=2 lowers it to 5.0 GiB, which saves 3.0 GiB, but changes what is computed: give it with "
            "--run DIR, or with --fresh",
        ),
        (1, [], "; a smaller model, a smaller data.batch_size or more devices would lower that"),
    ],
)
def test_a_step_that_does_not_fit_ends_the_run_with_one_sentence(monkeypatch, full_from, tmp_path, first, advice, end):
    full_from(first)
    known(monkeypatch, *advice)
    with pytest.raises(OutOfMemoryError) as caught:
        runner.train(config_with(), tmp_path / "run", quiet=True)
    assert str(caught.value) == (
        "this run does not fit in memory (an allocation of 6.0 GiB failed): a step needs 8.0 GiB on each device, of "
        f"which 6.0 GiB are activations{end}"
    )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["error"].endswith(str(caught.value))


def test_what_was_saved_is_gone_on_from(monkeypatch, full_from, tmp_path):
    known(monkeypatch, REMAT)
    full_from(4)
    with pytest.raises(OutOfMemoryError):
        runner.train(config_with(), tmp_path / "run", quiet=True)
    monkeypatch.undo()
    outcome = runner.train(config_with(run={"remat": "full"}), tmp_path / "run", quiet=True)
    assert (outcome.exit_code, outcome.summary["step"]) == (0, 4)


def test_an_explanation_that_fails_leaves_a_plain_sentence(monkeypatch, full_from, tmp_path):
    full_from(1)

    def failing(experiment):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(memory, "_worked_out", failing)
    with pytest.raises(OutOfMemoryError, match=r"lower data\.batch_size, raise run\.accumulate, or set"):
        runner.train(config_with(), tmp_path / "run", quiet=True)


def test_another_error_passes_through(tmp_path):
    with pytest.raises(KeyError), memory.explained(compose(config_with())):
        raise KeyError("other")


LIMITED = """
import resource, sys
import jax, flax, optax, orbax.checkpoint
from jaxprop import cli
from jaxprop.run import memory
jax.jit(lambda x: x + 1)(0)
memory.SECONDS = 40
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 2**30 * 3 // 2
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is on Linux only")
def test_a_process_whose_memory_is_limited(tmp_path):
    config = config_with(data={"batch_size": 1024}, model={"channels": [2048], "hidden": []}, health={"layers": False})
    (tmp_path / "wide.yaml").write_text(dump(config))
    command = [sys.executable, "-c", LIMITED, "train", str(tmp_path / "wide.yaml"), "--run", str(tmp_path / "run")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    *_, last = ended.stderr.strip().splitlines()
    assert last.startswith("error: this run does not fit in memory")
    assert "are activations; " in last
    assert load(tmp_path / "run" / "config.yaml").config.data.batch_size == 1024

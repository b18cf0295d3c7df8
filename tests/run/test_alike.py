"""Processes that would not train one model, or not save it in one place, are refused before the first step."""

import json

import pytest
import yaml

from jaxprop.errors import UsageError
from jaxprop.run import alike
from jaxprop.run.alike import check_fresh
from tests.run.many import ended, run_program, started
from tests.run.test_processes import write_config

SETTINGS = {
    "optimizer": {"lr": 0.1},
    "run": {"steps": 40, "eval_every": 4},
    "data": {"train": "/a/x.npz", "workers": 1},
}
# What a process has in place of process 0's: settings, fingerprint, length of evaluations, steps; and what is told.
CASES = [
    (SETTINGS, "f00d", 8, 40, None),
    (SETTINGS | {"data": {"train": "/b/x.npz", "workers": 4}, "sinks": {"jsonl": False}}, "f00d", 8, 40, None),
    (SETTINGS | {"optimizer": {"lr": 0.3}}, "f00d", 8, 40, "optimizer.lr: 0.1 -> 0.3"),
    (SETTINGS | {"run": {"steps": 40, "eval_every": 2}}, "f00d", 8, 40, "run.eval_every: 4 -> 2"),
    (SETTINGS, "f00e", 8, 40, 'data.train.1: "f00d" -> "f00e"'),
    (SETTINGS, "f00d", 7, 40, "data.evaluation.0: 8 -> 7"),
    (SETTINGS, "f00d", 8, 41, "steps: 40 -> 41"),
]
# In place of an experiment: all that is asked of one.
STANDING_IN = """
import json
from pathlib import Path
from types import SimpleNamespace
from jaxprop.run import alike
from jaxprop.types import Source
def experiment(settings, fingerprint, length, steps, saves):
    config = SimpleNamespace(checkpoint=SimpleNamespace(enabled=saves))
    alike.to_builtins = lambda _: settings
    return SimpleNamespace(
        config=config, total_steps=steps, sources={"train": Source(8, len, {}, fingerprint)},
        validation=Source(length, len, {}, "e7a1"),
    )
"""


def test_what_differs_is_named_and_what_each_host_may_have_for_itself_is_not():
    program = f"""
{STANDING_IN}
cases = json.loads({json.dumps(json.dumps(CASES))})
for case in cases:
    mine = cases[0] if is_first() else case
    try:
        alike.check_together(experiment(*mine[:4], saves=False), Path("nowhere"))
        print(json.dumps(None))
    except UsageError as error:
        print(json.dumps(str(error)))
"""
    first, second = run_program(program, 2)
    assert (first.code, second.code) == (0, 0), (first.err, second.err)
    assert first.out.splitlines() == ["null"] * len(CASES)
    for line, (*_, told) in zip(second.out.splitlines(), CASES, strict=True):
        expected = told and (
            f"process 1 would train something else than process 0, which is named first:\n  {told}\n"
            "start all processes by one command, with the same data and packages"
        )
        assert json.loads(line) == expected


@pytest.mark.parametrize("name", ["'run'", "f'run{process_index()}'"])
def test_a_folder_that_not_all_processes_see_is_refused(name, tmp_path):
    program = f"""
{STANDING_IN}
alike.VISIBLE_SECONDS = 1.0
folder = Path({str(tmp_path)!r}, {name})
folder.mkdir(exist_ok=True)
alike.check_together(experiment({{}}, "f00d", 8, 40, saves=True), folder)
"""
    first, second = run_program(program, 2)
    if name == "'run'":
        assert (first.code, second.code) == (0, 0), (first.err, second.err)
    else:
        says = f"process 1 does not see in {tmp_path / 'run1'} what process 0 has written to the run's folder, so their"
        assert (first.code, second.code) == (2, 2), (first.err, second.err)
        assert f"error: {says}" in second.err
        assert says in first.err
    assert not list(tmp_path.glob("*/.shared-*"))


def test_a_fresh_start_of_some_is_refused(monkeypatch):
    check_fresh(True)
    monkeypatch.setattr(alike, "agree", lambda name, value: not value)
    with pytest.raises(UsageError, match="process 0 is to start over, and process 0 is not; start all processes by"):
        check_fresh(True)


@pytest.mark.timeout(240)
def test_commands_that_differ_end_before_they_train(tmp_path):
    """The whole way of `jaxprop train`, with a file of settings of its own for each process."""
    command = write_config(tmp_path, run={"steps": 4, "eval_every": 4})
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for index in range(2):
        config["run"]["eval_every"] = 4 - 2 * index
        (tmp_path / f"config{index}.yaml").write_text(yaml.safe_dump(config))
    own = f'exec "$@" {tmp_path}/config$JAX_PROCESS_ID.yaml --run {tmp_path}/run'
    with started(["bash", "-c", own, "bash", *command[:4]], 2) as children:
        first, second = ended(children)
    assert (first.code, second.code) == (2, 2), (first.err, second.err)
    assert "run.eval_every: 4 -> 2" in second.err
    assert not list(tmp_path.glob("run/checkpoints/*"))

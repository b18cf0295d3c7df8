"""A sweep in its folder: its runs against single ones, several at a time, stopped, resumed, and refused."""

import json
import signal
import sys

import jax
import numpy as np
import pytest
import yaml

from jaxprop.checkpoint import Checkpoints
from jaxprop.core import trees
from jaxprop.errors import ConfigError, UsageError
from jaxprop.run.compose import compose
from jaxprop.run.swept import as_json, read_results
from jaxprop.run.train import train
from jaxprop.tools.sweep import Axis, choice, plan, sweep, training
from jaxprop.tools.sweep.choice import choose
from jaxprop.tools.sweep.programs import groups

CONFIG = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.2},
    "optimizer": {"name": "adam", "lr": 1e-2},
    "health": {"every": 1, "rare_every": 10},
    "parallel": {"devices": 1},
    "run": {"steps": 20, "log_every": 5, "eval_every": 10},
}
RATES = Axis("optimizer.lr", (0.001, 0.01, 0.1))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return str(path)


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "examples_per_second"} for line in lines]


def state_of(folder, config):
    experiment = compose(config)
    abstract = jax.tree.map(trees.abstract, experiment.init(0))
    with Checkpoints(folder / "checkpoints", keep=2, best="loss", mode="min") as checkpoints:
        return checkpoints.restore(abstract, None).state


@pytest.mark.parametrize("lanes", [1, 3])
def test_each_run_is_that_of_its_configuration_by_itself(config, tmp_path, lanes):
    made = plan(config, [RATES], seeds=2)
    told = []
    found = sweep(made, tmp_path / "sweep", lanes=lanes, tell=told.append)
    assert (len(found.ended), found.left, found.exit_code) == (6, 0, 0)
    assert ("one after another" if lanes == 1 else "3 at a time") in told[0]
    for trial in made.trials:
        train(trial.config, tmp_path / "single" / trial.folder, quiet=True)
        mine, its = (records(place / trial.folder) for place in (tmp_path / "sweep", tmp_path / "single"))
        assert [sorted(record) for record in mine] == [sorted(record) for record in its]
        for one, other in zip(mine, its, strict=True):
            np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-6, atol=1e-6)
        states = [state_of(place / trial.folder, trial.config) for place in (tmp_path / "sweep", tmp_path / "single")]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), *(s.params for s in states))
    best = max(found.ranked, key=lambda one: one.mean)
    assert (found.metric, found.ranked[0]) == ("accuracy", best)
    assert best.setting["optimizer.lr"] > 0.001


def test_a_lane_does_not_depend_on_what_becomes_of_the_others(config, tmp_path):
    calm = plan(config, [Axis("optimizer.lr", (0.001, 0.01, 0.02))])
    wild = plan(config, [Axis("optimizer.lr", (0.001, 0.01, 1e30))], ["health.on_alert=stop", "health.max_skips=3"])
    sweep(calm, tmp_path / "calm", lanes=3, tell=str)
    found = sweep(wild, tmp_path / "wild", lanes=3, tell=str)
    assert [one.status for one in found.ended] == ["completed", "completed", "diverged"]
    assert found.ranked[-1].lost == 1
    for trial in calm.trials[:2]:
        assert records(tmp_path / "calm" / trial.folder) == records(tmp_path / "wild" / trial.folder)
        one, other = (state_of(tmp_path / place / trial.folder, trial.config) for place in ("calm", "wild"))
        jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_a_place_that_is_free_is_taken_by_the_next(config, tmp_path):
    made = plan(config, [RATES], seeds=2)
    found = sweep(made, tmp_path / "two", lanes=2, tell=str)
    assert [one.status for one in found.ended] == ["completed"] * 6
    whole = sweep(made, tmp_path / "six", lanes=6, tell=str)
    for one, other in zip(found.ended, whole.ended, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4)


def test_what_is_complete_is_not_trained_again_and_what_is_new_is(config, tmp_path, monkeypatch):
    sweep(plan(config, [RATES], seeds=1), tmp_path, lanes=1, tell=str)
    before = {path: path.read_bytes() for path in tmp_path.glob("lr=*/metrics.jsonl")}
    steps = []
    monkeypatch.setattr(training, "train", lambda *a, **k: steps.append(k) or train(*a, **k))
    found = sweep(plan(config, [RATES], seeds=2), tmp_path, lanes=1, tell=str)
    assert len(found.ended) == 6
    assert len(steps) == 3  # of the new seed
    assert {path: path.read_bytes() for path in before} == before
    assert len(json.loads((tmp_path / "sweep.json").read_text())["runs"]) == 6


@pytest.mark.parametrize(("lanes", "devices"), [(1, 1), (2, 1), (2, 2)])
def test_a_sweep_that_is_stopped_goes_on_where_it_was(config, tmp_path, lanes, devices):
    made = plan(config, [RATES], [f"parallel.devices={devices}"])
    told = []

    def stop(line):
        told.append(line)
        if line.startswith("[1/3]"):
            signal.raise_signal(signal.SIGINT)

    found = sweep(made, tmp_path / "stopped", lanes=lanes, tell=stop)
    assert (found.exit_code, found.left) == (130, 3 - sum(one.status == "completed" for one in found.ended))
    assert found.left >= 1
    results = read_results(tmp_path / "stopped")
    assert (results.left, len(results.settings)) == (found.left, 3 - found.left)
    assert [one.lost for one in results.settings] == [0] * len(results.settings)  # a run to be gone on with is not lost
    again = sweep(made, tmp_path / "stopped", lanes=lanes, tell=str)
    assert read_results(tmp_path / "stopped").left == 0
    whole = sweep(made, tmp_path / "whole", lanes=lanes, tell=str)
    assert [one.status for one in again.ended] == ["completed"] * 3
    for one, other in zip(again.ended, whole.ended, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4)


def test_a_run_that_cannot_be_trained_is_told_and_the_others_go_on(config, tmp_path):
    nothing, wrong = [], [{"match": "nope", "lr_scale": 2.0}]
    made = plan(config, [Axis("optimizer.groups", (nothing, wrong))])
    found = sweep(made, tmp_path, tell=str)
    assert [one.status for one in found.ended] == ["completed", "failed"]
    assert "'nope' matches no parameter" in found.ended[1].problem


def test_runs_of_other_shapes_are_programs_of_their_own(config, tmp_path):
    told = []
    made = plan(config, [Axis("model.hidden", ([8], [4])), Axis("optimizer.lr", (0.01, 0.1))])
    found = sweep(made, tmp_path, lanes=1, tell=told.append)
    assert sum("2 runs by one program" in line for line in told) == 2
    assert [one.status for one in found.ended] == ["completed"] * 4


def test_runs_whose_batches_may_differ_in_shape_are_trained_one_after_another(config, tmp_path, monkeypatch):
    told = []
    several = plan(config, [RATES], ["run.steps_per_call=5"])
    assert len(sweep(several, tmp_path / "several", lanes=3, tell=told.append).ended) == 3
    assert "one after another" in told[0]
    (group,) = groups(plan(config, [RATES]).trials)
    assert choose(group, 3).lanes is not None
    train = group.program.experiment.sources["train"]._replace(buckets=np.zeros(1))
    monkeypatch.setattr(group.program, "experiment", group.program.experiment._replace(sources={"train": train}))
    assert choose(group, 3).lanes is None


@pytest.mark.parametrize(("lanes", "used"), [(3, 2), (2, 2), (1, 0)])
def test_lanes_on_several_devices_are_the_runs_by_themselves(config, tmp_path, lanes, used):
    made, told = plan(config, [RATES], ["parallel.devices=2"], seeds=2), []
    found = sweep(made, tmp_path / "sweep", lanes=lanes, tell=told.append)
    assert [one.status for one in found.ended] == ["completed"] * 6
    assert (f"{lanes} at a time on 2 devices" if used else "one after another") in told[0]
    alone = plan(config, [RATES], seeds=2)
    for trial in alone.trials:
        train(trial.config, tmp_path / "single" / trial.folder, quiet=True)
        mine, its = (records(place / trial.folder) for place in (tmp_path / "sweep", tmp_path / "single"))
        for one, other in zip(mine, its, strict=True):
            np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5 if used else 1e-4, atol=1e-6)
    # What was written is a run like any other, on however many devices.
    again = train(made.trials[0].config, tmp_path / "sweep" / made.trials[0].folder, quiet=True)
    assert again.summary["step"] == 20


def test_runs_that_need_their_devices_are_no_lanes(config):
    (group,) = groups(plan(config, [RATES], ["parallel.devices=8", "parallel.mesh.fsdp=2"]).trials)
    assert choose(group, 3).lanes is None
    (group,) = groups(plan(config, [RATES], ["parallel.devices=8", "parallel.deterministic=across_devices"]).trials)
    assert choose(group, 3).lanes is None
    (group,) = groups(plan(config, [RATES], ["parallel.devices=8"]).trials)
    chosen = choose(group, 3)
    assert (chosen.lanes.count, chosen.note) == (3, "3 runs by one program, 3 at a time on 3 devices")


def test_lanes_that_fail_while_they_are_timed_cost_no_run(config, monkeypatch):
    (group,) = groups(plan(config, [RATES], ["run.steps=100000"]).trials)
    monkeypatch.setattr(choice, "WORTH", 0)

    def fails(*_):
        raise MemoryError("out of memory\nmore")

    monkeypatch.setattr(choice, "seconds_together", fails)
    chosen = choose(group, None)
    assert chosen.lanes is None
    assert chosen.note.endswith("one after another, since lanes failed: out of memory")


def test_runs_and_sweeps_have_folders_of_their_own(config, tmp_path):
    made = plan(config, [RATES], ["run.steps=1"])
    train(made.base, tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="run is the folder of a run, not of a sweep; choose another with --run DIR"):
        sweep(made, tmp_path / "run", lanes=1, tell=str)
    sweep(made, tmp_path / "s", lanes=1, tell=str)
    with pytest.raises(UsageError, match="s is the folder of a sweep, whose runs have folders in it; choose another"):
        train(made.base, tmp_path / "s", quiet=True)


def test_a_folder_of_another_sweep_is_refused(config, tmp_path):
    sweep(plan(config, [RATES], ["run.steps=1"]), tmp_path / "s", lanes=1, tell=str)
    with pytest.raises(UsageError, match=r"holds another sweep, with the overrides .*--run DIR, or .*--fresh"):
        sweep(plan(config, [RATES], ["run.steps=2"]), tmp_path / "s", lanes=1, tell=str)
    (tmp_path / "s" / "sweep.json").write_text("{")
    with pytest.raises(UsageError, match=r"sweep.json is damaged; start over with --fresh"):
        sweep(plan(config, [RATES], ["run.steps=1"]), tmp_path / "s", lanes=1, tell=str)
    assert sweep(plan(config, [RATES], ["run.steps=1"]), tmp_path / "s", lanes=1, fresh=True, tell=str).left == 0


def test_a_sweep_does_not_go_on_with_another_model(config, tmp_path):
    made = plan(config, [RATES], ["run.steps=1", "run.eval_every=1"])
    sweep(made, tmp_path / "s", lanes=1, tell=str)
    before = {path: path.read_bytes() for path in (tmp_path / "s").glob("*.json")}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**CONFIG, "model": {"name": "mlp", "hidden": [4]}}))
    changed = plan(config, [Axis("optimizer.lr", (0.5, *RATES.values))], made.fixed)
    with pytest.raises(UsageError, match=r"(?s)another configuration.*model.hidden.0: 8 -> 4.*--fresh"):
        sweep(changed, tmp_path / "s", lanes=1, tell=str)
    assert {path: path.read_bytes() for path in (tmp_path / "s").glob("*.json")} == before
    assert sweep(changed, tmp_path / "s", lanes=1, fresh=True, tell=str).left == 0


def test_a_factor_on_the_rate_of_a_group_is_an_argument_and_1_is_none(config, tmp_path):
    groups_of = ["optimizer.groups=[{match: head/.*, lr_scale: 0.5}]", "run.steps=10"]
    made = plan(config, [Axis("optimizer.groups.0.lr_scale", (0.3, 0.6, 1.0))], groups_of)
    told = []
    found = sweep(made, tmp_path / "s", lanes=2, tell=told.append)
    assert [len(group.trials) for group in groups(made.trials)] == [2, 1]
    assert told[0].startswith("2 runs by one program, 2 at a time")
    assert found.exit_code == 0
    for trial in made.trials:
        train(trial.config, tmp_path / trial.folder, quiet=True)
        alone, lane = records(tmp_path / trial.folder), records(tmp_path / "s" / trial.folder)
        assert [list(record) for record in alone] == [list(record) for record in lane]
        np.testing.assert_allclose([r["loss"] for r in alone], [r["loss"] for r in lane], rtol=1e-6)


def test_what_is_varied_may_be_what_a_section_needs(config):
    boundaries, factors = Axis("run.grow_batch.boundaries", ([5], [9])), Axis("run.grow_batch.factors", ([2],))
    made = plan(config, [boundaries, factors], ["run.grow_batch.name=steps"])
    assert [trial.config.run.grow_batch.boundaries for trial in made.trials] == [(5,), (9,)]
    with pytest.raises(ConfigError, match=r"run.grow_batch.boundaries: required key is missing"):
        plan(config, [factors], ["run.grow_batch.name=steps"])


def test_results_are_on_the_disk_while_runs_end_and_gone_where_one_starts_over(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["jaxprop.tools.sweep.sweep"], "EVERY", 0.0)  # the function has the module's name
    seen = []

    def tell(line):
        path = tmp_path / "results.json"
        seen.append(len(json.loads(path.read_text())["runs"]) if path.exists() else 0)

    made = plan(config, [RATES], ["run.steps=1", "run.eval_every=1"])
    found = sweep(made, tmp_path, lanes=1, tell=tell)
    assert seen == [0, 0, 1, 2]  # one line for how they are trained, and one for each run, before it is written
    assert as_json(read_results(tmp_path))["runs"] == as_json(found.results)["runs"]
    seen.clear()
    sweep(made, tmp_path, lanes=1, fresh=True, tell=tell)
    assert seen == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("axes", "seeds", "error", "message"),
    [
        ([], None, UsageError, r"nothing is varied; give a key two or more values"),
        ([Axis("run.seed", (1, 2))], None, UsageError, r"varied by --seeds N"),
        ([Axis("optimizer.lr", tuple(range(1, 5001)))], 3, UsageError, r"15,000 runs are more than 10,000"),
        ([Axis("optimizer.rate", (1, 2))], None, ConfigError, r"optimizer.rate"),
        ([Axis("optimizer.lr", (0.1, -1))], None, ConfigError, r"optimizer.lr=-1"),
        ([Axis("model.dropout", (0, 2))], None, ConfigError, r"model.dropout=2"),
    ],
)
def test_plans_that_cannot_be_are_told_before_anything_runs(config, axes, seeds, error, message):
    with pytest.raises(error, match=message):
        plan(config, axes, seeds=seeds)

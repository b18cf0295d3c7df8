"""The loop: stopping at any step and resuming changes no bit; what is due when; divergence."""

import shutil
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop import data
from jaxprop.checkpoint import Checkpoints
from jaxprop.checkpoint.background import Background
from jaxprop.checkpoint.leaves import describe
from jaxprop.data import Source
from jaxprop.errors import CheckpointError, DataError
from jaxprop.run import loop as loop_module
from jaxprop.run.compose import Experiment, open_stream
from jaxprop.run.evaluate import evaluate
from jaxprop.sinks import Sink
from tests.benches import Bench, Poisoned, as_by_0_1_0, bits, copied, records, with_config

CASES = {
    "mlp": {},
    # 18 steps by 4: the last call takes 2. The loss scale starts above what float16 holds, so that steps are skipped.
    "float16 by 4": {
        "precision": {"policy": "float16", "loss_scale": 2.0**18, "growth_interval": 3},
        "run": {"steps": None, "epochs": 3, "log_every": 4, "steps_per_call": 4},
    },
    "augmented": {
        "data": {"augment": [{"name": "affine", "degrees": 10.0}, {"name": "crop", "pad": 1}, {"name": "mixup"}]},
        "run": {"steps": 8, "steps_per_call": 2, "log_every": 2},
    },
    "cnn": {"model": {"name": "cnn", "channels": [2], "hidden": [], "dropout": 0.3}, "run": {"steps": 8}},
}
# the first step, before, at and after an evaluation and an epoch's end, the middle of one, the last but one
STOPS = {"mlp": (1, 3, 4, 5, 6, 7, 9, 13), "float16 by 4": (4, 8, 12, 16), "augmented": (2, 4, 6), "cnn": (1, 4, 6)}


@pytest.fixture(scope="module", params=CASES)
def whole(request, tmp_path_factory):
    """Each case's compiled run, and what it leaves uninterrupted."""
    bench = Bench(CASES[request.param])
    return request.param, bench, bench.train(tmp_path_factory.mktemp(request.param))


def test_a_run_that_is_stopped_and_resumed_is_the_same_run(whole, tmp_path):
    name, bench, expected = whole
    assert expected.status == "completed"
    for k in STOPS[name]:
        folder = tmp_path / str(k)
        folder.mkdir()
        stopped = bench.train(folder, stop_at=k)
        assert (stopped.status, stopped.loop.step) == ("interrupted", k)
        # An evaluation due at the step itself is left to the run that goes on.
        before = [r for r in expected.metrics if r["step"] < k + (r["split"] == "train")]
        assert stopped.metrics == before
        resumed = bench.train(folder)
        assert resumed.status == "completed"
        assert resumed.metrics == expected.metrics, k
        assert resumed.layers == expected.layers, k
        assert bits(resumed.loop.state) == bits(expected.loop.state), k
        assert resumed.loop.metrics == expected.loop.metrics


def test_the_whole_run_is_what_the_cases_mean_it_to_be(whole):
    name, bench, expected = whole
    train = [record for record in expected.metrics if record["split"] == "train"]
    evals = [record["step"] for record in expected.metrics if record["split"] == "eval"]
    total = bench.experiment.total_steps
    assert evals == [*range(4, total, 4), total]
    assert train[-1]["step"] == total
    assert len({record["lr"] for record in train}) > 2  # a schedule
    assert jax.tree.leaves(expected.loop.state.ema)
    assert ("skips" in train[-1]) == (name == "float16 by 4")
    if name == "float16 by 4":
        assert [record["step"] for record in train] == [*range(1, 11), 12, 16, 18]


def test_what_a_run_has_to_compile_is_no_alert(whole):
    """Details, a short last call, evaluations, resuming, going back to a checkpoint."""
    _, bench, expected = whole
    assert [made.changes for made in bench.experiment.step.compilations if made.changes] == []
    assert bench.experiment.step.compilations
    assert [line for line in expected.alerts if line["kind"] == "recompilation"] == []


def test_a_batch_of_another_shape_is_an_alert_that_a_resumed_run_keeps(tmp_path, monkeypatch):
    bench = Bench({"run": {"accumulate": 1}})
    usual = loop_module.place

    def cut(experiment, batch):
        batch = {name: values[:200] for name, values in batch.items()} if batch["inputs"][0].sum() == first else batch
        return usual(experiment, batch)

    stream = open_stream(bench.config, bench.experiment.sources["train"])
    first = [next(stream) for _ in range(5)][4]["inputs"][0].sum()  # of the fifth batch
    monkeypatch.setattr(loop_module, "place", cut)
    whole = bench.train(tmp_path, stop_at=9)
    (line,) = [line for line in whole.alerts if line["kind"] == "recompilation"]
    assert (line["step"], line["severity"]) == (5, "advice")
    assert 'batch["inputs"]: float32[240,' in line["message"]
    assert "-> float32[200," in line["message"]
    assert line["value"] < whole.loop.clock.compile_seconds
    resumed = bench.train(tmp_path)
    assert resumed.status == "completed"
    assert [line for line in resumed.alerts if line["kind"] == "recompilation"] == [line]


def test_a_checkpoint_of_0_1_0_goes_on(tmp_path):
    """Its leaves come in another order, and its average is of the parameters alone."""
    bench = Bench({"model": {"name": "mlp", "batch_norm": False}})
    expected = bench.train(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "14")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        found = checkpoints.restore(bench.state, 12)
        checkpoints.clear(after=8)
        old = as_by_0_1_0(found.state)
        assert describe(old) != describe(found.state)
        assert checkpoints.save(12, old, stream=found.stream, config=found.config, metrics=found.metrics)
    resumed = bench.train(tmp_path)
    assert resumed.status == "completed"
    assert resumed.metrics == expected.metrics
    assert bits(resumed.loop.state) == bits(expected.loop.state)


def test_a_checkpoint_of_0_1_0_without_averages_of_statistics_is_refused_in_a_sentence(tmp_path):
    bench = Bench({})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(4, as_by_0_1_0(bench.state), stream={}, config={})
    says = "ema/extras/.* is missing there and float32.* go back to the config and version it was saved with"
    with pytest.raises(CheckpointError, match=says) as told:
        bench.train(tmp_path)
    assert "ema/params" not in str(told.value)


def test_stopping_twice_is_the_same_run_too(whole, tmp_path):
    name, bench, expected = whole
    first, *_, second = STOPS[name]
    bench.train(tmp_path, stop_at=first)
    bench.train(tmp_path, stop_at=second)
    assert bits(bench.train(tmp_path).loop.state) == bits(expected.loop.state)
    assert records(tmp_path) == expected.metrics


def test_a_run_that_lost_its_last_steps_takes_them_again(whole, tmp_path):
    """As after kill -9: records are there beyond the newest checkpoint."""
    name, bench, expected = whole
    bench.train(tmp_path, stop_at=STOPS[name][-1])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    older, newest = checkpoints.steps()[-2:]
    checkpoints.clear(after=older)
    assert checkpoints.latest() == older < newest
    resumed = bench.train(tmp_path)
    assert resumed.metrics == expected.metrics
    assert bits(resumed.loop.state) == bits(expected.loop.state)


# -- rhythm ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    """Two epochs of 6 steps, evaluated by default, and a model that compiles fast."""
    run = {"steps": None, "epochs": 2, "eval_every": None, "log_every": 3, "accumulate": 1}
    return Bench({"model": {"batch_norm": False}, "optimizer": {"grad_clip": None}, "run": run})


def test_evaluates_every_epoch_and_at_the_end_by_default(tiny, tmp_path):
    trained = tiny.train(tmp_path)
    assert [record["step"] for record in trained.metrics if record["split"] == "eval"] == [6, 12]


@pytest.mark.parametrize(
    ("section", "test", "kept"),
    [
        ({"every_steps": 5}, True, [5, 6, 10, 12]),
        ({"every_steps": None}, True, [6, 12]),
        ({"every_steps": None}, False, [6, 12]),
        ({"every_steps": 5}, False, [5, 10, 12]),
        ({"enabled": False}, True, []),
    ],
)
def test_saves_when_due(tiny, tmp_path, section, test, kept):
    config = with_config(tiny, checkpoint={**section, "keep": 99})
    changes = {} if test else {"validation": None}
    trained = tiny.train(tmp_path, config=config, **changes)
    assert trained.status == "completed"
    assert Checkpoints(tmp_path / "checkpoints").steps() == kept


def test_without_a_test_split_there_is_no_evaluation(tiny, tmp_path):
    trained = tiny.train(tmp_path, validation=None)
    assert {record["split"] for record in trained.metrics} == {"train"}
    assert trained.loop.metrics == {}


def test_unsaved_runs_start_over_and_keep_no_old_records(tiny, tmp_path):
    config = with_config(tiny, checkpoint={"enabled": False})
    stopped = tiny.train(tmp_path, stop_at=7, config=config)
    assert (stopped.status, stopped.loop.step) == ("interrupted", 7)
    again = tiny.train(tmp_path, config=config)
    assert [record["step"] for record in again.metrics if record["split"] == "train"] == [*range(1, 11), 12]


# -- stopping -------------------------------------------------------------------------------------


def test_asked_to_stop_before_the_first_step_it_compiles_nothing(tiny, tmp_path, compilations):
    loop, checkpoints = tiny.loop(
        tmp_path,
        SimpleNamespace(received=signal.SIGTERM),
        step=SimpleNamespace(compilations=[], trained=lambda params: params),
    )
    with checkpoints:
        assert loop.run(Sink()) == "interrupted"
    assert compilations() == 0
    assert not (tmp_path / "checkpoints").exists()


def test_a_stop_during_an_evaluation_is_met_right_after_it(tiny, tmp_path):
    stop = SimpleNamespace(received=None)

    def write(record):
        if record["split"] == "eval":
            stop.received = signal.SIGTERM

    stopped = tiny.train(tmp_path, sink=Sink(write=write), stop=stop)
    assert (stopped.status, stopped.loop.step) == ("interrupted", 6)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 6


def test_a_stop_at_the_last_step_leaves_the_evaluation_to_the_next_run(tiny, tmp_path):
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = tiny.train(tmp_path / "whole")
    stopped = tiny.train(tmp_path / "stopped", stop_at=12)
    assert (stopped.status, stopped.loop.step) == ("interrupted", 12)
    resumed = tiny.train(tmp_path / "stopped")
    assert resumed.status == "completed"
    assert resumed.metrics == whole.metrics
    assert resumed.loop.metrics == whole.loop.metrics


def test_a_stop_cuts_an_evaluation_short(tiny, tmp_path, monkeypatch):
    stop = SimpleNamespace(received=None)
    batches = []

    def one_pass(*args):
        for batch in data.one_pass(*args):
            batches.append(batch)
            stop.received = signal.SIGTERM
            yield batch

    monkeypatch.setattr("jaxprop.run.evaluate.data", SimpleNamespace(one_pass=one_pass))
    stopped = tiny.train(tmp_path, stop=stop)
    assert (stopped.status, len(batches)) == ("interrupted", 1)
    assert Checkpoints(tmp_path / "checkpoints").latest() == stopped.loop.step


def test_a_run_shorter_than_its_checkpoint_is_refused(tiny, tmp_path):
    tiny.train(tmp_path, stop_at=9)
    with pytest.raises(CheckpointError, match=r"step 9, beyond the run's 8 steps; raise run\.steps or run\.epochs"):
        tiny.train(tmp_path, total_steps=8)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 9


def test_an_error_of_the_data_reaches_the_caller(tiny, tmp_path):
    def take(indices):
        raise OSError("the disk is gone")

    stream = open_stream(tiny.config, tiny.experiment.sources["train"]._replace(take=take))
    loop, checkpoints = tiny.loop(tmp_path, SimpleNamespace(received=None), stream=stream)
    with checkpoints, pytest.raises(OSError, match="the disk is gone"):
        loop.run(Sink())


def test_a_source_that_ends_early_is_an_error(tiny, tmp_path):
    """As one whose reader raises StopIteration, which looks like the end of the batches."""

    class Ending(Poisoned):
        def __next__(self):
            if self._stream.position == 4:
                raise StopIteration
            return next(self._stream)

    loop, checkpoints = tiny.loop(tmp_path, SimpleNamespace(received=None), stream=Ending(tiny, ()))
    with checkpoints, pytest.raises(DataError, match="the training data ended after step 4 of 12"):
        loop.run(Sink())


def test_a_failed_save_ends_the_run_at_once_and_not_at_the_next_save(tiny, tmp_path, monkeypatch):
    config = with_config(tiny, checkpoint={"every_steps": 2})
    loop, checkpoints = tiny.loop(tmp_path, SimpleNamespace(received=None), config=config)
    ended = Background.result

    def fail(self):
        ended(self)  # the end of the process would wait for it otherwise, and report it
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Background, "has_failed", True)
    monkeypatch.setattr(Background, "result", fail)
    with checkpoints, pytest.raises(CheckpointError, match=r"step 2 could not be written to .*No space left on device"):
        loop.run(Sink())
    assert loop.step == 3


# -- peaks and the best -------------------------------------------------------------------------


def test_peaks_between_records_are_recorded_also_across_a_stop(tiny, tmp_path):
    """A batch 30 times as large at step 17, between the records of steps 15 and 20."""
    run = {"log_every": 5, "eval_every": 100}
    config = with_config(tiny, run=run, checkpoint={"every_steps": 100})

    def train(folder, stop_at=None):
        folder.mkdir(exist_ok=True)
        return tiny.train(
            folder, stop_at=stop_at, config=config, total_steps=25, stream=Poisoned(tiny, {16}, factor=30)
        )

    whole = train(tmp_path / "whole")
    records = {record["step"]: record for record in whole.metrics if record["split"] == "train"}
    assert list(records) == [*range(1, 11), 15, 20, 25]
    assert "loss_max" not in records[10]  # it stands for itself alone
    peak = records[20]
    assert (peak["loss_max_step"], peak["grad_norm_max_step"]) == (17, 17)
    assert peak["loss_max"] > 3 * max(peak["loss"], records[15]["loss_max"])
    assert peak["loss_min"] <= peak["loss"]
    train(tmp_path / "stopped", stop_at=18)
    assert train(tmp_path / "stopped").metrics == whole.metrics


def test_a_signal_during_an_evaluation_leaves_the_same_best_checkpoint(tiny, tmp_path, monkeypatch):
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    config = with_config(tiny, run={"eval_every": 3}, checkpoint={"every_steps": 100, "keep": 1})
    whole = tiny.train(tmp_path / "whole", config=config)
    kept = Checkpoints(tmp_path / "whole" / "checkpoints", best="loss")
    best = kept.best()
    assert whole.loop.best == {"step": best, **next(r for r in evals(whole) if r["step"] == best)}
    stop, real = SimpleNamespace(received=None), data.one_pass

    def one_pass(*args):
        for batch in real(*args):
            stop.received = signal.SIGTERM if loop.step == best else None
            yield batch

    monkeypatch.setattr("jaxprop.run.evaluate.data", SimpleNamespace(one_pass=one_pass))
    loop, checkpoints = tiny.loop(tmp_path / "stopped", stop, config=config)
    with checkpoints:
        assert loop.run(Sink()) == "interrupted"
    assert checkpoints.best() != best
    monkeypatch.undo()
    resumed = tiny.train(tmp_path / "stopped", config=config)
    again = Checkpoints(tmp_path / "stopped" / "checkpoints", best="loss")
    assert (again.best(), again.steps()) == (best, kept.steps())
    assert resumed.loop.best == whole.loop.best
    assert resumed.loop.metrics == whole.loop.metrics


def evals(trained):
    return [
        {name: value for name, value in record.items() if name != "split"}
        for record in trained.metrics
        if record["split"] == "eval"
    ]


# -- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "status", "step"),
    [
        ({2, 3, 4}, "diverged", 6),  # told a step late, since no one waits for a step
        (set(range(2, 99)), "diverged", 6),
        ({9, 10, 11}, "diverged", 12),  # at the last step
        ({2, 3, 5, 6, 8, 9}, "completed", 12),
    ],
)
def test_skips_in_a_row_diverge(tiny, tmp_path, bad, status, step):
    config = with_config(tiny, health={"max_skips": 3}, checkpoint={"every_steps": 100})
    stream = Poisoned(tiny, bad)
    loop, checkpoints = tiny.loop(tmp_path, SimpleNamespace(received=None), config=config, stream=stream)
    seen = []
    with checkpoints:
        assert loop.run(Sink(write=seen.append)) == status
    assert loop.step == step
    assert int(loop.state.health.skips) == len([n for n in bad if n < step])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loop.state.params))
    # What is saved is of before: the run that diverged adds nothing.
    assert checkpoints.steps() == ([6, 12] if status == "completed" else [6] * (step > 6))


def test_skips_in_a_row_are_counted_across_a_resume(tiny, tmp_path):
    config = with_config(tiny, health={"max_skips": 4})

    def leg(bad, stop_at):
        stop = SimpleNamespace(received=None)
        sink = Sink(progress=lambda step: setattr(stop, "received", signal.SIGINT if step == stop_at else None))
        loop, checkpoints = tiny.loop(tmp_path, stop, config=config, stream=Poisoned(tiny, bad))
        with checkpoints:
            loop.resume()
            return loop.run(sink), loop.step

    assert leg({1, 2, 3}, stop_at=4) == ("interrupted", 4)
    status, step = leg(set(range(99)), stop_at=None)
    assert (status, step <= 6) == ("diverged", True)


# -- evaluation and the clock ---------------------------------------------------------------------


def test_evaluation_is_an_exact_mean_over_the_split(tiny):
    """With batches that do not divide the split, against one batch that holds all of it."""
    experiment = tiny.experiment
    state = copied(tiny.state)
    sizes = (7, 100, experiment.validation.length)
    results = [
        evaluate(experiment._replace(config=with_config(tiny, data={"eval_batch_size": size})), state) for size in sizes
    ]
    for result in results[1:]:
        assert result["accuracy"] == results[0]["accuracy"]
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-6)


def test_evaluates_the_average_where_one_is_kept(tiny):
    state = copied(tiny.state)
    other = state._replace(ema=state.ema._replace(params=jax.tree.map(jnp.zeros_like, state.ema.params)))
    result = evaluate(tiny.experiment, other)
    assert result["loss"] == pytest.approx(np.log(10), rel=1e-6)
    assert evaluate(tiny.experiment, state._replace(ema=()))["loss"] == pytest.approx(
        evaluate(tiny.experiment, state)["loss"], rel=1e-6
    )


def test_derived_figures_and_limited_batches(tiny):
    experiment: Experiment = tiny.experiment._replace(
        config=with_config(tiny, run={"eval_batches": 1}),
        task=tiny.experiment.task._replace(derived=lambda means: {"twice": 2 * means["loss"]}),
    )
    result = evaluate(experiment, copied(tiny.state))
    first: Source = experiment.validation._replace(length=100)
    assert result == evaluate(experiment._replace(validation=first), copied(tiny.state))
    assert result["twice"] == 2 * result["loss"]


def test_evaluations_after_the_first_are_not_compiling(tiny, tmp_path):
    seconds = []
    config = with_config(tiny, health={"every": 1, "rare_every": 100})
    loop, checkpoints = tiny.loop(tmp_path, SimpleNamespace(received=None), config=config)
    with checkpoints:
        loop.run(Sink(write=lambda record: seconds.append((record["split"], loop.clock.compile_seconds))))
    first, second = (value for split, value in seconds if split == "eval")
    assert first == second > 0


def test_nothing_is_compiled_after_the_first_steps(tiny, tmp_path, compilations):
    tiny.train(tmp_path)
    before = compilations()
    (tmp_path / "again").mkdir()
    tiny.train(tmp_path / "again")
    assert compilations() == before

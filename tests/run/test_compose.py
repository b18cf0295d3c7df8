"""Composition: what a configuration is built into, and the state that an experiment makes but does not hold."""

import threading

import jax
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.core.precision import LossScale
from jaxprop.data import Workers, prefetch
from jaxprop.errors import ConfigError
from jaxprop.parallel.sharding import batch_sharding
from jaxprop.run.compose import compose, place
from jaxprop.run.records import train_record
from jaxprop.run.steps import signals_of
from jaxprop.types import TrainState
from tests.benches import BASE, bits, merged


@pytest.mark.parametrize(("optimizer", "lags"), [("adam", True), ("yogi", False), ("adamaxw", False), ("sgd", False)])
def test_only_a_mean_of_squares_is_taken_for_adams_second_moment(optimizer, lags):
    """The step reads b2 off the optimizer, so the configuration need not name it."""
    config = build(merged(BASE, {"optimizer": {"name": optimizer, "lr": 0.1}}))
    assert signals_of(config).b2 is None
    experiment = compose(config)
    _, m = experiment.step(experiment.init(0), next(experiment.stream), "full")
    assert np.isfinite(m.host().layers.adam_lag).any() == lags


def test_epsilon_is_taken_from_the_configuration():
    assert signals_of(build(merged(BASE, {"optimizer": {"eps": 1e-5}}))).eps == 1e-5
    assert signals_of(build(BASE)).eps == 1e-8


GROUPS = [
    {"match": "head/.*", "optimizer": {"name": "adam", "lr": 0.25, "eps": 1e3, "schedule": {"name": "linear"}}},
    {"match": "layers/0/.*/bias", "lr_scale": 0.5},
]


def test_each_group_has_its_rate_and_its_epsilon():
    over = {"optimizer": {"name": "adam", "lr": 0.1, "groups": GROUPS}, "run": {"steps": 4, "epochs": None}}
    experiment = compose(build(merged(BASE, over)))
    state, found = experiment.init(0), []
    for detail in ("lean", "rows", "full"):
        state, m = experiment.step(state, next(experiment.stream), detail)
        record = train_record(3, m.host(), None)
        found.append((record["lr"], record["lr/head/.*"], record["lr/layers/0/.*/bias"]))
    np.testing.assert_allclose(found, [(0.1, 0.25 * left, 0.05) for left in (1, 0.75, 0.5)], rtol=1e-6)
    tiny = dict(zip(m.layout.layers, np.asarray(m.rare.tiny_second_moment), strict=True))
    assert tiny["head"] == 1  # its epsilon is far above any second moment
    assert all(share < 1 for name, share in tiny.items() if name != "head")
    assert experiment.step.recipe.signals.eps["head/kernel"] == 1e3


def test_an_experiment_makes_states_by_seed_and_holds_none():
    experiment = compose(build(BASE))
    assert not [leaf for leaf in jax.tree.leaves(experiment) if isinstance(leaf, jax.Array)]
    first, again, other = (experiment.init(seed) for seed in (0, 0, 1))
    assert bits(first) == bits(again)
    assert bits(first.params) != bits(other.params)
    assert bits(first.key) != bits(other.key)
    # The step donates its state, and an experiment can make another one.
    experiment.step(first, next(experiment.stream), "lean")
    assert any(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    assert bits(experiment.init(0)) == bits(again)


def test_the_state_is_the_one_that_the_step_of_the_same_experiment_takes():
    over = {"precision": {"policy": "float16", "loss_scale": 64.0}, "health": {"curvature": True}}
    experiment = compose(build(merged(BASE, over)))
    state = experiment.init(0)
    assert isinstance(state, TrainState)
    assert isinstance(state.loss_scale, LossScale)
    assert state.loss_scale.scale.item() == 64.0
    assert jax.tree.leaves(state.health.direction)
    assert jax.tree.leaves(state.ema)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    after, _ = experiment.step(state, next(experiment.stream), "full")
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before


def test_devices_that_do_not_divide_the_batch():
    base = {name: section for name, section in BASE.items() if name != "parallel"}  # all devices
    config = build(merged(base, {"data": {"batch_size": 8}, "run": {"accumulate": 2}}))
    with pytest.raises(ConfigError, match=r"microbatch of 4 cannot be divided over the 8 devices .* a multiple of 16"):
        compose(config)


def mixture(first="a.npz", second="b.npz", **settings):
    sources = [{"name": "arrays", "train": path} for path in (first, second)]
    return {"data": {"name": "mixture", "sources": sources, "batch_size": 4} | settings}


@pytest.fixture
def two_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, mean in (("a.npz", 0.0), ("b.npz", 100.0)):
        np.savez(name, inputs=rng.normal(mean, 1, (20, 3)).astype(np.float32), labels=np.arange(20) % 2)


def built(data):
    sections = {"task": {"name": "classify"}, "model": {"name": "mlp", "hidden": [4]}, "run": {"steps": 9}}
    return build(sections | {"optimizer": {"name": "sgd", "lr": 0.1}, "parallel": {"devices": 1}} | data)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [2, 2, 2]),
        ([1, 3], [3, 3, 3]),
        ([{"after": 0, "weights": [1, 0]}, {"after": 2, "weights": [0, 1]}], [0, 0, 4]),
    ],
)
def test_a_mixture_has_its_weights(two_files, weights, expected):
    stream = compose(built(mixture(weights=weights))).stream
    assert [int((next(stream)["inputs"][:, 0] > 50).sum()) for _ in range(3)] == expected


@pytest.mark.timeout(300)
def test_the_engine_grain_gives_the_same_batches(two_files):
    plain, workers = (compose(built(mixture(engine=engine, workers=1))).stream for engine in ("numpy", "grain"))
    assert isinstance(workers, Workers)
    for _ in range(3):
        expected, found = next(plain), next(workers)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert workers.state() == plain.state()
    workers.close()


def texts(tmp_path, **data):
    """Texts of 1 to 24 bytes with two classes, for a transformer that reads them."""
    lines = [f'{{"text": "{"ab"[i % 2] * (1 + i % 24)}", "label": {i % 2}}}\n' for i in range(48)]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    section = {"name": "text", "train": str(tmp_path / "train.jsonl"), "label": "label", "batch_size": 8, **data}
    model = {"name": "transformer", "layers": 1, "width": 8, "heads": 2}
    return {**BASE, "task": {"name": "classify"}, "data": section, "model": model, "run": {"steps": 4}}


def test_batches_of_buckets_have_a_shape_for_each_and_the_gradient_of_whole_ones(tmp_path):
    experiment = compose(build(texts(tmp_path, buckets=3)))
    assert experiment.stream.shapes == 3
    batches = [next(experiment.stream) for _ in range(6)]
    assert {batch["inputs"].shape for batch in batches} == {(8, 8), (8, 16), (8, 24)}
    short = next(batch for batch in batches if batch["inputs"].shape[1] == 8)
    whole = short | {key: np.pad(short[key], ((0, 0), (0, 16))) for key in ("inputs", "input_mask")}
    (_, first), (_, other) = (experiment.step(experiment.init(0), batch, "full") for batch in (short, whole))
    np.testing.assert_allclose(first.host().grad_norm, other.host().grad_norm, rtol=1e-5)
    np.testing.assert_allclose(first.host().loss, other.host().loss, rtol=1e-6)


def test_steps_of_one_call_have_batches_of_one_shape(tmp_path):
    sections = texts(tmp_path, buckets=3)
    experiment = compose(build(sections | {"run": {"steps": 4, "steps_per_call": 2, "log_every": 2}}))
    assert experiment.stream.shapes == 1
    assert next(experiment.stream)["inputs"].shape == (8, 24)


@pytest.mark.parametrize("per_call", [1, 2])
def test_batches_lie_on_the_mesh_before_they_are_asked_for(per_call):
    """The copy of the next batch is made while a step runs: in the thread that reads it, not by the step's call."""
    run = {"steps": 8, "log_every": 2, "eval_every": 4, "steps_per_call": per_call}
    experiment = compose(build(merged(BASE, {"parallel": {"devices": 8}, "run": run})))
    placed, threads, ready = [], [], threading.Event()

    def placing(batch):
        on_mesh, examples = place(experiment, batch)
        placed.append(on_mesh)
        threads.append(threading.current_thread().name)
        if len(placed) == 3:
            ready.set()
        return on_mesh, examples

    sizes = [per_call] * (8 // per_call)
    with prefetch(experiment.stream, 2, placing, 1 if per_call == 1 else sizes) as batches:
        (first, examples), _ = next(batches)
        assert ready.wait(60)  # the next two, which nobody has asked for
        assert first is placed[0]
        assert examples == 240 * per_call
    wanted = batch_sharding(experiment.mesh, per_call)
    leaves = jax.tree.leaves(placed)
    assert all(isinstance(leaf, jax.Array) and leaf.sharding == wanted for leaf in leaves)
    assert set(threads) == {"jaxprop-prefetch"}


def test_on_one_cpu_the_step_is_given_numpy_as_it_is():
    experiment = compose(build(BASE))
    batch = next(experiment.stream)
    assert place(experiment, batch)[0] is batch

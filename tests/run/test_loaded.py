"""`jaxprop.load`: a run without its data, in any folder: predictions, records, and a text for a person."""

import json

import numpy as np
import pytest

import jaxprop
from jaxprop.checkpoint import Checkpoints
from jaxprop.errors import CheckpointError, UsageError
from jaxprop.run.loaded import load
from tests.run.trained import CLASSES, FEATURES, trained

X = np.random.default_rng(1).normal(size=(7, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("home"))


def test_a_run_is_found_by_its_folder_or_its_name(folder, monkeypatch):
    monkeypatch.chdir(folder.parent.parent)
    for named in (folder, str(folder), "runs/first", "first"):
        assert jaxprop.load(named).folder == folder
    with pytest.raises(UsageError, match="did you mean 'first'"):
        load("frist")
    with pytest.raises(UsageError, match="unknown checkpoint 'bets'; did you mean 'best'"):
        load(folder, which="bets")


def test_a_relative_path_stays_the_same_run_in_another_folder(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    run = load("first")
    monkeypatch.chdir(tmp_path)
    assert run.predict(X)["class"].shape == (7,)


def test_predictions_are_those_of_the_model(folder):
    run = load(folder)
    found = run.predict({"inputs": X})
    outputs, _ = run.model.apply(run.params, run.extras, {"inputs": X}, key=None, train=False)
    assert np.array_equal(found["class"], np.argmax(outputs, -1))
    assert found["probabilities"].shape == (7, CLASSES)
    assert np.allclose(found["probabilities"].sum(-1), 1)
    assert np.allclose(found["probability"], found["probabilities"].max(-1))


def test_the_best_checkpoint_and_the_newest(folder):
    saved = Checkpoints(folder / "checkpoints", best="loss")
    best, newest = load(folder), load(folder, which="newest")
    assert (best.step, best.opened.which) == (saved.best(), "best")
    assert (newest.step, newest.opened.which) == (saved.latest(), "newest")


def test_the_average_and_the_parameters_themselves(folder):
    averaged, raw = load(folder), load(folder, ema=False)
    state = raw.opened.state
    first = averaged.params["head"]["kernel"], raw.params["head"]["kernel"]
    assert np.array_equal(first[0], state.ema.params["head"]["kernel"])
    assert np.array_equal(first[1], state.params["head"]["kernel"])
    assert not np.array_equal(*first)


def test_records_are_columns_of_one_length(folder):
    run = load(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert run.metrics["step"].tolist() == [line["step"] for line in lines]
    assert run.metrics["split"] == [line["split"] for line in lines]
    assert np.isnan(run.metrics["grad_norm"]).tolist() == [line["split"] == "eval" for line in lines]
    assert len({len(column) for column in run.metrics.values()}) == 1
    rows = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    layers = [row for row in rows if "layer" in row]
    assert run.layers["grad_norm"].tolist() == [row["grad_norm"] for row in layers]
    assert set(run.layers["layer"]) == {row["layer"] for row in layers}
    assert len(run.taps["tap"]) == len(rows) - len(layers) > 0
    assert run.alerts == []
    assert run.summary == json.loads((folder / "summary.json").read_text())
    assert run.config.model.name == "mlp"


def test_columns_make_data_frames(folder):
    pandas = pytest.importorskip("pandas")
    run = load(folder)
    assert pandas.DataFrame(run.metrics).dtypes["loss"] == np.float64
    table = pandas.DataFrame(run.layers).pivot(index="step", columns="layer", values="grad_norm")
    assert table.shape == (len(set(run.layers["step"])), len(set(run.layers["layer"])))


def test_columns_make_polars_data_frames(folder):
    polars = pytest.importorskip("polars")
    assert polars.DataFrame(load(folder).metrics)["step"].to_list() == load(folder).metrics["step"].tolist()


def test_a_run_is_shown_to_a_person(folder):
    run = load(folder)
    text = str(run)
    assert f"run first: completed, step 12 ({folder})" in text
    (used,) = [line for line in text.splitlines() if "(used here)" in line]
    assert used.strip().startswith("best")
    assert f" checkpoint, step {run.step}:  loss " in used
    assert "classify arrays with mlp, adam, 83 parameters" in text
    (used,) = [line for line in str(load(folder, which="newest")).splitlines() if "(used here)" in line]
    assert "newest checkpoint, step 12:" in used


def test_a_run_without_a_checkpoint_still_has_its_records(tmp_path):
    folder = trained(tmp_path, checkpoint={"enabled": False})
    run = load(folder)
    assert run.metrics["step"][-1] == 12
    assert "no checkpoint" in str(run)
    with pytest.raises(CheckpointError, match="first has no checkpoint yet"):
        run.predict(X)


def test_a_run_of_fit_has_records_and_no_model(tmp_path):
    import jax.numpy as jnp
    import optax

    jaxprop.fit(
        lambda params, batch, key: jnp.mean((params["w"] - batch["x"]) ** 2), optax.sgd(0.1), [{"x": np.ones(4)}],
        run=tmp_path / "own", steps=3, params={"w": jnp.zeros(())}, quiet=True,
    )  # fmt: skip
    run = load(tmp_path / "own")
    assert run.metrics["step"].tolist() == [1, 2, 3]
    assert "a loss of your own, by jaxprop.fit" in str(run)
    with pytest.raises(UsageError, match=r"own is a run of jaxprop.fit, whose model is Python code"):
        run.predict(X)

"""Detection binds and learns; boxes are told in the pixels of the image as it was; runs have panels and predictions."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxprop
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.core.detections import decode
from jaxprop.errors import ConfigError, UsageError
from jaxprop.run import panels
from jaxprop.run.compose import compose
from jaxprop.run.evaluate import evaluate
from jaxprop.run.train import train
from jaxprop.tasks.detect import describe, predict
from jaxprop.tools.predict import predict_inputs
from tests.core.test_detections import outputs_of

BASE = {
    "task": {"name": "detect"},
    "data": {
        "name": "digit_scenes",
        "side": 32,
        "examples": 16,
        "test_examples": 5,
        "batch_size": 8,
        "eval_batch_size": 4,
    },
    "model": {"name": "detector", "widths": [8, 8, 16], "depth": 1, "pyramid": 8, "head_depth": 1, "groups": 4},
    "optimizer": {"name": "adam", "lr": 0.01},
    "run": {"steps": 12},
    "sinks": {"console": False},
}


def test_learns_and_measures(learn):
    learned = learn(build({**BASE, "parallel": {"devices": 1}}))
    assert set(learned.after) == {"loss", "map", "map_50"}
    assert learned.after["loss"] < 0.8 * learned.before["loss"]
    assert 0 <= learned.after["map"] <= learned.after["map_50"] <= 1


def certain(state):
    """A state whose untrained detector scores classes apart, so that some of its boxes are right."""

    def scaled(path, leaf):
        names = jax.tree_util.keystr(path)
        return 300 * leaf if "classes" in names and "out" in names and "kernel" in names else leaf

    return state._replace(params=jax.tree_util.tree_map_with_path(scaled, state.params))


@pytest.mark.timeout(300)
def test_figures_are_exact_over_batches_and_devices():
    figures = []
    for devices, size in ((1, 30), (1, 8), (8, 8), (8, 12)):  # the last batch is partial in all but the first
        changes = {"eval_batch_size": size, "test_examples": 30}
        experiment = compose(build(BASE | {"data": BASE["data"] | changes, "parallel": {"devices": devices}}))
        figures.append(evaluate(experiment, certain(experiment.init(0))))
    assert figures[0]["map"] > 0
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-5)


def test_boxes_are_in_the_pixels_of_the_image_as_it_was():
    outputs = outputs_of(np.random.default_rng(0), 16, 16)
    batch = {"inputs": jnp.zeros((2, 16, 16, 1)), "image_size": jnp.array([[160.0, 48.0], [16.0, 16.0]])}
    scaled = predict(outputs, batch)
    plain = decode(outputs, 16, 16)
    np.testing.assert_allclose(scaled["boxes"][0], plain.boxes[0] * np.array([3, 10, 3, 10], np.float32), rtol=1e-6)
    np.testing.assert_allclose(scaled["boxes"][1], plain.boxes[1], rtol=1e-6)


@pytest.mark.parametrize("augment", [["flip"], ["crop"], ["scale"], ["mosaic"], ["mosaic", "scale", "noise"]])
def test_trains_with_every_augmentation_of_boxes(augment):
    options = {"crop": {"pad": 4}, "noise": {"std": 0.1}}
    section = [{"name": name} | options.get(name, {}) for name in augment]
    experiment = compose(build({**BASE, "data": BASE["data"] | {"augment": section}, "parallel": {"devices": 1}}))
    state = experiment.init(0)
    state, measured = experiment.step(state, next(experiment.stream))
    assert np.isfinite(float(measured.loss))


def test_a_person_is_told_one_class_of_an_object_unless_all_are_asked_for():
    found = {
        "boxes": np.array([[[0, 0, 8, 8], [0, 0, 8, 9], [0, 0, 8, 8], [20, 0, 28, 8]]], float),
        "scores": np.array([[0.9, 0.8, 0.7, 0.6]]),
        "classes": np.array([[1, 2, 2, 2]]),
    }
    told = describe(found, 0, {"class_names": ["a", "b", "c"]})["boxes"]
    assert [(box["class"], box["score"]) for box in told] == [("b", 0.9), ("c", 0.6)]
    assert len(describe(found, 0, {}, nms="class")["boxes"]) == 4
    assert len(describe(found, 0, {}, overlap=0.95)["boxes"]) == 3  # the second overlaps the first by 8/9
    with pytest.raises(UsageError, match=r"unknown nms 'al'"):
        describe(found, 0, {}, nms="al")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    train(build(BASE), folder, quiet=True)
    return folder


def test_a_run_leaves_panels_with_its_worst_images(run):
    drawn = json.loads((run / panels.NAME).read_text())
    assert [panel["kind"] for panel in drawn["panels"]] == ["pictures", "table"]
    assert drawn["examples"] == drawn["of"] == 5
    assert len(drawn["panels"][0]["data"]["pictures"]) == 5


def test_a_photo_of_any_size_is_predicted_in_its_own_pixels(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    Image.fromarray(pixels).save(tmp_path / "photo.boxes.png")  # of an earlier prediction
    (tmp_path / "broken.png").write_bytes(b"no image")
    loaded = jaxprop.load(run)
    answers = [answer for batch in predict_inputs(loaded, [str(tmp_path)], score=0.0) for answer in batch]
    assert [answer.input.rsplit("/", 1)[-1] for answer in answers] == ["broken.png", "photo.png"]
    assert "is no image" in answers[0].error
    np.testing.assert_array_equal(answers[1].pixels(), pixels)
    boxes = np.array([box["box"] for box in answers[1].values["boxes"]])
    assert boxes[:, [0, 2]].max() > 64  # a square of 32 x 32 pixels is all that the model sees
    assert boxes.min() >= 0
    assert (boxes.max(0) <= [96, 64, 96, 64]).all()
    assert {box["class"] for box in answers[1].values["boxes"]} <= set("0123456789")


def test_an_image_is_predicted_alone_as_among_others(run):
    loaded = jaxprop.load(run)
    inputs = np.random.default_rng(0).normal(size=(3, 32, 32, 1)).astype(np.float32)
    together = loaded.predict(inputs)
    alone = loaded.predict(inputs[1:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[1], rtol=1e-4, atol=1e-4), alone, together)


OWN = """
import jax.numpy as jnp
from flax import nnx

class Net(nnx.Module):
    def __init__(self, classes, rngs):
        self.conv = nnx.Conv(1, CLASSES + 4, (8, 8), (8, 8), rngs=rngs)

    def __call__(self, x):
        out = self.conv(x)
        return RETURNED
"""


@pytest.mark.parametrize(
    ("classes", "returned", "message"),
    [
        ("classes", '({"logits": out[..., :-4], "offsets": out[..., -4:]},)', None),
        (
            "3",
            '({"logits": out[..., :-4], "offsets": out[..., -4:]},)',
            "returns logits of 3 classes, but the data have 10",
        ),
        ("classes", "out", "expected the outputs of a detector, a tuple of levels"),
    ],
)
def test_a_detector_of_ones_own_is_checked_before_the_first_step(tmp_path, monkeypatch, classes, returned, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.replace("CLASSES", classes).replace("RETURNED", returned))
    (tmp_path / "own.yaml").write_text(
        json.dumps(BASE | {"model": {"class": "own.py:Net"}, "parallel": {"devices": 1}})
    )
    config = load(tmp_path / "own.yaml").config
    if message is None:
        experiment = compose(config)
        _, measured = experiment.step(experiment.init(0), next(experiment.stream))
        assert np.isfinite(float(measured.loss))
        return
    with pytest.raises(ConfigError, match=message):
        compose(config)

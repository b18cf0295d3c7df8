"""Predictions as a program: the same numbers for any number of examples, in a process without jaxprop."""

import numpy as np
import pytest
from PIL import Image

from jaxprop.config.build import build
from jaxprop.errors import MissingExtraError, UsageError
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.export import export_run, stablehlo
from jaxprop.tools.export.format import inputs_of, prediction_function
from jaxprop.tools.predict import predict_inputs
from tests.run.trained import FEATURES, trained, trained_on_tones
from tests.tools.export.alone import result_of
from tests.tools.export.models import BASE, CASES, run_of

LOAD = """\
import json
import numpy as np
from jax import export

predict = export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call
x = np.load("x.npy")
found = [{name: np.asarray(value).tolist() for name, value in predict({"inputs": x[:n]}).items()} for n in SIZES]
print(json.dumps(found))
"""


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    return run_of(request.param, tmp_path)


@pytest.mark.timeout(300)
def test_the_same_predictions_for_other_numbers_of_examples_without_jaxprop(case, tmp_path):
    run, x = case
    export_run(run, "stablehlo", tmp_path / "out")
    np.save(tmp_path / "out" / "x.npy", x)
    sizes = (7, 1, 3)
    found = result_of(LOAD.replace("SIZES", str(sizes)), tmp_path / "out")
    for size, alone in zip(sizes, found, strict=True):
        own = run.predict(x[:size])
        assert set(own) == set(alone)
        for name, values in own.items():
            assert np.allclose(values, np.asarray(alone[name]), atol=1e-5), name


def test_a_program_for_one_number_of_examples(tmp_path):
    from jax import export

    run = load(trained(tmp_path))
    export_run(run, "stablehlo", tmp_path / "out", batch_size=4)
    loaded = export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    assert loaded.in_avals[0].shape == (4, FEATURES)
    assert set(loaded.platforms) == {"cpu", "cuda", "tpu"}


def test_arrays_that_nothing_depends_on_are_no_inputs(tmp_path):
    run = load(trained(tmp_path))
    example = {**run.opened.prepared.example, "unused": run.opened.prepared.example["inputs"]}
    run.opened = run.opened._replace(prepared=run.opened.prepared._replace(example=example))
    assert list(inputs_of(run, prediction_function(run))) == ["inputs"]


def test_what_is_missing_and_what_cannot_be_exported(tmp_path, monkeypatch):
    run = load(trained(tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(stablehlo, "find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"needs the package 'flatbuffers', .* pip install flatbuffers"):
            export_run(run, "stablehlo", tmp_path / "out")

    def counting(run):
        inner = prediction_function(run)
        return lambda batch: inner({"inputs": batch["inputs"][: int(batch["inputs"].shape[0])]})

    monkeypatch.setattr(stablehlo, "prediction_function", counting)
    with pytest.raises(
        UsageError, match=r"cannot be exported for any number of examples \(.*\); give one with --batch-size"
    ):
        export_run(run, "stablehlo", tmp_path / "out")
    assert export_run(run, "stablehlo", tmp_path / "out", batch_size=2)["files"]["model.stablehlo"]


TRANSLATE = """\
import json
import numpy as np
from jax import export

predict = export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call
found = predict({name: np.load(f"{name}.npy") for name in ("inputs", "input_mask")})
print(json.dumps({name: np.asarray(value).tolist() for name, value in found.items()}))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", ["seq2seq_rnn", "seq2seq_transformer"])
def test_a_program_that_translates(tmp_path, model):
    sizes = {"width": 8} if model == "seq2seq_rnn" else {"width": 8, "heads": 2, "layers": 1}
    data = {"name": "random", "shape": [6], "examples": 64, "vocabulary": 20}
    sections = {"task": {"name": "translate"}, "data": data, "model": {"name": model, **sizes}}
    train(build({**BASE, **sections}), tmp_path / "run", quiet=True)
    run = load(tmp_path / "run")
    export_run(run, "stablehlo", tmp_path / "out")
    batch = {"inputs": np.random.default_rng(0).integers(1, 20, (5, 6)).astype(np.int32)}
    batch["input_mask"] = np.tri(5, 6, 1, np.float32)
    for name, array in batch.items():
        np.save(tmp_path / "out" / f"{name}.npy", array)
    found, own = result_of(TRANSLATE, tmp_path / "out"), run.predict(batch)
    assert set(found) == {"tokens", "probability"}
    np.testing.assert_array_equal(found["tokens"], own["tokens"])
    np.testing.assert_allclose(found["probability"], own["probability"], rtol=1e-4)


def test_a_program_that_transcribes_takes_samples(tmp_path):
    """Features and decoding are inside: its answers are the run's own."""
    from jax import export

    pytest.importorskip("jiwer")
    run = load(trained_on_tones(tmp_path))
    export_run(run, "stablehlo", tmp_path / "out")
    program = export.deserialize(bytearray((tmp_path / "out" / "model.stablehlo").read_bytes()))
    length = run.opened.prepared.example["inputs"].shape[0]
    batch = {
        "inputs": np.random.default_rng(0).normal(size=(3, length)).astype(np.float32) * 0.1,
        "input_lengths": np.array([length, length // 2, 3000], np.int32),
    }
    own, found = run.predict(batch), program.call(batch)
    assert set(own) == set(found) == {"tokens", "count", "start", "end", "probability"}
    for name, values in own.items():
        np.testing.assert_allclose(values, found[name], atol=1e-5)


DETECT = """\
import json
import numpy as np
from jax import export

predict = export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call
print(json.dumps({name: np.asarray(value).tolist() for name, value in predict({"images": np.load("x.npy")}).items()}))
"""


@pytest.mark.timeout(300)
def test_a_program_that_detects_takes_pixels(tmp_path):
    """Without jaxprop it says of an image's pixels what `predict` says of its file."""
    pytest.importorskip("faster_coco_eval")
    data = {"name": "digit_scenes", "side": 32, "examples": 16, "test_examples": 5, "batch_size": 8}
    model = {"name": "detector", "widths": [8, 16], "depth": 1, "pyramid": 8, "head_depth": 1, "groups": 4}
    train(build({**BASE, "task": {"name": "detect"}, "data": data, "model": model}), tmp_path / "run", quiet=True)
    run = load(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 1)).astype(np.uint8)
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image[:, :, 0]).save(path)
    export_run(run, "stablehlo", tmp_path / "out")
    np.save(tmp_path / "out" / "x.npy", pixels)
    found = {name: np.array(value) for name, value in result_of(DETECT, tmp_path / "out").items()}
    assert found["boxes"].shape[2:] == (4,)
    (answers,) = predict_inputs(run, paths, score=0.0, nms="class")
    assert found["count"].min() > 0
    for i, answer in enumerate(answers):
        told = answer.values["boxes"]
        assert len(told) == found["count"][i] == np.sum(found["scores"][i] > 0)
        scores = [box["score"] for box in told]
        np.testing.assert_allclose(scores, found["scores"][i, : len(told)], atol=1e-5)
        np.testing.assert_allclose([box["box"] for box in told], found["boxes"][i, : len(told)], atol=0.02)
        assert [box["class"] for box in told] == found["classes"][i, : len(told)].astype(str).tolist()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `images` | uint8 | [N, 32, 32, 1] |" in card
    assert "| `count` | int32 | [N] |" in card
    assert "grey, of 32 x 32 (height x width), resized to this size whatever their own shape" in card
    assert "slots of an image hold its boxes" in card

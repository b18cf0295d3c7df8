"""COCO's average precision: on random boxes against a loop in NumPy, and exact over batches, devices and padding."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxprop.core.detections import USUAL, decode
from jaxprop.errors import MissingExtraError
from jaxprop.metrics.average_precision import average_precision, finish
from jaxprop.train.eval_step import EvalStep
from jaxprop.types import Rows
from tests.core.test_detections import outputs_of


def iou(a, b):
    common = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def covered(box, crowd):
    common = np.prod(np.maximum(0, np.minimum(box[2:], crowd[2:]) - np.maximum(box[:2], crowd[:2])))
    return common / np.prod(box[2:] - box[:2])


def by_loop(rows, threshold):
    """Average precision as COCO tells it: the best free object for each box, class by class, at 101 recalls."""
    true, found, figures = rows["true"], rows["found"], []
    for kind in np.unique(true["classes"][true["object"]]):
        told, objects = [], 0
        for image in range(len(true["object"])):
            real = true["object"][image] & (true["classes"][image] == kind)
            crowds = true["boxes"][image][true["crowd"][image] & (true["classes"][image] == kind)]
            boxes, taken = true["boxes"][image][real], np.zeros(real.sum(), bool)
            objects += real.sum()
            mine = (found["scores"][image] > 0) & (found["classes"][image] == kind)
            for slot in sorted(np.flatnonzero(mine), key=lambda i: -found["scores"][image][i]):
                box = found["boxes"][image][slot]
                overlaps = [0 if taken[i] else iou(box, other) for i, other in enumerate(boxes)]
                best = int(np.argmax(overlaps)) if len(overlaps) else -1
                if best >= 0 and overlaps[best] >= threshold:
                    taken[best] = True
                    told.append((found["scores"][image][slot], 1))
                elif not any(covered(box, crowd) >= threshold for crowd in crowds):
                    told.append((found["scores"][image][slot], 0))
        told.sort(key=lambda one: -one[0])
        right = np.cumsum([hit for _, hit in told])
        recall, precision = right / objects, right / np.arange(1, len(told) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]
        figures.append(np.mean(at))
    return np.mean(figures)


def random_rows(seed, images=12, most=5):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (images, most, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (images, most, 2))], -1)
    slots = rng.random((images, most))
    true = {"boxes": boxes, "classes": rng.integers(0, 3, (images, most)), "object": slots < 0.6, "crowd": slots > 0.85}
    near = boxes + rng.normal(0, 1.2, boxes.shape)
    guesses = np.concatenate([near, near[:, ::-1] + rng.normal(0, 4, boxes.shape)], 1)
    guesses[..., 2:] = np.maximum(guesses[..., 2:], guesses[..., :2] + 1)
    kinds = np.concatenate([true["classes"], rng.integers(0, 3, (images, most))], 1)
    scores = rng.permutation(images * 2 * most).reshape(images, -1) / (images * 2 * most)
    scores[rng.random(scores.shape) < 0.2] = 0
    return {"true": true, "found": {"boxes": guesses, "scores": scores, "classes": kinds}}


@pytest.mark.parametrize("seed", range(5))
def test_random_boxes_as_a_loop_measures_them(seed):
    rows = random_rows(seed)
    figures = finish(rows)
    assert 0.05 < figures["map"] < figures["map_50"] < 0.95
    np.testing.assert_allclose(figures["map_50"], by_loop(rows, 0.5), atol=1e-6)
    every = [by_loop(rows, threshold) for threshold in np.arange(0.5, 0.96, 0.05)]
    np.testing.assert_allclose(figures["map"], np.mean(every), atol=1e-6)


def test_perfect_boxes_have_1_and_none_have_0():
    rows = random_rows(0)
    true = rows["true"]
    right = {"boxes": true["boxes"], "classes": true["classes"], "scores": np.where(true["object"], 0.5, 0.0)}
    assert finish({"true": true, "found": right}) == {"map": 1.0, "map_50": 1.0}
    nothing = right | {"scores": np.zeros_like(right["scores"])}
    assert finish({"true": true, "found": nothing}) == {"map": 0.0, "map_50": 0.0}
    empty = true | {"object": np.zeros_like(true["object"])}
    assert all(np.isnan(value) for value in finish({"true": empty, "found": right}).values())


def batch_of(rng, count):
    corner = rng.uniform(0, 8, (count, 4, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(2, 8, (count, 4, 2))], -1).astype(np.float32)
    mask = (rng.random((count, 4)) < 0.5).astype(np.float32)
    mask[0] = 0  # an image without an object, in which every box is a false alarm
    return {
        "inputs": np.zeros((count, 16, 16, 1), np.float32),
        "boxes": boxes,
        "labels": rng.integers(0, 3, (count, 4)).astype(np.int32),
        "mask": mask,
        "weight": np.ones(count, np.float32),
    }


@pytest.mark.parametrize("devices", [1, 4])
def test_batches_padding_and_devices_change_nothing(devices):
    rng = np.random.default_rng(0)
    outputs, batch = outputs_of(rng, 16, 16, count=8), batch_of(rng, 8)
    whole = average_precision.update(outputs, batch)
    expected = finish(jax.tree.map(np.asarray, whole.values))
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))

    def sums(outputs, batch):
        rows = average_precision.update(outputs, batch)
        return {"map": Rows(rows.values, batch["weight"])}

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    step = EvalStep(jax.jit(sums), {"map": average_precision})
    parts = []
    for rows in (slice(0, 4), slice(4, 8)):
        padded = {name: np.concatenate([x[rows], x[:4]]) for name, x in batch.items()}
        padded["weight"] = np.repeat([1.0, 0.0], 4).astype(np.float32)
        taken = jax.tree.map(lambda x, rows=rows: jnp.concatenate([x[rows], x[:4]]), outputs)
        parts.append(step.compiled(*jax.device_put((taken, padded), sharding)))
    assert step.finish(parts) == pytest.approx(expected)


def test_what_is_kept_is_what_is_decoded():
    outputs, batch = outputs_of(np.random.default_rng(0), 16, 16), batch_of(np.random.default_rng(0), 2)
    kept = average_precision.update(outputs, batch).values["found"]
    for name, value in decode(outputs, 16, 16, USUAL)._asdict().items():
        np.testing.assert_array_equal(kept[name], value)


def test_without_the_library_an_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtraError, match="pip install faster-coco-eval"):
        finish(random_rows(0))

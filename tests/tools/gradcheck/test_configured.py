"""No built-in model, loss or activation is accused, and neither is a tap; a config is checked as it is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprop
from jaxprop import models
from jaxprop.config.build import build
from jaxprop.config.schema import model as schema
from jaxprop.errors import UsageError
from jaxprop.losses import LOSSES
from jaxprop.losses.ctc import ctc
from jaxprop.losses.detection import focal_iou
from jaxprop.losses.huber import huber
from jaxprop.losses.sigmoid import sigmoid_cross_entropy
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.losses.squared import squared_error
from jaxprop.models.layers import ACTIVATIONS
from jaxprop.tools.gradcheck.configured import check_config
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec

RNG = np.random.default_rng(0)
IMAGES = {"inputs": RNG.normal(size=(4, 5, 5, 1)).astype(np.float32), "labels": np.array([0, 2, 1, 1], np.int32)}
SERIES = {"inputs": RNG.normal(size=(3, 4, 2)).astype(np.float32), "labels": np.array([0, 2, 1], np.int32)}
TOKENS = {"inputs": RNG.integers(0, 5, (2, 6)).astype(np.int32), "labels": RNG.integers(0, 5, (2, 6)).astype(np.int32)}
PAIRS = {
    **TOKENS, "targets": TOKENS["labels"], "input_mask": np.array([[1] * 6, [1] * 4 + [0] * 2], np.float32),
}  # fmt: skip
MODELS = {
    "seq2seq_transformer": (
        schema.Seq2SeqTransformer(name="seq2seq_transformer", layers=1, width=8, heads=2),
        PAIRS,
        5,
    ),
    "seq2seq_rnn": (schema.Seq2SeqRnn(name="seq2seq_rnn", width=5), PAIRS, 5),
    "mlp": (schema.Mlp(name="mlp", hidden=(6,), dropout=0.3, batch_norm=True), IMAGES, 3),
    "cnn": (schema.Cnn(name="cnn", channels=(3, 4), hidden=(5,), dropout=0.3, batch_norm=True), IMAGES, 3),
    "resnet": (schema.ResNet(name="resnet", depths=(1, 1), widths=(2, 4), norm="group", groups=2), IMAGES, 3),
    "vit": (schema.Vit(name="vit", layers=1, width=8, heads=2, patch=5), IMAGES, 3),
    "transformer": (schema.Transformer(name="transformer", layers=2, width=8, heads=2), TOKENS, 5),
    "transformer, grouped": (
        schema.Transformer(
            name="transformer", layers=1, width=8, heads=2, kv_heads=1, norm="rms", feed_forward="swiglu"
        ),
        TOKENS,
        5,
    ),
    "rnn, both ways": (schema.Rnn(name="rnn", cell="gru", width=5, bidirectional=True), SERIES, 3),
    **{
        f"rnn, {cell}": (schema.Rnn(name="rnn", cell=cell, width=5), SERIES, 3)
        for cell in schema.Rnn.model_fields["cell"].annotation.__args__
    },
}


def check(loss_fn, params, batch, **options):
    return jaxprop.gradcheck(loss_fn, params, batch, jax.random.key(0), entries=2, directions=1, **options)


@pytest.mark.parametrize("name", MODELS)
def test_no_model_is_accused(name):
    section, batch, outputs = MODELS[name]
    inputs = batch["inputs"]
    of = "vocabulary" if np.issubdtype(inputs.dtype, np.integer) else "classes"
    shapes = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in batch.items()}
    spec = Spec(shapes, {of: outputs})
    model = models.make_model(section, spec)
    params, extras = jax.jit(model.init)(jax.random.key(1), batch)
    objective = loss_from(model, softmax_cross_entropy)
    report = check(objective, params, batch, extras=extras, nudge=0.01)
    assert report.ok, report.problems
    assert not [leaf.path for leaf in report.leaves if not leaf.checked and not leaf.noise]


def test_no_loss_is_accused():
    labels, targets = np.array([0, 2, 1, 1], np.int32), RNG.normal(size=(4, 3))
    boxes = {"inputs": np.zeros((1, 8, 8, 1)), "boxes": np.array([[[1.0, 1.0, 6.0, 7.0]]], np.float32)}
    boxes |= {"labels": np.array([[1]]), "mask": np.ones((1, 1))}
    transcript = {"labels": np.array([[1, 2]], np.int32), "label_lengths": np.array([2], np.int32)}
    cases = {
        "softmax": lambda o: softmax_cross_entropy(o, {"labels": labels}, label_smoothing=0.1, z_loss=0.01),
        "sigmoid": lambda o: sigmoid_cross_entropy(o, {"labels": (targets > 0)}, label_smoothing=0.1),
        "squared": lambda o: squared_error(o, {"labels": targets}),
        "huber": lambda o: huber(o, {"labels": targets}, delta=0.5),
        "focal_iou": lambda o: focal_iou(
            ({"logits": jnp.zeros((1, 2, 2, 3)), "offsets": o.reshape(1, 2, 2, 3)[..., [0, 1, 2, 2]] / 4},), boxes
        ),
        "ctc": lambda o: ctc({"logits": o[None], "lengths": jnp.array([4])}, transcript),
    }
    assert len(cases) == len(LOSSES)
    params = {name: jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32) for name in cases}

    def loss_fn(params, batch, key):
        return sum(jnp.mean(loss(params[name])[0]) for name, loss in cases.items())

    report = check(loss_fn, params, {"x": np.ones(1)})
    assert report.ok, report.problems


def test_no_activation_is_accused():
    params = {name: jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32) for name in ACTIVATIONS}

    def loss_fn(params, batch, key):
        return sum(jnp.sum(ACTIVATIONS[name](params[name]) ** 2) for name in params)

    report = check(loss_fn, params, {"x": np.ones(1)})
    assert report.ok, report.problems
    assert {rule.name for rule in report.rules} >= {"relu"}


def test_a_tap_is_no_rule_while_nothing_is_measured():
    report = check(
        lambda p, b, key: jnp.sum(jaxprop.tap(p["w"] ** 2, "w", "tanh")), {"w": jnp.ones(3)}, {"x": np.ones(1)}
    )
    assert report.ok
    assert report.rules == ()


def test_a_config_is_checked_with_its_own_model_and_data():
    tree = {
        "task": {"name": "classify"},
        "data": {"name": "digits"},
        "model": {"name": "mlp", "hidden": [5], "dropout": 0.5},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "run": {"epochs": 1, "steps_per_call": 2},
    }
    report = check_config(build(tree), examples=3, entries=1)
    assert report.ok, report.problems
    assert [leaf.path for leaf in report.leaves] == [
        "head/bias", "head/kernel", "layers/0/dense/bias", "layers/0/dense/kernel"
    ]  # fmt: skip
    assert report.loss == pytest.approx(np.log(10), rel=0.5)


def test_a_config_with_augmentation_is_checked_at_the_changed_examples():
    every = [
        {"name": "affine", "degrees": 10, "shift": 1},
        {"name": "crop", "pad": 1},
        {"name": "flip"},
        {"name": "colour", "brightness": 0.2, "contrast": 0.2},
        {"name": "cutout", "size": 2},
        {"name": "mixup", "alpha": 1.0},
        {"name": "cutmix"},
        {"name": "noise", "std": 0.1},
    ]
    tree = {
        "task": {"name": "classify"},
        "data": {"name": "digits", "augment": every},
        "model": {"name": "mlp", "hidden": [5]},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "run": {"epochs": 1},
    }
    changed, plain = (
        check_config(build({**tree, "data": {"name": "digits", "augment": changes}}), examples=4, entries=1)
        for changes in (every, [])
    )
    assert changed.ok, changed.problems
    assert changed.loss != plain.loss


def test_products_in_8_bits_are_refused():
    sections = {"task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp"}}
    sections |= {"optimizer": {"name": "sgd", "lr": 0.1}, "run": {"steps": 1}, "precision": {"quantize": "int8"}}
    with pytest.raises(UsageError, match=r"makes a step function; add precision.quantize=null"):
        check_config(build(sections))

"""The detector: gradients, levels of any image, dtypes, taps, and examples that do not see each other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprop.config.schema import model as schema
from jaxprop.core.detections import points
from jaxprop.core.precision import cast_floating, policy
from jaxprop.core.trees import leaf_paths
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.losses.detection import focal_iou
from jaxprop.models import make_model
from jaxprop.models.layers import ACTIVATIONS
from jaxprop.models.remat import NONE, POLICIES
from jaxprop.train.make import make_train_step
from jaxprop.train.objective import loss_from
from jaxprop.types import Spec
from tests.gradients import check
from tests.models.test_init import drawn

KEY = jax.random.key(3)
SMALL = {"widths": (2, 4, 6), "depth": 1, "pyramid": 4, "groups": 2, "head_depth": 1}


def made(shape=(16, 16, 1), remat=NONE, **options):
    spec = Spec({"inputs": jax.ShapeDtypeStruct(shape, jnp.float32)}, {"classes": 3})
    return make_model(schema.Detector(name="detector", **SMALL | options), spec, remat)


def batch_of(shape=(16, 16, 1), count=3):
    """The first image has two objects, of one level each; the second has none; the last is padding."""
    inputs = np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)
    boxes = np.zeros((count, 2, 4), np.float32)
    boxes[0] = [[1, 2, 6, 9], [0, 3, 15, 15.5]]
    mask = np.zeros((count, 2), np.float32)
    mask[0] = 1
    weight = np.ones(count, np.float32)
    weight[-1] = 0
    return {
        "inputs": inputs,
        "boxes": boxes,
        "labels": np.full((count, 2), 2, np.int32),
        "mask": mask,
        "weight": weight,
    }


def test_gradients_of_every_activation(x64, monkeypatch):
    activations = dict(ACTIVATIONS)
    share = [np.eye(len(activations))[0]]
    monkeypatch.setitem(
        ACTIVATIONS, "relu", lambda x: sum(s * f(x) for s, f in zip(share[0], activations.values(), strict=True))
    )
    model, batch = made(), batch_of()
    params, extras = drawn(model, batch)
    mean_loss = loss_from(model, focal_iou).mean_loss

    def loss(params, one_hot):
        share[0] = one_hot
        return mean_loss(params, extras, batch, KEY, policy("float64"))[0]

    check(loss, params, dict(zip(activations, np.eye(len(activations)), strict=True)))


@pytest.mark.parametrize("shape", [(16, 16, 1), (17, 30, 3), (9, 8, 2), (16, 24)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_levels_of_any_image_have_the_strides_of_their_stages(shape, levels):
    model = made(shape, levels=levels)
    batch = {"inputs": jnp.ones((2, *shape))}
    outputs, _ = jax.eval_shape(lambda: model.apply(*model.init(KEY, batch), batch, key=None, train=False))
    strides = [2 ** (i + 1) for i in range(3)][-levels:]
    for level, stride in zip(outputs, strides, strict=True):
        grid = tuple(-(-side // stride) for side in shape[:2])
        assert level["logits"].shape == (2, *grid, 3)
        assert level["offsets"].shape == (2, *grid, 4)
    assert list(dict.fromkeys(points(outputs, *shape[:2])[:, 2].tolist())) == strides


def test_each_example_alone_is_itself_in_a_batch():
    model, batch = made(), batch_of()
    params, extras = drawn(model, batch, jnp.float32)
    together, _ = model.apply(params, extras, batch, key=None, train=False)
    for i in range(3):
        alone, _ = model.apply(params, extras, jax.tree.map(lambda x, i=i: x[i : i + 1], batch), key=None, train=False)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[0], b[i], rtol=1e-4, atol=1e-5), alone, together)


def test_padding_reaches_neither_loss_nor_gradient_and_an_empty_image_does():
    model, batch = made(), batch_of()
    params, extras = drawn(model, batch, jnp.float32)
    mean_loss = loss_from(model, focal_iou).mean_loss

    def gradient(**changes):
        changed = {**batch, **changes}
        return jax.grad(lambda p: mean_loss(p, extras, changed, KEY, policy("float32"))[0])(params)

    inputs = batch["inputs"].copy()
    inputs[-1] = np.nan
    jax.tree.map(np.testing.assert_array_equal, gradient(), gradient(inputs=inputs))
    inputs = batch["inputs"].copy()
    inputs[1] += 1
    before, after = gradient(), gradient(inputs=inputs)
    seen = [path for path in leaf_paths(before) if not path.startswith("boxes")]  # an empty image has no box to learn
    changed = [np.any(a != b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    assert seen == [path for path, differs in zip(leaf_paths(before), changed, strict=True) if differs]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_compute_dtype_is_that_of_the_params(dtype):
    model, batch = made(), batch_of()
    params, extras = jax.eval_shape(model.init, KEY, batch)

    def apply(params):
        inputs = {"inputs": batch["inputs"].astype(dtype)}
        return model.apply(cast_floating(params, dtype), extras, inputs, key=None, train=True)[0]

    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(apply, params))} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("remat", ["none", *POLICIES])
def test_a_step_has_the_taps_of_every_part_and_is_the_same_under_rematerialization(remat):
    def stepped(remat):
        model, batch = made(remat=remat), batch_of()
        step = make_train_step(loss_from(model, focal_iou), optax.adam(1e-2))
        params, extras = jax.jit(model.init)(KEY, batch)
        state, measured = step(step.init(params, key=KEY, extras=extras), batch, "full")
        return state, measured

    (state, kept), (same, again) = stepped(NONE), stepped(remat)
    taps = [name for name, _ in kept.layout.taps]
    assert {"stages/0/0", "stages/2/0", "classes/layers/0", "boxes/layers/0", "classes/0", "boxes/1"} <= set(taps)
    np.testing.assert_allclose(again.packed, kept.packed, rtol=2e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), same.params, state.params)


def test_every_class_scores_the_prior_at_first():
    model, batch = made(prior=0.02), batch_of()
    outputs, _ = model.apply(*model.init(KEY, batch), batch, key=None, train=False)
    assert np.mean(jax.nn.sigmoid(outputs[0]["logits"])) == pytest.approx(0.02, rel=0.2)
    assert "classes/out/kernel" in leaf_paths(model.init(KEY, batch)[0])


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(ConfigError, match=r"model\.levels: expected at most the number of stages, 3"):
        made(levels=4)
    with pytest.raises(ConfigError, match=r"model\.groups: expected a divisor of every width, got 4"):
        made(groups=4)
    with pytest.raises(ShapeError, match="expected images of at least 8 pixels for 3 stages, got 6 x 4"):
        made((6, 4, 1))
    with pytest.raises(ShapeError, match="model detector expected images"):
        made((6,))

"""What every augmentation keeps, in one table; chains of them, and what a configuration makes of them."""

import inspect
import typing
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprop
from jaxprop.config.schema import augment as schema
from jaxprop.data.augment import AUGMENTATIONS, chain, crop, flip, make_augmentation, mixup, noise
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.types import Spec

# Settings that change nearly every image, and settings that change none.
STRONG = {
    "crop": {"pad": 3, "mode": "reflect"},
    "flip": {"horizontal": 0.5, "vertical": 0.5},
    "affine": {"degrees": 30.0, "shift": 2.0, "scale": 0.2},
    "scale": {"smallest": 0.5, "largest": 2.0},
    "colour": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.5},
    "cutout": {"size": 4},
    "mixup": {"alpha": 1.0, "classes": 5},
    "cutmix": {"alpha": 1.0, "classes": 5},
    "noise": {"std": 1.0},
}
NOTHING = [
    ("crop", {"pad": 0}),
    ("flip", {"horizontal": 0.0, "vertical": 0.0}),
    ("affine", {}),
    ("affine", {"degrees": 1e-30, "mode": "edge"}),
    ("scale", {"smallest": 1.0, "largest": 1.0}),
    ("colour", {}),
    ("colour", {"brightness": 1e-30, "contrast": 1e-30, "saturation": 1e-30, "hue": 1e-30}),
    ("cutout", {"size": 4, "probability": 0.0}),
    ("mixup", {"alpha": 0.0}),
    ("mixup", {"probability": 0.0}),
    ("cutmix", {"alpha": 0.0}),
    ("cutmix", {"probability": 0.0}),
    ("noise", {"std": 0.0}),
]
ALONE = [name for name in STRONG if name not in ("mixup", "cutmix")]
KEY = jax.random.key(7)
COUNT = 24


def make_batch(dtype=np.float32, weight=None):
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.asarray(rng.normal(size=(COUNT, 8, 10, 3)), dtype),
        "labels": rng.integers(0, 5, COUNT).astype(np.int32),
        "weight": np.ones(COUNT, np.float32) if weight is None else weight,
    }


@pytest.fixture(params=STRONG)
def name(request):
    return request.param


@pytest.fixture
def augment(name):
    return partial(AUGMENTATIONS[name], **STRONG[name])


def test_the_table_is_whole(name):
    # The others are for images with boxes, and for audio: test_mosaic.py, test_audio.py.
    assert STRONG.keys() | {"mosaic", "spec_augment", "speed", "background_noise"} == AUGMENTATIONS.keys()
    assert AUGMENTATIONS[name].__name__ == name
    assert jaxprop.data.augment.AUGMENTATIONS is AUGMENTATIONS


def test_it_is_the_same_under_jit_and_by_its_key_alone(name, augment):
    batch = make_batch()
    found, again, compiled = augment(KEY, batch), augment(KEY, batch), jax.jit(augment)(KEY, batch)
    assert found.keys() == batch.keys()
    for part in batch:
        np.testing.assert_array_equal(found[part], again[part])
        np.testing.assert_allclose(found[part], compiled[part], rtol=1e-5, atol=1e-5)
    other = augment(jax.random.key(8), batch)
    assert np.any(np.asarray(found["inputs"]) != np.asarray(other["inputs"]))
    np.testing.assert_array_equal(found["weight"], batch["weight"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_shapes_and_dtypes_are_kept(augment, dtype):
    batch = make_batch(dtype)
    found = jax.eval_shape(augment, KEY, batch)
    assert (found["inputs"].shape, found["inputs"].dtype) == (batch["inputs"].shape, dtype)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_in_half_precision_it_is_the_same_but_for_rounding(augment, dtype):
    """Weights are drawn and computed in float32; noise, whose draws are as long, is too."""
    batch = make_batch(dtype)
    found = augment(KEY, batch)["inputs"]
    wide = augment(KEY, {**batch, "inputs": batch["inputs"].astype(jnp.float32)})["inputs"]
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(jnp.float32), wide, rtol=2 * eps, atol=2 * eps)


@pytest.mark.usefixtures("x64")
def test_in_float64(augment):
    batch = make_batch(np.float64)
    found = jax.jit(augment)(KEY, batch)["inputs"]
    assert found.dtype == jnp.float64
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ALONE)
def test_equal_examples_are_changed_each_in_its_own_way(name, augment):
    batch = make_batch()
    same = {**batch, "inputs": jnp.broadcast_to(batch["inputs"][:1], batch["inputs"].shape)}
    found = np.asarray(augment(KEY, same)["inputs"]).reshape(COUNT, -1)
    assert len(np.unique(found, axis=0)) > (3 if name == "flip" else COUNT // 2)


@pytest.mark.parametrize("name", ALONE)
def test_what_happens_to_an_example_depends_on_no_other(augment):
    batch = make_batch()
    changed = {**batch, "inputs": batch["inputs"].at[1:].set(jnp.nan)}
    np.testing.assert_array_equal(augment(KEY, batch)["inputs"][0], augment(KEY, changed)["inputs"][0])


def test_padding_reaches_no_other_example(augment):
    weight = np.ones(COUNT, np.float32)
    weight[[0, 5, 6, 23]] = 0
    batch, real = make_batch(weight=weight), weight != 0
    spoiled = {
        **batch,
        "inputs": jnp.where(real[:, None, None, None], batch["inputs"], jnp.nan),
        "labels": np.where(real, batch["labels"], -100),
    }
    expected, found = augment(KEY, batch), augment(KEY, spoiled)
    for part in ("inputs", "labels"):
        np.testing.assert_array_equal(found[part][real], expected[part][real])
        assert np.isfinite(found[part][real]).all()


@pytest.mark.parametrize(("name", "settings"), NOTHING)
def test_without_strength_nothing_changes(name, settings):
    batch = make_batch()
    found = AUGMENTATIONS[name](KEY, batch, **settings)
    assert found.keys() == batch.keys()
    for part in batch:
        np.testing.assert_array_equal(found[part], batch[part])


FLOATS = ("mixup", "noise")  # that take inputs of any shape


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"inputs": np.zeros((2, 5), np.int32)}, r"needs floating-point inputs, got int32 \[2, 5\]; divide pixels"),
        ({"inputs": np.zeros((2, 8, 8, 1), np.uint8)}, "needs floating-point inputs, got uint8"),
        ({"x": np.zeros((2, 5), np.float32)}, r"changes batch\['inputs'\], an array \[B, ...\], got the keys x"),
        ((np.zeros(3),), "got tuple"),
        ({"inputs": [1.0]}, "got list"),
        ({"inputs": jnp.float32(1)}, "got a scalar"),
    ],
)
def test_inputs_that_it_does_not_take(name, augment, batch, message):
    with pytest.raises(ShapeError, match=f"^{name} .*{message}"):
        augment(KEY, batch)


def test_images_that_are_none(name, augment):
    batch = {"inputs": np.zeros((2, 64), np.float32), "labels": np.zeros(2, np.int32)}
    if name in FLOATS:
        assert augment(KEY, batch)["inputs"].shape == (2, 64)
        return
    with pytest.raises(ShapeError, match=rf"^{name} needs images, inputs \[B, H, W, C\], got \[2, 64\]"):
        augment(KEY, batch)


@pytest.mark.parametrize("name", ["crop", "flip", "affine", "scale", "cutmix"])
def test_labels_of_pixels_would_not_move_along(name, augment):
    batch = {"inputs": np.zeros((2, 8, 8, 1), np.float32), "labels": np.zeros((2, 8, 8), np.int32)}
    with pytest.raises(ShapeError, match=rf"^{name} moves pixels, and labels \[2, 8, 8\] would stay where they are"):
        augment(KEY, batch)


# -- chains ---------------------------------------------------------------------------------------


def test_a_chain_applies_one_after_another_with_keys_of_their_own():
    one, two = partial(noise, std=1.0), partial(crop, pad=1)
    batch = make_batch()
    found = chain(one, two)(KEY, batch)
    expected = two(jax.random.fold_in(KEY, 1), one(jax.random.fold_in(KEY, 0), batch))
    np.testing.assert_array_equal(found["inputs"], expected["inputs"])
    twice = chain(one, one)(KEY, batch)["inputs"] - batch["inputs"]
    once = one(jax.random.fold_in(KEY, 0), batch)["inputs"] - batch["inputs"]
    assert float(jnp.std(twice - once)) == pytest.approx(1.0, rel=0.1)  # the other draw
    assert abs(float(jnp.mean((twice - once) * once))) < 0.1


def test_mixing_twice_mixes_shares():
    batch = make_batch()
    found = chain(partial(mixup, alpha=1.0, classes=5), partial(mixup, alpha=1.0, classes=5))(KEY, batch)
    np.testing.assert_allclose(found["labels"].sum(-1), 1, rtol=1e-6)
    assert int(jnp.max(jnp.sum(found["labels"] > 0, -1))) > 2


# -- from a configuration ---------------------------------------------------------------------------

SECTIONS = typing.get_args(typing.get_args(schema.Augmentation)[0])
IMAGE = {"inputs": jax.ShapeDtypeStruct((8, 10, 3), jnp.float32), "labels": jax.ShapeDtypeStruct((), jnp.int32)}
FLAT = {**IMAGE, "inputs": jax.ShapeDtypeStruct((64,), jnp.float32)}
TOKENS = {**IMAGE, "inputs": jax.ShapeDtypeStruct((64,), jnp.int32)}


def section_of(name, **settings):
    chosen = next(s for s in SECTIONS if typing.get_args(s.model_fields["name"].annotation) == (name,))
    return chosen.model_validate({"name": name, **settings})


def test_sections_and_functions_have_the_same_settings_and_defaults():
    assert len(SECTIONS) == len(AUGMENTATIONS)
    for section in SECTIONS:
        (name,) = typing.get_args(section.model_fields["name"].annotation)
        taken = {p.name: p.default for p in inspect.signature(AUGMENTATIONS[name]).parameters.values()}
        del taken["key"], taken["batch"]
        assert taken.pop("classes", None) is None
        fields = {key: field for key, field in section.model_fields.items() if key != "name"}
        assert fields.keys() == taken.keys()
        for key, field in fields.items():
            assert (inspect.Parameter.empty if field.is_required() else field.default) == taken[key]


def test_a_configuration_makes_what_its_functions_do():
    sections = [section_of("flip", horizontal=1.0), section_of("mixup", alpha=1.0)]
    augment = make_augmentation(sections, Spec(IMAGE, {"classes": 5}))
    batch = make_batch()
    found = augment(KEY, batch)
    expected = mixup(
        jax.random.fold_in(KEY, 1), flip(jax.random.fold_in(KEY, 0), batch, horizontal=1.0), alpha=1.0, classes=5
    )
    for part in ("inputs", "labels"):
        np.testing.assert_array_equal(found[part], expected[part])


def test_nothing_listed_is_nothing_made():
    assert make_augmentation((), Spec(TOKENS, {})) is None


@pytest.mark.parametrize(
    ("sections", "batch", "message"),
    [
        ([section_of("noise", std=1.0), section_of("crop", pad=1)], FLAT, r"data.augment.1: crop needs images"),
        ([section_of("noise", std=1.0)], TOKENS, r"data.augment.0: noise needs floating-point inputs, got int32"),
        ([section_of("crop", pad=8)], IMAGE, r"data.augment.0: crop: expected pad below the side of the images \(8\)"),
        ([section_of("cutout", size=9)], IMAGE, r"data.augment.0: cutout: expected size at most .* \(8\), got 9"),
        ([section_of("mixup")], {"inputs": IMAGE["inputs"]}, r"data.augment.0: mixup mixes labels, too"),
    ],
)
def test_what_does_not_fit_the_data_is_said_before_any_step(sections, batch, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        make_augmentation(sections, Spec(batch, {"classes": 5}))

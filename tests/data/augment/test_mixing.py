"""Mixup and cutmix: who is mixed with whom, how much, and what becomes of labels, weights and masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxprop.data.augment.mixing import cutmix, mixup, own_shares, partners
from jaxprop.errors import ShapeError

KEY = jax.random.key(3)
COUNT = 16


def told_apart(labels, size=6):
    """Images of which channel c is 1 in those of class c alone: so the mean over pixels is the label's shares."""
    return jnp.broadcast_to(jax.nn.one_hot(labels, COUNT)[:, None, None], (len(labels), size, size + 2, COUNT))


# -- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, np.ones(COUNT), np.arange(COUNT) % 3, np.arange(COUNT) == 4, np.zeros(COUNT)])
def test_those_that_count_make_one_ring(weight):
    batch = {} if weight is None else {"weight": jnp.asarray(weight, jnp.float32)}
    found = np.asarray(jax.jit(partners, static_argnums=2)(KEY, batch, COUNT))
    counts = np.ones(COUNT, bool) if weight is None else weight != 0
    np.testing.assert_array_equal(found[~counts], np.flatnonzero(~counts))
    if counts.any():
        ring, start = [], int(np.flatnonzero(counts)[0])
        while not ring or ring[-1] != start:
            ring.append(int(found[ring[-1] if ring else start]))
        assert sorted(ring) == np.flatnonzero(counts).tolist()


def test_a_mask_that_leaves_nothing_of_an_example_leaves_it_out():
    mask = jnp.array([[1, 0], [0, 0], [0, 1]])
    assert partners(KEY, {"mask": mask}, 3).tolist() == [2, 1, 0]


def test_every_pair_is_as_likely_as_any_other():
    keys = jax.random.split(KEY, 2000)
    found = np.asarray(jax.vmap(lambda key: partners(key, {}, 5))(keys))
    assert stats.chisquare(np.bincount(found[:, 2], minlength=5)[[0, 1, 3, 4]]).pvalue > 1e-3
    assert not (found == np.arange(5)).any()


# -- how much -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_are_the_larger_part_of_a_beta_distribution(alpha):
    found = np.asarray(own_shares(KEY, 4000, alpha, 1.0))
    beta = stats.beta(alpha, alpha)
    assert found.min() >= 0.5
    x = np.linspace(0.5, 0.9999, 500)  # beyond it, float32 has too few numbers for a continuous distribution
    distance = np.abs(np.mean(found[:, None] <= x, 0) - (beta.cdf(x) - beta.cdf(1 - x)))
    assert distance.max() < 1.95 / np.sqrt(len(found))  # Kolmogorov and Smirnov's bound for 1 in 1,000


def test_some_examples_keep_all_of_themselves():
    found = np.asarray(own_shares(KEY, 4000, 1.0, 0.3))
    np.testing.assert_allclose((found < 1).mean(), 0.3, atol=0.03)


# -- mixup ----------------------------------------------------------------------------------------


def test_inputs_and_labels_are_mixed_by_the_same_shares():
    labels = jnp.arange(COUNT)
    batch = {"inputs": told_apart(labels), "labels": labels}
    found = jax.jit(lambda key: mixup(key, batch, alpha=1.0, classes=COUNT))(KEY)
    assert found["labels"].dtype == jnp.float32
    np.testing.assert_allclose(found["inputs"][:, 2, 3], found["labels"], atol=1e-6)
    np.testing.assert_allclose(found["labels"].sum(-1), 1, rtol=1e-6)
    assert (np.sum(np.asarray(found["labels"]) > 0, -1) == 2).all()
    np.testing.assert_array_equal(jnp.argmax(found["labels"], -1), labels)
    assert len(np.unique(found["labels"].max(-1))) == COUNT  # each by a share of its own


def test_targets_are_mixed_as_they_are():
    x = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
    found = mixup(KEY, {"inputs": jnp.asarray(x), "labels": jnp.asarray(2 * x + 1)}, alpha=1.0)
    assert np.any(np.asarray(found["inputs"]) != x)
    np.testing.assert_allclose(found["labels"], 2 * found["inputs"] + 1, atol=1e-5)


def test_a_nan_of_a_real_example_reaches_only_the_one_it_is_given_to():
    x = jnp.ones((COUNT, 3)).at[5].set(jnp.nan)
    found = mixup(KEY, {"inputs": x, "labels": jnp.ones(COUNT)}, alpha=1.0)
    bad = np.flatnonzero(np.isnan(found["inputs"]).any(-1))
    assert len(bad) == 2
    assert 5 in bad


def test_an_example_alone_stays_what_it_is():
    batch = {"inputs": told_apart(jnp.arange(3)), "labels": jnp.arange(3), "weight": jnp.array([0.0, 1.0, 0.0])}
    for augment in (mixup, cutmix):
        found = augment(KEY, batch, alpha=1.0, classes=4)
        np.testing.assert_array_equal(found["inputs"], batch["inputs"])
        np.testing.assert_array_equal(found["labels"], np.eye(4)[:3])


@pytest.mark.parametrize("augment", [mixup, cutmix])
def test_a_label_counts_where_it_counts_in_both(augment):
    mask = np.ones((COUNT, 2), np.float32)
    mask[3, 0] = 0
    labels = np.where(mask == 0, np.nan, 1.0).astype(np.float32)
    batch = {"inputs": told_apart(jnp.arange(COUNT)), "labels": jnp.asarray(labels), "mask": jnp.asarray(mask)}
    found = augment(KEY, batch, alpha=5.0)
    mixed = np.asarray(found["inputs"]).mean((1, 2))
    with_3 = np.flatnonzero(mixed[:, 3])
    assert len(with_3) == 2
    np.testing.assert_array_equal(np.flatnonzero(found["mask"][:, 0] == 0), with_3)
    assert (found["mask"][:, 1] == 1).all()
    assert np.isfinite(found["labels"][np.asarray(found["mask"]) != 0]).all()


# -- cutmix ---------------------------------------------------------------------------------------


def test_labels_are_mixed_by_the_area_of_the_box():
    labels = jnp.arange(COUNT)
    batch = {"inputs": told_apart(labels), "labels": labels}
    found = jax.jit(lambda key: cutmix(key, batch, classes=COUNT))(KEY)
    pixels = np.asarray(found["inputs"])
    assert ((pixels == 0) | (pixels == 1)).all()
    np.testing.assert_allclose(found["labels"], pixels.mean((1, 2)), atol=1e-6)
    assert (np.sum(np.asarray(found["labels"]) > 0, -1) <= 2).all()
    assert np.mean(np.sum(np.asarray(found["labels"]) > 0, -1) == 2) > 0.7


def test_what_is_pasted_lies_where_it_lay_and_is_one_box():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(COUNT, 8, 8, 1)).astype(np.float32)
    found = np.asarray(cutmix(KEY, {"inputs": jnp.asarray(x), "labels": jnp.zeros(COUNT)})["inputs"])
    for i in range(COUNT):
        taken = found[i, ..., 0] != x[i, ..., 0]
        if not taken.any():
            continue
        rows, columns = np.flatnonzero(taken.any(1)), np.flatnonzero(taken.any(0))
        assert taken[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert any((found[i][taken] == x[j][taken]).all() for j in range(COUNT) if j != i)


def test_the_area_of_the_box_is_drawn_by_alpha():
    """Of large images, where few boxes are cut off: without the edges 1 - max(b, 1 - b) with b uniform, mean 1/4."""
    count, labels = 400, jnp.arange(400) % 2
    x = jnp.broadcast_to(labels.astype(jnp.float32)[:, None, None, None], (count, 30, 30, 1))
    found = np.asarray(cutmix(KEY, {"inputs": x, "labels": jnp.arange(float(count))}, alpha=1.0)["inputs"])
    pasted = np.abs(found - x).mean((1, 2, 3))
    other = pasted > 0  # half of the partners look the same
    assert 0.3 < other.mean() < 0.6
    assert 0.12 < pasted[other].mean() < 0.25
    assert pasted.max() <= 0.52


# -- what cannot be mixed ---------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [mixup, cutmix])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, r"mixes labels, too: expected batch\['labels'\], got the keys inputs"),
        ({"labels": np.zeros(2, np.int32)}, "give it classes=, their number"),
        ({"labels": np.zeros((2, 3), np.int32)}, r"needs labels \[B\] or floating-point ones, got int32 \[2, 3\]"),
    ],
)
def test_labels_that_cannot_be_mixed(augment, labels, message):
    with pytest.raises(ShapeError, match=f"^{augment.__name__} .*{message}"):
        augment(KEY, {"inputs": jnp.zeros((2, 4, 4, 1)), **labels})


def test_a_label_that_is_no_class_stays_none():
    """Its shares add up to less than 1, which the loss tells as NaN."""
    batch = {"inputs": jnp.zeros((2, 3)), "labels": jnp.array([7, 1])}
    assert float(mixup(KEY, batch, alpha=5.0, classes=3)["labels"].sum(-1).max()) < 1

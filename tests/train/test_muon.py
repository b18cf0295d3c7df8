"""Muon: which matrices it orthogonalizes, and how, against a few lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import TypeAdapter

from jaxprop.config.build import build
from jaxprop.config.schema import optimizer as sections
from jaxprop.core import trees
from jaxprop.errors import ConfigError
from jaxprop.models.edges import edges
from jaxprop.run.compose import compose
from jaxprop.train.muon import matrices_of
from jaxprop.train.optimizers import make_optimizer
from tests.benches import BASE, merged

SECTION = TypeAdapter(sections.OptimizerSection)


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def newton_schulz(g, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def by_hand(g):
    """The first update at a rate of 1: Nesterov's momentum is then a multiple of the gradient."""
    rows, columns = g.shape
    return -newton_schulz(np.asarray(g, np.float64)) * max(1, columns / rows) ** 0.5


def first_update(params, grads, at_edge=None, **text):
    section = SECTION.validate_python({"name": "muon", "lr": 1.0, **text})
    options = {} if at_edge is None else {"at_edge": at_edge}
    tx = make_optimizer(section, steps=10, params=params, **options).tx
    return tx.update(grads, tx.init(params), params)


def grads_of(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {path: {"kernel": jnp.asarray(rng.normal(size=shape), jnp.float32)} for path, shape in shapes.items()}


def test_a_hidden_matrix_is_orthogonalized_and_the_rest_is_moved_by_adamw():
    shapes = {"hidden": (6, 9), "tall": (9, 4), "head": (6, 3), "embed": (7, 6)}
    grads = grads_of(shapes)
    grads["hidden"]["bias"] = jnp.ones(9)
    params = jax.tree.map(jnp.ones_like, grads)
    updates, _ = first_update(params, grads)
    for path in ("hidden", "tall"):
        np.testing.assert_allclose(updates[path]["kernel"], by_hand(grads[path]["kernel"]), atol=2e-5)
    nesterov = optax.adamw(1.0, weight_decay=0.0, nesterov=True)
    expected, _ = nesterov.update(grads, nesterov.init(params), params)
    for path, name in (("head", "kernel"), ("embed", "kernel"), ("hidden", "bias")):
        np.testing.assert_allclose(updates[path][name], expected[path][name], rtol=1e-5)


def test_a_convolution_is_one_matrix_of_positions_and_inputs_by_outputs():
    grads = grads_of({"conv": (3, 2, 4, 5)})
    updates, _ = first_update(grads, grads)
    flat = by_hand(np.asarray(grads["conv"]["kernel"]).reshape(24, 5))
    np.testing.assert_allclose(updates["conv"]["kernel"], flat.reshape(3, 2, 4, 5), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "columns", "sizes"), [("qkv", 24, (8, 8, 8)), ("qkv", 16, (8, 4, 4)), ("kv", 8, (4, 4))]
)
def test_queries_keys_and_values_are_matrices_by_themselves(name, columns, sizes):
    kernel = grads_of({"attn": (8, columns)})["attn"]["kernel"]
    grads = {"attn": {name: {"kernel": kernel, "bias": jnp.ones(columns)}}}
    updates, state = first_update(grads, grads)
    parts = np.split(np.asarray(kernel), np.cumsum(sizes)[:-1], 1)
    expected = np.concatenate([by_hand(part) for part in parts], 1)
    np.testing.assert_allclose(updates["attn"][name]["kernel"], expected, atol=2e-5)
    mu = state.inner_states["muon"].inner_state[0].mu
    assert mu["attn"][name]["kernel"].shape == kernel.shape  # as the parameter is, so that it lies where that does


def test_two_steps_with_decay_are_those_of_optax():
    """What optax.contrib.muon does with the three matrices as three parameters."""
    kernel = grads_of({"attn": (8, 24)})["attn"]["kernel"]
    section = SECTION.validate_python({"name": "muon", "lr": 0.1, "weight_decay": 0.2, "adaptive": True})
    tx, hand = (
        make_optimizer(section, steps=1, params={"qkv": {"kernel": kernel}}).tx,
        optax.contrib.muon(0.1, weight_decay=0.2, adaptive=True),
    )
    whole, parts = {"qkv": {"kernel": kernel}}, jnp.split(kernel, 3, 1)
    state, hand_state = tx.init(whole), hand.init(parts)
    for _ in range(2):
        updates, state = tx.update(whole, state, whole)
        whole = optax.apply_updates(whole, updates)
        updates, hand_state = hand.update(parts, hand_state, parts)
        parts = optax.apply_updates(parts, updates)
    np.testing.assert_allclose(whole["qkv"]["kernel"], jnp.concatenate(parts, 1), rtol=1e-5, atol=1e-6)


def test_a_group_that_names_muon_orthogonalizes_all_of_its_matrices():
    grads = grads_of({"head": (6, 3), "hidden": (6, 9)})
    groups = [{"match": "head/.*", "optimizer": {"name": "muon", "lr": 1.0}}]
    updates, _ = first_update(grads, grads, name="sgd", groups=groups)
    np.testing.assert_allclose(updates["head"]["kernel"], by_hand(grads["head"]["kernel"]), atol=2e-5)
    np.testing.assert_allclose(updates["hidden"]["kernel"], -grads["hidden"]["kernel"])


def test_a_group_takes_a_matrix_away_from_it():
    grads = grads_of({"other": (6, 3), "hidden": (6, 9)})
    groups = [{"match": "other/.*", "optimizer": {"name": "sgd", "lr": 1.0}}]
    updates, _ = first_update(grads, grads, groups=groups)
    np.testing.assert_allclose(updates["hidden"]["kernel"], by_hand(grads["hidden"]["kernel"]), atol=2e-5)
    np.testing.assert_allclose(updates["other"]["kernel"], -grads["other"]["kernel"])


@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("norm/scale", (8,), None),
        ("score/kernel", (8, 1), None),
        ("conv/kernel", (3, 3, 1, 8), None),  # of one channel, or of each channel by itself
        ("dense/weight", (8, 4), ((1,), (0,), (8,))),
        ("conv/weight", (8, 4, 3, 3), ((1, 2, 3), (0,), (8,))),
        ("attn/qkv/weight", (24, 8), ((1,), (0,), (8, 8, 8))),
        ("attn/query/kernel", (8, 2, 4), ((0,), (1, 2), (2,))),
        ("attn/out/kernel", (2, 4, 8), ((0, 1), (2,), (8,))),
    ],
)
def test_which_matrices_an_array_stands_for(path, shape, expected):
    found = matrices_of(path, shape)
    assert found == expected if found is None else (found.inputs, found.outputs, found.sizes) == expected


HIDDEN = {  # models, and which of their arrays with two axes or more Muon leaves alone
    "mlp": ({"hidden": [8, 6, 6]}, {"head/kernel", "layers/0/dense/kernel"}),
    "cnn": ({"channels": [4, 6]}, {"head/kernel", "blocks/0/0/conv/kernel"}),
    "resnet": ({"depths": [1, 1], "widths": [8, 16]}, {"head/kernel", "stem/conv/kernel"}),
    "vit": (
        {"width": 16, "heads": 2, "layers": 1, "patch": 4},
        {"head/kernel", "embed/kernel", "positions/embedding", "token/embedding"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", HIDDEN)
def test_the_edges_of_built_in_models(model):
    keys, left = HIDDEN[model]
    over = {"model": {"name": model, **keys}, "optimizer": {"name": "muon", "lr": 0.02}, "data": {"name": "digits"}}
    config = build(merged({**BASE, "model": {}}, over))
    experiment = compose(config)
    state = jax.eval_shape(lambda: experiment.init(0))
    matrices = {
        path
        for path, x in zip(trees.leaf_paths(state.params), jax.tree.leaves(state.params), strict=True)
        if x.ndim > 1
    }
    held = set(trees.leaf_paths(state.opt_state.inner_states["muon"].inner_state[0].mu))
    assert matrices - held == left
    assert not [path for path in held if edges(model)(path)]


def test_a_model_without_a_hidden_matrix_is_told():
    grads = grads_of({"head": (6, 3)})
    with pytest.raises(ConfigError, match="there is none between the first layer and the last"):
        first_update(grads, grads)
    with pytest.raises(ConfigError, match=r"optimizer.groups.0.optimizer: .*none in this group"):
        first_update(
            {"head": {"bias": jnp.ones(3)}, **grads_of({"body": (2, 3)})}, grads, name="sgd",
            groups=[{"match": "head/.*", "optimizer": {"name": "muon", "lr": 1.0}}],
        )  # fmt: skip

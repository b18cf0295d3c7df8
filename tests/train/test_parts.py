"""Which optimizer moves which parameter; what they then do is tested with `optimizers.py`."""

import jax.numpy as jnp
import pytest

from jaxprop.config.schema.optimizer import optimizer_model
from jaxprop.errors import ConfigError
from jaxprop.train.parts import FROZEN, assign, leaf_decays, leaves_of, parts_of

PARAMS = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(2), "c": jnp.zeros((3, 2))}


def made(**section):
    section = optimizer_model(section["name"])(**section)
    groups = assign(section.groups, list(PARAMS))
    frozen = [group is not None and group.freeze for group in groups]
    return groups, parts_of(section, groups, frozen, lambda path: path == "c")


def test_the_first_group_that_matches_has_a_parameter():
    groups, parts = made(
        name="sgd",
        lr=0.1,
        groups=[{"match": "b", "freeze": True}, {"match": "[bc]", "optimizer": {"name": "adam", "lr": 0.5}}],
    )
    assert [group and group.match for group in groups] == [None, "b", "[bc]"]
    assert [(part.where, part.mine) for part in parts] == [
        ("optimizer", [True, True, False]),
        ("optimizer.groups.1.optimizer", [False, False, True]),
    ]
    leaves = leaves_of(parts, groups, PARAMS, [1.0, 0.0, 1.0], [1.0] * 3)
    assert [(leaf.optimizer, leaf.group, leaf.lr) for leaf in leaves] == [
        ("sgd", None, 0.1), (FROZEN.optimizer, "b", None), ("adam", "[bc]", 0.5),
    ]  # fmt: skip


def test_groups_that_move_nothing_are_refused():
    with pytest.raises(ConfigError, match="matches no parameter's whole path"):
        made(name="sgd", lr=0.1, groups=[{"match": "d", "freeze": True}])
    with pytest.raises(ConfigError, match="belongs to an earlier group"):
        made(name="sgd", lr=0.1, groups=[{"match": "[ab]", "lr_scale": 2.0}, {"match": "b", "freeze": True}])


def test_decay_is_by_mask_and_by_group():
    groups, (part,) = made(
        name="adamw", lr=0.1, weight_decay=0.3, decay_mask="matrices", groups=[{"match": "c", "weight_decay": 0.7}]
    )
    assert leaf_decays(part, PARAMS, groups) == [None, 0.0, 0.7]
    leaves = leaves_of([part], groups, PARAMS, [1.0, 1.0, 0.5], [1.0, 1.0, 0.5])
    assert [(leaf.lr, leaf.weight_decay) for leaf in leaves] == [(0.1, 0.3), (0.1, 0.0), (0.05, 1.4)]


def test_muon_leaves_what_is_at_the_edge_to_adamw():
    groups, parts = made(name="muon", lr=0.1)
    leaves = leaves_of(parts, groups, PARAMS, [1.0] * 3, [1.0] * 3)
    assert [leaf.optimizer for leaf in leaves] == ["muon", "adamw (muon)", "adamw (muon)"]

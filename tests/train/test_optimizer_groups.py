"""Optimizers of groups against the partition written by hand with plain optax, and against arithmetic done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import TypeAdapter, ValidationError

from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema.groups import WHOLE
from jaxprop.errors import ConfigError
from jaxprop.train import optimizers

SECTION = TypeAdapter(sections.OptimizerSection)
PARAMS = {
    "body": {"bias": jnp.array([0.5, -1.0]), "kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])},
    "head": {"bias": jnp.array([-0.25, 2.0]), "kernel": jnp.array([[2.0, -1.0], [1.5, 0.75]])},
}
GRADS = jax.tree.map(lambda p: 0.3 * p + 0.1, PARAMS)
ADAMW = {"name": "adamw", "lr": 3e-2}
LION = {"name": "lion", "lr": 1e-2}
COSINE = {"name": "cosine"}


@pytest.fixture(autouse=True)
def _standard_promotion():
    """The train step runs optax under standard promotion: adam itself raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def build(groups, steps=100, own=None, **text):
    section = SECTION.validate_python({"name": "sgd", "lr": 0.1, "groups": groups, **text})
    return optimizers.make_optimizer(section, steps=steps, params=PARAMS, own=own)


def run(tx, steps=3, params=PARAMS):
    """Minimizes half the squared parameters."""
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(params, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def by_layer(**transformations):
    return optax.partition(transformations, {name: dict.fromkeys(layer, name) for name, layer in PARAMS.items()})


def cosine(lr, steps=100):
    return optax.cosine_decay_schedule(lr, steps)


KERNELS = {"body": {"bias": False, "kernel": True}, "head": {"bias": False, "kernel": True}}
CASES = {  # groups, further keys of the section, and the same by hand
    "one group": (
        [{"match": "head/.*", "optimizer": ADAMW}],
        {},
        lambda: by_layer(body=optax.sgd(0.1), head=optax.adamw(3e-2)),
    ),
    "all parameters": (
        [{"match": "body/.*", "optimizer": LION}, {"match": ".*", "optimizer": ADAMW}],
        {},
        lambda: by_layer(body=optax.lion(1e-2), head=optax.adamw(3e-2)),
    ),
    "one group of all": ([{"match": ".*", "optimizer": ADAMW}], {}, lambda: optax.adamw(3e-2)),
    "the schedule of the run": (
        [{"match": "head/.*", "optimizer": ADAMW}],
        {"schedule": COSINE},
        lambda: by_layer(body=optax.sgd(cosine(0.1)), head=optax.adamw(cosine(3e-2))),
    ),
    "a schedule of its own": (
        [{"match": "head/.*", "optimizer": {**ADAMW, "schedule": {"name": "constant"}}}],
        {"schedule": COSINE},
        lambda: by_layer(body=optax.sgd(cosine(0.1)), head=optax.adamw(3e-2)),
    ),
    "only a schedule of its own": (
        [{"match": "head/.*", "optimizer": {**ADAMW, "schedule": {"name": "cosine", "steps": 5}}}],
        {},
        lambda: by_layer(body=optax.sgd(0.1), head=optax.adamw(cosine(3e-2, 5))),
    ),
    "no rate to be scheduled": (
        [{"match": "head/.*", "optimizer": {"name": "adafactor"}}],
        {"schedule": COSINE},
        lambda: by_layer(body=optax.sgd(cosine(0.1)), head=optax.adafactor()),
    ),
    "clipped once, all of it": (
        [{"match": "head/.*", "optimizer": LION}],
        {"grad_clip": {"norm": 0.5}},
        lambda: optax.chain(optax.clip_by_global_norm(0.5), by_layer(body=optax.sgd(0.1), head=optax.lion(1e-2))),
    ),
    "clipped by itself": (
        [{"match": "head/.*", "optimizer": {"name": "sgd", "lr": 1.0, "grad_clip": {"norm": 0.5}}}],
        {},
        lambda: by_layer(body=optax.sgd(0.1), head=optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))),
    ),
    "clipped twice": (
        [{"match": "head/.*", "optimizer": {"name": "sgd", "lr": 1.0, "grad_clip": {"norm": 0.5}}}],
        {"grad_clip": {"value": 0.75}},
        lambda: optax.chain(
            optax.clip(0.75),
            by_layer(body=optax.sgd(0.1), head=optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))),
        ),
    ),
    "a mask of its own": (
        [{"match": "head/.*", "optimizer": {**ADAMW, "weight_decay": 0.5, "decay_mask": "matrices"}}],
        {},
        lambda: by_layer(body=optax.sgd(0.1), head=optax.adamw(3e-2, weight_decay=0.5, mask=KERNELS)),
    ),
    "a mask of patterns": (
        [{"match": "head/.*", "optimizer": {**ADAMW, "weight_decay": 0.5, "decay_mask": [".*/kernel"]}}],
        {"name": "adamw", "weight_decay": 0.2},
        lambda: by_layer(
            body=optax.adamw(0.1, weight_decay=0.2), head=optax.adamw(3e-2, weight_decay=0.5, mask=KERNELS)
        ),
    ),
    "beside other groups": (
        [
            {"match": "body/bias", "freeze": True},
            {"match": "head/bias", "weight_decay": 0.5},
            {"match": "head/kernel", "lr_scale": 2.0, "optimizer": LION},
        ],
        {"name": "adamw", "weight_decay": 0.2},
        lambda: optax.partition(
            {
                "still": optax.set_to_zero(),
                "plain": optax.adamw(0.1, weight_decay=0.2),
                "more": optax.adamw(0.1, weight_decay=0.5),
                "lion": optax.chain(optax.lion(1e-2), optax.scale(2.0)),
            },
            {"body": {"bias": "still", "kernel": "plain"}, "head": {"bias": "more", "kernel": "lion"}},
        ),
    ),
    "one step size of its own": (
        [{"match": "head/.*", "optimizer": {"name": "prodigy"}}],
        {},
        lambda: by_layer(body=optax.sgd(0.1), head=optax.contrib.prodigy()),
    ),
    "two step sizes": (
        [{"match": "head/.*", "optimizer": {"name": "dog"}}],
        {"name": "dowg", "lr": 1.0},
        lambda: by_layer(body=optax.contrib.dowg(), head=optax.contrib.dog(1.0)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_partition_written_by_hand(case):
    groups, text, hand = CASES[case]
    made, expected = run(build(groups, **text).tx), run(hand())
    for x, y in zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
    assert jax.tree.structure(made) == jax.tree.structure(PARAMS)


def test_a_parameter_has_the_state_of_its_own_optimizer_only():
    state = build([{"match": ".*/kernel", "optimizer": ADAMW}]).tx.init(PARAMS)
    sizes = [jnp.size(leaf) for leaf in jax.tree.leaves(state)]
    assert sorted(sizes) == [1, 4, 4, 4, 4]  # a count, and two moments of two kernels; sgd keeps nothing


def test_one_step_size_of_a_group_is_that_of_the_group_alone():
    groups = [{"match": "head/.*", "optimizer": {"name": "prodigy"}}]
    assert_same(run(build(groups).tx)["head"], run(optax.contrib.prodigy(), params={"head": PARAMS["head"]})["head"])


def test_the_norm_that_clips_counts_every_trained_parameter_and_that_of_a_group_its_own():
    groups = [{"match": "head/.*", "optimizer": {"name": "sgd", "lr": 1.0, "grad_clip": {"norm": 0.1}}}]
    made = build(groups, grad_clip={"norm": 1.0})
    updates, _ = made.tx.update(GRADS, made.tx.init(PARAMS), PARAMS)
    flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(GRADS)])
    head = np.concatenate([np.ravel(g) for g in jax.tree.leaves(GRADS["head"])])
    once = 1.0 / np.linalg.norm(flat)
    twice = once * 0.1 / (once * np.linalg.norm(head))
    np.testing.assert_allclose(updates["body"]["kernel"], -0.1 * once * GRADS["body"]["kernel"], rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["kernel"], -twice * GRADS["head"]["kernel"], rtol=1e-5)
    clipped, _ = made.clip.update(GRADS, made.clip.init(PARAMS), PARAMS)
    body = np.linalg.norm(once * np.concatenate([np.ravel(g) for g in jax.tree.leaves(GRADS["body"])]))
    np.testing.assert_allclose(optax.tree.norm(clipped), np.hypot(body, 0.1), rtol=1e-5)


def test_the_rates_of_all_groups_are_told():
    groups = [
        {"match": "body/bias", "lr_scale": 2.0},
        {"match": "body/.*", "optimizer": {**ADAMW, "schedule": {"name": "constant"}}},
        {"match": "head/bias", "freeze": True},
        {"match": "head/kernel", "lr_scale": 0.5, "optimizer": LION},
    ]
    made = build([*groups], schedule=COSINE)
    found = {name: float(rate(jnp.int32(50))) for name, rate in made.rates}
    assert found == pytest.approx({"lr/body/bias": 0.1, "lr/body/.*": 3e-2, "lr/head/kernel": 0.5 * 0.5 * 1e-2})
    assert float(made.schedule(50)) == pytest.approx(0.05)
    assert made.lr_scales == (2.0, 1.0, 0.0, 0.5)
    assert made.eps == (None, 1e-8, None, None)


def test_the_rate_of_the_run_is_that_of_the_first_group_where_its_optimizer_moves_nothing():
    made = build([{"match": "body/.*", "optimizer": LION}, {"match": ".*", "optimizer": ADAMW}])
    assert float(made.schedule(0)) == pytest.approx(1e-2)


def test_an_optimizer_of_ones_own_in_a_group():
    seen = []

    def own(where, section, rate):
        seen.append((where, section.arguments(), float(rate(50))))
        return optax.sgd(rate, **section.arguments())

    group = {"match": "head/.*", "optimizer": {"class": "mine.py:make", "lr": 0.5, "momentum": 0.5}}
    made = build([group], schedule=COSINE, own=own)
    assert seen == [("optimizer.groups.0.optimizer", {"momentum": 0.5}, pytest.approx(0.25))]
    expected = run(by_layer(body=optax.sgd(cosine(0.1)), head=optax.sgd(cosine(0.5), momentum=0.5)))
    for x, y in zip(jax.tree.leaves(run(made.tx)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "text", "fragments"),
    [
        ([{"match": "haed/.*", "optimizer": ADAMW}], {}, ["optimizer.groups", "'haed/.*'", "matches no"]),
        (
            [{"match": ".*", "lr_scale": 2.0}, {"match": "head/.*", "optimizer": ADAMW}],
            {},
            ["'head/.*'", "earlier group"],
        ),
        (
            [{"match": "head/.*", "optimizer": {**ADAMW, "decay_mask": ["body/kernel"]}}],
            {},
            ["optimizer.groups.0.optimizer.decay_mask", "'body/kernel'", "head/kernel"],
        ),
        (
            [{"match": "head/.*", "optimizer": {"name": "rprop", "lr": 0.1}}],
            {"schedule": COSINE},
            ["optimizer.groups.0.optimizer", "one learning rate", "schedule: {name: constant}"],
        ),
        (
            [{"match": "head/.*", "optimizer": {**ADAMW, "schedule": {"name": "warmup_cosine", "warmup_steps": 100}}}],
            {},
            ["optimizer.groups.0.optimizer.schedule", "100 steps"],
        ),
        (
            [{"match": ".*", "optimizer": {"name": "prodigy", "weight_decay": 0.1, "decay_mask": "matrices"}}],
            {},
            ["optimizer.groups.0.optimizer: prodigy", "one step size"],
        ),
    ],
)
def test_errors_say_what_to_do(groups, text, fragments):
    with pytest.raises(ConfigError) as caught:
        build(groups, **text)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


@pytest.mark.parametrize(
    ("group", "fragment"),
    [
        ({"optimizer": ADAMW, "freeze": True}, "a frozen group is not updated, so optimizer would do nothing"),
        ({"optimizer": ADAMW, "weight_decay": 0.1}, "put weight_decay into that"),
        ({"optimizer": {"name": "fromage", "lr": 0.1}, "lr_scale": 2.0}, "fromage is not proportional"),
        ({"optimizer": {"name": "sgd"}}, "required"),
        ({"optimizer": {"name": "lbfgs"}}, "lbfgs cannot train a part of the parameters: its line search"),
        ({"optimizer": {"name": "momo"}, "lr_scale": 2.0}, "momo is not proportional"),
        ({"optimizer": {**ADAMW, "groups": []}}, "Extra"),
        ({"optimizer": {"name": "adafactor", "schedule": COSINE}}, "there is none; give lr"),
    ],
)
def test_what_a_group_may_not_say(group, fragment):
    with pytest.raises(ValidationError, match=fragment):
        build([{"match": "head/.*", **group}])


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("group", [{"freeze": True}, {"optimizer": LION}])
def test_an_optimizer_of_all_parameters_has_no_others_beside_it(name, group):
    with pytest.raises(ValidationError, match=f"{name} cannot train a part of the parameters"):
        build([{"match": "head/.*", **group}], name=name)


def test_the_decay_of_an_optimizer_of_all_parameters_is_masked_or_the_same():
    mask = {"name": "sophia", "weight_decay": 0.1, "decay_mask": "matrices"}
    build([], **mask)
    with pytest.raises(ConfigError, match="the weight decay of sophia cannot differ"):
        build([{"match": "head/.*", "weight_decay": 0.5}], **mask)


def test_a_group_of_an_optimizer_with_a_rate_that_cannot_be_scaled():
    group = {"match": "head/.*", "optimizer": LION, "lr_scale": 2.0}
    assert build([group], name="fromage").lr_scales == (1.0, 1.0, 2.0, 2.0)

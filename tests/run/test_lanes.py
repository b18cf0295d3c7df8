"""A run that shares its program with others against the same run by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.config.schema.optax_table import OPTIMIZERS
from jaxprop.config.schema.optimizer import optimizer_model
from jaxprop.core.precision import promoting
from jaxprop.run.compose import compose
from jaxprop.run.lanes import Program, differing, with_value
from jaxprop.train.optimizers import make_optimizer
from jaxprop.train.step import call_with_taken

SECTIONS = {
    "task": {"name": "classify"},
    "data": {"name": "digits", "batch_size": 32},
    "model": {"name": "mlp", "hidden": [16, 16], "dropout": 0.1},
    "optimizer": {
        "name": "adamw", "lr": 1e-2, "weight_decay": 0.01, "decay_mask": "matrices", "grad_clip": {"norm": 1.0},
        "schedule": {"name": "warmup_cosine", "warmup_steps": 10},
    },
    "parallel": {"devices": 1},
    "run": {"steps": 200},
}  # fmt: skip


PAIRS = {
    "rate, decay, clip, seed": (
        {},
        {"optimizer": {"lr": 0.05, "weight_decay": 0.1, "grad_clip": {"norm": 0.3}}, "run": {"seed": 3}},
    ),
    "dropout": ({}, {"model": {"dropout": 0.4}}),
    "momentum": (
        {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
        {"optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.5}},
    ),
    "loss": tuple(
        {"task": {"loss": {"name": "softmax_cross_entropy", "label_smoothing": share, "z_loss": z}}}
        for share, z in ((0.1, 1e-4), (0.3, 1e-3))
    ),
}


def pair(name):
    plain = {key: value for key, value in SECTIONS["optimizer"].items() if key in ("name", "lr")}
    made = []
    for over in PAIRS[name]:
        sections = {part: {**SECTIONS[part], **over.get(part, {})} for part in SECTIONS}
        if name == "momentum":
            sections["optimizer"] = plain | over["optimizer"]
        made.append(build(sections))
    return made


@pytest.mark.parametrize("name", PAIRS)
def test_losses_over_200_steps_are_those_of_the_single_run(name):
    configs = pair(name)
    program = Program(configs[0], differing(configs))
    assert program.problem(configs) is None
    for one in configs:
        lane, single = program.member(one), compose(one)
        mine, its = (made.init(one.run.seed) for made in (lane, single))
        for _, batch in zip(range(200), lane.stream, strict=False):
            mine, m = lane.step(mine, batch, "rows")
            its, n = single.step(its, batch, "rows")
            assert abs(float(m.loss) - float(n.loss)) <= 1e-6 * max(1.0, float(n.loss))
        assert jax.tree.structure(mine) == jax.tree.structure(its)
        sums = [made.evaluate(its.params, its.extras, batch) for made in (lane, single)]
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), *sums)


def test_two_runs_are_compiled_once():
    configs = pair("rate, decay, clip, seed")
    program = Program(configs[0], differing(configs))
    for one in configs:
        lane = program.member(one)
        lane.step(lane.init(0), next(iter(lane.stream)), "rows")
    (programs,) = (program.shared.jitted(1, {}),)
    assert programs["rows"]._cache_size() == 1


def test_what_an_optimizer_holds_keeps_runs_apart():
    def grouped(decay):
        groups = [{"match": "head/.*", "weight_decay": decay}]
        return build(SECTIONS | {"optimizer": SECTIONS["optimizer"] | {"groups": groups}})

    configs = [grouped(0.1), grouped(0.2)]
    assert Program(configs[0], differing(configs)).problem(configs) == "their optimizers hold different states"


def test_the_numbers_of_a_groups_own_optimizer_are_arguments():
    def grouped(lr, clip):
        own = {"name": "adamw", "lr": lr, "weight_decay": 10 * lr, "grad_clip": {"norm": clip}}
        groups = [{"match": "head/.*", "optimizer": own}]
        return build(SECTIONS | {"optimizer": {"name": "sgd", "lr": 0.1, "groups": groups}})

    configs = [grouped(0.01, 1.0), grouped(0.02, 0.5)]
    paths = differing(configs)
    assert paths[0] == ("optimizer", "groups", 0, "optimizer", "lr")
    assert len(paths) == 3
    program = Program(configs[0], paths)
    assert program.problem(configs) is None
    for one in configs:
        lane, single = program.member(one), compose(one)
        mine, its = (made.init(one.run.seed) for made in (lane, single))
        for _, batch in zip(range(3), lane.stream, strict=False):
            mine, m = lane.step(mine, batch, "rows")
            its, n = single.step(its, batch, "rows")
            np.testing.assert_allclose(m.metrics["lr/head/.*"][0], one.optimizer.groups[0].optimizer.lr, rtol=1e-6)
            np.testing.assert_allclose(m.loss, n.loss, rtol=1e-6)


def test_differences_are_found_in_lists_and_where_a_key_is_missing():
    one, other = (build(SECTIONS | {"run": {"steps": 20, **more}}) for more in ({}, {"eval_every": 1}))
    assert differing([one, other]) == [("run", "eval_every")]
    wide = build(SECTIONS | {"model": {"name": "mlp", "hidden": [16, 8], "dropout": 0.1}})
    assert differing([build(SECTIONS), wide]) == [("model", "hidden", 1)]


KERNEL = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
PARAMS = {"a": {"kernel": KERNEL, "bias": np.ones(3, np.float32)}}


def trained(section):
    """Parameters after four updates."""

    def loss(params):
        return jnp.sum((params["a"]["kernel"] @ jnp.ones(3) - params["a"]["bias"].sum()) ** 2)

    tx, params = make_optimizer(section, steps=10, params=PARAMS).tx, PARAMS
    state = tx.init(params)
    for _ in range(4):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grads, "value_fn": loss, "obj_fn": loss}
        extra["grad_fn"] = lambda p, *_: jax.grad(loss)(p)
        updates, state = call_with_taken(promoting(tx.update), (grads, state, params), extra)
        params = jax.tree.map(jnp.add, params, updates)
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_number_of_every_optimizer_may_be_an_argument(name):
    section = optimizer_model(name)(name=name, **({"lr": 0.01} if OPTIMIZERS[name]["lr"][1] is ... else {}))
    wanted = jax.jit(lambda: trained(section))()
    numbers = {key: getattr(section, key) for key in ("lr", *section.entry["arguments"])}
    for key, number in numbers.items():
        if isinstance(number, float) and number:
            found = jax.jit(lambda value, key=key: trained(with_value(section, (key,), value)))(jnp.float32(number))
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), found, wanted)

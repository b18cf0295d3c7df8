"""Optimizers from configuration against optax called by hand and against arithmetic done by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import TypeAdapter

from jaxprop.config.schema import optimizer as sections
from jaxprop.config.schema import schedules
from jaxprop.config.schema.groups import FOLLOWING, NOT_PROPORTIONAL
from jaxprop.config.schema.optax_table import OPTIMIZERS
from jaxprop.errors import ConfigError
from jaxprop.train import optimizers
from jaxprop.train.step import call_with_taken

SECTION = TypeAdapter(sections.OptimizerSection)
PARAMS = {  # two shapes only: every new one is compiled for
    "body": {"bias": jnp.array([0.5, -1.0]), "kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]])},
    "head": {"bias": jnp.array([-0.25, 2.0]), "kernel": jnp.array([[2.0, -1.0], [1.5, 0.75]])},
}
PATHS = ["body/bias", "body/kernel", "head/bias", "head/kernel"]
HIDDEN = {"body": {"bias": None, "kernel": optax.contrib.MuonDimensionNumbers()}, "head": None}
GRADS = jax.tree.map(lambda p: 0.3 * p + 0.1, PARAMS)
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


@pytest.fixture(autouse=True)
def _standard_promotion():
    """The train step runs optax under standard promotion: adam itself raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def build(steps=100, params=PARAMS, **text):
    return optimizers.make_optimizer(
        SECTION.validate_python({"name": "sgd", "lr": 0.1, **text}), steps=steps, params=params
    )


def half_squared(params, *_):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params)) / 2


def updating(tx):
    """The update of half the squared parameters, told what it takes of this loss."""

    def update(grads, state, params):
        extra = {
            "value": half_squared(params), "grad": grads, "value_fn": half_squared, "obj_fn": half_squared,
            "grad_fn": lambda p, _: p,
        }  # fmt: skip
        return call_with_taken(tx.update, (grads, state, params), extra)

    return update


def run(tx, params=PARAMS, grads=None, steps=2):
    """Minimizes half the squared parameters, or follows fixed gradients."""
    state = tx.init(params)
    for _ in range(steps):
        updates, state = updating(tx)(params if grads is None else grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def bits(x):
    return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert bits(x) == bits(y)


# -- every optimizer ----------------------------------------------------------------------------


def by_hand(name):
    """What the documentation of optax says to write for the defaults."""
    own = {
        "momentum": lambda lr: optax.sgd(lr, momentum=0.9),
        "nesterov": lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True),
        "noisy_sgd": lambda lr: optax.noisy_sgd(lr, key=0),
        "polyak_sgd": lambda lr: optax.polyak_sgd(max_learning_rate=lr),
        "sam": lambda lr: optax.contrib.sam(
            optax.sgd(lr, momentum=0.9),
            optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
            sync_period=2,
            opaque_mode=True,
        ),
        "muon": lambda lr: optax.contrib.muon(lr, muon_weight_dimension_numbers=HIDDEN),
    }
    return own.get(name) or getattr(optax, name, None) or getattr(optax.contrib, name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_are_optax_bit_for_bit(name):
    params, state = run(build(name=name).tx)
    expected, expected_state = run(by_hand(name)(0.1))
    assert_same_bits(params, expected)
    if name != "muon":  # which scales by shapes where it orthogonalizes, and so has one state less
        assert_same_bits(state, expected_state)
    for before, after in zip(jax.tree.leaves(PARAMS), jax.tree.leaves(params), strict=True):
        assert bool(jnp.isfinite(after).all())
        assert bool((before != after).any())


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if OPTIMIZERS[name]["lr"][1] is not ...])
def test_an_optimizer_with_a_rate_of_its_own_goes_downhill_without_lr(name):
    section = SECTION.validate_python({"name": name})
    opt = optimizers.make_optimizer(section, steps=10, params=PARAMS)
    params, _ = run(opt.tx, steps=3)
    assert optax.tree.norm(params) < optax.tree.norm(PARAMS)
    assert float(opt.schedule(0)) == pytest.approx(OPTIMIZERS[name]["lr"][1] or 1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_schedule_is_taken_except_where_refused(name):
    schedule = optax.linear_schedule(0.1, 0.0, 2)
    if OPTIMIZERS[name]["scheduled"]:
        text = {"name": name, "schedule": {"name": "linear", "steps": 2}}
        assert_same_bits(run(build(**text).tx, steps=1)[0], run(by_hand(name)(schedule), steps=1)[0])
    elif not name.startswith("schedule_free"):  # whose warmup_steps are in place of one
        with pytest.raises(TypeError):
            run(by_hand(name)(schedule))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in FOLLOWING])
def test_scaling_the_update_is_scaling_the_rate_except_where_refused(name):
    def updates(tx):
        _, state = updating(tx)(GRADS, tx.init(PARAMS), PARAMS)
        return updating(tx)(GRADS, state, PARAMS)[0]

    half, full = updates(by_hand(name)(0.05)), updates(by_hand(name)(0.1))
    same = all(
        np.allclose(2 * a, b, rtol=1e-4, atol=1e-9) for a, b in zip(*map(jax.tree.leaves, (half, full)), strict=True)
    )
    assert same == (name not in NOT_PROPORTIONAL)


# -- the chain ----------------------------------------------------------------------------------


def program(tx):
    return str(jax.make_jaxpr(tx.update)(GRADS, tx.init(PARAMS), PARAMS))


@pytest.mark.parametrize(
    ("text", "hand"),
    [
        ({"name": "adamw"}, lambda: optax.adamw(0.1)),
        (
            {"name": "adamw", "grad_clip": {"norm": 1.0}, "schedule": {"name": "cosine"}},
            lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 100))),
        ),
        (
            {"name": "lamb", "weight_decay": 0.1, "decay_mask": "matrices"},
            lambda: optax.lamb(0.1, weight_decay=0.1, mask=jax.tree.map(lambda p: p.ndim >= 2, PARAMS)),
        ),
        ({"name": "lamb", "decay_mask": "matrices"}, lambda: optax.lamb(0.1)),
    ],
)
def test_the_program_is_the_one_written_by_hand(text, hand):
    assert program(build(**text).tx) == program(hand())
    assert jax.tree.structure(build(**text).tx.init(PARAMS)) == jax.tree.structure(hand().init(PARAMS))


def test_only_shapes_are_needed():
    shapes = jax.eval_shape(lambda: PARAMS)
    text = {"name": "adamw", "decay_mask": "matrices", "groups": [{"match": "head/.*", "freeze": True}]}
    assert program(build(params=shapes, **text).tx) == program(build(**text).tx)


def test_arguments_reach_optax():
    moments = build(name="adamw", mu_dtype="bfloat16").tx.init(PARAMS)[0].mu
    assert {leaf.dtype.name for leaf in jax.tree.leaves(moments)} == {"bfloat16"}


def test_the_second_rate_of_muon_follows_the_schedule():
    text = {"name": "muon", "adam_learning_rate": 0.01, "schedule": {"name": "linear"}}
    assert_same_bits(
        run(build(**text).tx)[0],
        run(
            optax.contrib.muon(
                optax.linear_schedule(0.1, 0.0, 100),
                adam_learning_rate=optax.linear_schedule(0.01, 0.0, 100),
                muon_weight_dimension_numbers=HIDDEN,
            )
        )[0],
    )


@pytest.mark.parametrize("freeze", [False, True])
def test_clipping_by_norm_leaves_frozen_gradients_out(freeze):
    grads = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    groups = [{"match": "head/.*", "freeze": True}] if freeze else []
    built = build(lr=1.0, grad_clip={"norm": 1.0}, groups=groups)
    tx, clip = built.tx, built.clip
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    count = 6 if freeze else 12
    clip = optax.clip_by_global_norm(clip) if isinstance(clip, float) else clip
    clipped, _ = clip.update(grads, clip.init(PARAMS), PARAMS)
    np.testing.assert_allclose(optax.tree.norm(clipped), 1.0, rtol=1e-6)
    np.testing.assert_allclose(clipped["body"]["bias"], -updates["body"]["bias"], rtol=1e-6)
    np.testing.assert_allclose(updates["body"]["bias"], -3.0 / (3.0 * math.sqrt(count)), rtol=1e-6)


CLIPPED = {  # grad_clip, whether something is frozen, what the step is told
    "none": (None, False, type(None)),
    "norm": ({"norm": 1.0}, False, float),
    "norm, frozen": ({"norm": 1.0}, True, optax.GradientTransformation),
    "value": ({"value": 1.0}, False, optax.GradientTransformation),
    "value and norm": ({"value": 1.0, "norm": 1.0}, False, optax.GradientTransformation),
}


@pytest.mark.parametrize("case", CLIPPED)
def test_a_clipping_by_norm_alone_is_told_by_its_bound(case):
    section, freeze, kind = CLIPPED[case]
    groups = [{"match": "head/.*", "freeze": True}] if freeze else []
    clip = build(lr=1.0, grad_clip=section, groups=groups).clip
    assert isinstance(clip, kind)
    assert kind is not float or clip == 1.0


def test_clipping_by_value_adaptively_and_then_by_norm():
    params, grads = {"w": jnp.array([3.0, 4.0])}, {"w": jnp.array([100.0, -7.0])}

    def clipped(**clip):
        tx = build(params=params, lr=1.0, grad_clip=clip).tx
        return -tx.update(grads, tx.init(params), params)[0]["w"]

    np.testing.assert_allclose(clipped(value=10.0), [10.0, -7.0], rtol=1e-6)
    raw = math.hypot(100.0, 7.0)
    np.testing.assert_allclose(clipped(adaptive=0.1), [100 * 0.5 / raw, -7 * 0.5 / raw], rtol=1e-6)
    by_value = math.hypot(10.0, 7.0)
    np.testing.assert_allclose(clipped(norm=1.0, value=10.0), [10 / by_value, -7 / by_value], rtol=1e-6)
    np.testing.assert_allclose(clipped(norm=0.1, value=10.0, adaptive=0.1), [1 / by_value, -0.7 / by_value], rtol=1e-6)


# -- schedules ----------------------------------------------------------------------------------


def half_cosine(fraction, start, end):
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * fraction))


SCHEDULES = [
    ({"name": "constant"}, {0: 1.0, 500: 1.0}),
    ({"name": "linear"}, {0: 1.0, 25: 0.75, 100: 0.0, 200: 0.0}),
    ({"name": "linear", "end_scale": 0.5, "steps": 50}, {25: 0.75, 50: 0.5, 100: 0.5}),
    ({"name": "cosine", "end_scale": 0.1}, {0: 1.0, 30: half_cosine(0.3, 1, 0.1), 100: 0.1}),
    (
        {"name": "warmup_cosine", "warmup_steps": 20, "start_scale": 0.5, "end_scale": 0.1},
        {0: 0.5, 10: 0.75, 20: 1.0, 60: half_cosine(0.5, 1, 0.1), 100: 0.1},
    ),
    ({"name": "warmup_cosine", "warmup_steps": 0}, {0: 1.0, 50: 0.5, 100: 0.0}),
    (
        {"name": "warmup_stable_decay", "warmup_steps": 10, "decay_steps": 40},
        {0: 0.0, 5: 0.5, 10: 1.0, 59: 1.0, 60: 1.0, 80: 0.5, 100: 0.0},
    ),
    (
        {"name": "warmup_stable_decay", "warmup_steps": 10, "decay_steps": 40, "shape": "cosine", "end_scale": 0.2},
        {10: 1.0, 60: 1.0, 70: half_cosine(0.25, 1, 0.2), 100: 0.2},
    ),
    ({"name": "exponential", "decay_rate": 0.5}, {0: 1.0, 50: math.sqrt(0.5), 100: 0.5, 200: 0.25}),
    (
        {"name": "exponential", "decay_rate": 0.5, "decay_steps": 10, "staircase": True, "end_scale": 0.2},
        {9: 1.0, 10: 0.5, 19: 0.5, 20: 0.25, 30: 0.2},
    ),
    ({"name": "piecewise", "boundaries": [10, 20], "scales": [0.5, 0.1]}, {9: 1.0, 10: 0.5, 19: 0.5, 20: 0.05}),
    (
        {"name": "cosine_restarts", "period": 20, "factor": 2.0, "decay": 0.5, "end_scale": 0.1},
        {
            0: 1.0,
            10: half_cosine(0.5, 1, 0.1),
            19: half_cosine(0.95, 1, 0.1),
            20: 0.5,
            40: 0.5 * half_cosine(0.5, 1, 0.1),
        }
        | {59: 0.5 * half_cosine(39 / 40, 1, 0.1), 60: 0.25, 100: 0.25 * half_cosine(0.5, 1, 0.1), 150: 0.025},
    ),
    (
        {"name": "cosine_restarts", "period": 30, "warmup_steps": 10},
        {0: 0.0, 5: 0.5, 10: 1.0, 25: 0.5, 39: half_cosine(29 / 30, 1, 0), 40: 1.0, 70: 1.0, 85: 0.5},
    ),
    (
        {"name": "one_cycle", "peak_fraction": 0.4, "div_factor": 10.0, "final_div_factor": 100.0},
        {0: 0.1, 20: 0.55, 40: 1.0, 70: half_cosine(0.5, 1.0, 0.001), 100: 0.001},
    ),
]


@pytest.mark.parametrize(("schedule", "points"), SCHEDULES)
def test_schedules_at_key_points(schedule, points):
    opt = build(lr=0.2, schedule=schedule)
    with jax.numpy_dtype_promotion("strict"):
        rates = {step: jax.jit(opt.schedule)(jnp.int32(step)) for step in points}
    assert {rate.dtype.name for rate in rates.values()} == {"float32"}
    assert {step: float(rate) for step, rate in rates.items()} == pytest.approx(
        {step: 0.2 * scale for step, scale in points.items()}, rel=1e-5, abs=1e-7
    )


def test_the_reported_rate_is_the_one_used():
    opt = build(schedule={"name": "warmup_cosine", "warmup_steps": 2}, steps=6)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    state = opt.tx.init(PARAMS)
    for step in range(6):
        updates, state = opt.tx.update(ones, state, PARAMS)
        assert float(-updates["head"]["bias"][0]) == float(opt.schedule(step))


def test_every_schedule_is_tested():
    assert {text["name"] for text, _ in SCHEDULES} == set(schedules.SCHEDULES)


# -- groups -------------------------------------------------------------------------------------


def test_the_first_group_that_matches_wins_and_scales_the_rate():
    groups = [{"match": ".*/bias", "lr_scale": 2}, {"match": "head/.*", "lr_scale": 10}]
    opt = build(groups=groups)
    assert opt.lr_scales == (2.0, 1.0, 2.0, 10.0)
    updates, _ = opt.tx.update(GRADS, opt.tx.init(PARAMS), PARAMS)
    for update, grad, scale in zip(jax.tree.leaves(updates), jax.tree.leaves(GRADS), opt.lr_scales, strict=True):
        np.testing.assert_allclose(update, -0.1 * scale * grad, rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "prodigy"])
def test_frozen_parameters_keep_their_bits_and_have_no_state(name):
    params = {**PARAMS, "embed": {"table": jnp.array([0.0, -0.0, 1.5, jnp.nan, jnp.inf])}}
    groups = [{"match": "embed/.*", "freeze": True}, {"match": "head/.*", "lr_scale": 3}]
    opt = build(name=name, params=params, groups=groups, grad_clip={"norm": 1.0})
    after, state = run(opt.tx, params, steps=3)
    assert opt.lr_scales == (1.0, 1.0, 0.0, 3.0, 3.0)
    assert_same_bits(after["embed"], params["embed"])
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((after["body"], after["head"], state)))
    assert (5,) not in {jnp.shape(leaf) for leaf in jax.tree.leaves(state)}
    trained, _ = run(build(name=name, groups=groups[1:], grad_clip={"norm": 1.0}).tx, steps=3)
    assert_same_bits({key: after[key] for key in PARAMS}, trained)


def test_bits_are_kept_inside_jit():
    params = {"frozen": jnp.array([-0.0, 0.0, jnp.inf]), "w": jnp.ones(2)}
    tx = build(params=params, groups=[{"match": "frozen", "freeze": True}]).tx

    @jax.jit
    def step(params, state):
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    after, _ = step(params, tx.init(params))
    assert_same_bits(after["frozen"], params["frozen"])
    assert float(after["w"][0]) == pytest.approx(0.9)


OWN = 0.01
DECAYS = [  # (section, decay of body/bias, body/kernel, head/bias, head/kernel)
    ({"name": "adamw"}, (OWN, OWN, OWN, OWN)),
    ({"name": "adamw", "decay_mask": "matrices"}, (0, OWN, 0, OWN)),
    ({"name": "adamw", "decay_mask": ["body/.*", "head/kernel"]}, (OWN, OWN, 0, OWN)),
    ({"name": "lion", "groups": [{"match": ".*/bias", "weight_decay": 0.0}]}, (0, OWN, 0, OWN)),
    ({"name": "adamw", "groups": [{"match": "head/.*", "weight_decay": 0.5}]}, (OWN, OWN, 0.5, 0.5)),
    (
        {"name": "adamw", "decay_mask": "matrices", "groups": [{"match": "head/.*", "weight_decay": 0.5}]},
        (0, OWN, 0.5, 0.5),
    ),
    (
        {"name": "adamw", "decay_mask": "matrices", "groups": [{"match": "head/.*", "freeze": True}]},
        (0, OWN, 0, 0),
    ),
    (
        {
            "name": "adamw",
            "groups": [
                {"match": "body/bias", "weight_decay": 0.5, "lr_scale": 2},
                {"match": "head/.*", "freeze": True},
            ],
        },
        (1.0, OWN, 0, 0),
    ),
    ({"name": "novograd", "decay_mask": "matrices"}, (0, OWN, 0, OWN)),
    ({"name": "muon", "ns_steps": 1, "adam_weight_decay": 0.2}, (0.2, OWN, 0.2, 0.2)),
    ({"name": "muon", "ns_steps": 1, "adam_weight_decay": 0.2, "decay_mask": "matrices"}, (0, OWN, 0, 0.2)),
    ({"name": "muon", "ns_steps": 1, "decay_mask": ["body/.*"]}, (0, OWN, 0, 0)),
    ({"name": "muon", "ns_steps": 1, "groups": [{"match": "head/.*", "weight_decay": 0.5}]}, (0, OWN, 0.5, 0.5)),
]


@pytest.mark.parametrize(("text", "decays"), DECAYS)
def test_weight_decay_of_each_leaf(text, decays):
    tx = build(weight_decay=OWN, **text).tx
    state = tx.init(PARAMS)
    updates, after = tx.update(ZEROS, state, PARAMS)  # without gradients an update is the decay alone
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for update, param, decay in zip(jax.tree.leaves(updates), jax.tree.leaves(PARAMS), decays, strict=True):
        np.testing.assert_allclose(update, -0.1 * decay * param, rtol=1e-5, atol=1e-9)


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ({"groups": [{"match": "haed/.*", "freeze": True}]}, ["optimizer.groups", "'haed/.*'", "matches no", *PATHS]),
        ({"groups": [{"match": "head", "freeze": True}]}, ["whole path", *PATHS]),
        ({"groups": [{"match": "head/bais", "freeze": True}]}, ["did you mean 'head/bias'?"]),
        (
            {"groups": [{"match": ".*", "lr_scale": 2}, {"match": "head/.*", "freeze": True}]},
            ["'head/.*'", "earlier group"],
        ),
        ({"groups": [{"match": ".*", "freeze": True}]}, ["every parameter is frozen"]),
        ({"name": "adamw", "decay_mask": ["kernel"]}, ["optimizer.decay_mask", "'kernel'", *PATHS]),
        ({"schedule": {"name": "warmup_cosine", "warmup_steps": 100}}, ["optimizer.schedule", "100 steps"]),
        ({"name": "prodigy", "weight_decay": 0.1, "decay_mask": "matrices"}, ["one step size", "remove decay_mask"]),
    ],
)
def test_errors_say_what_to_do(text, fragments):
    with pytest.raises(ConfigError) as caught:
        build(**text)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)


def test_a_long_list_of_paths_is_cut():
    params = {f"p{i}": jnp.ones(1) for i in range(100)}
    with pytest.raises(ConfigError, match="and 40 more"):
        build(params=params, groups=[{"match": "q", "freeze": True}])


def own(section, make, steps=10, params=None):
    chosen = sections.CustomOptimizer.model_validate({"class": "mine.py:make"} | section)
    params = params or {"head": jnp.ones(2), "body": jnp.ones(2)}
    return optimizers.make_optimizer(chosen, steps=steps, params=params, own=lambda where, section, rate: make(rate))


def test_an_optimizer_of_ones_own_is_clipped_scheduled_and_grouped():
    groups = [{"match": "head", "lr_scale": 3.0}, {"match": "body", "freeze": True}]
    section = {"lr": 0.5, "schedule": {"name": "linear"}, "grad_clip": {"value": 1.0}, "groups": groups}
    made = own(section, optax.sgd)
    params = {"head": jnp.ones(2), "body": jnp.ones(2)}
    updates, _ = made.tx.update(jax.tree.map(lambda x: 5 * x, params), made.tx.init(params), params)
    assert updates["head"].tolist() == [-1.5, -1.5]
    assert updates["body"].tolist() == [0.0, 0.0]
    assert made.lr_scales == (0.0, 3.0)
    assert float(made.schedule(5)) == 0.25


def test_an_optimizer_of_ones_own_without_a_rate():
    seen = []
    made = own({}, lambda rate: seen.append(rate) or optax.sgd(1.0))
    assert seen == [None]
    assert float(made.schedule(3)) == 1.0


def test_what_is_no_optimizer_of_ones_own():
    with pytest.raises(
        ConfigError, match=r"optimizer.class: expected mine.py:make to return an optax.Gradient.* got int"
    ):
        own({"lr": 1.0}, lambda rate: 3)

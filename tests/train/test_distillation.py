"""Steps with a teacher against steps whose loss is written by hand, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop import losses, metrics
from jaxprop.config.schema import model as schema
from jaxprop.errors import UsageError
from jaxprop.models import make_model
from jaxprop.types import Spec

SPEC = Spec({"inputs": jax.ShapeDtypeStruct((6,), jnp.float32)}, {"classes": 3})
RNG = np.random.default_rng(0)


def mlp(*hidden, **keys):
    return make_model(schema.Mlp(name="mlp", hidden=hidden, **keys), SPEC)


def batch(seed, size=16):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(size, 6)).astype(np.float32)
    return {
        "inputs": inputs,
        "labels": rng.integers(0, 3, size).astype(np.int32),
        "weight": (np.arange(size) != 5) * 1.0,
    }


STUDENT, BIG = mlp(5), mlp(7, batch_norm=True, dropout=0.5)
PARAMS, EXTRAS = jax.device_get(BIG.init(jax.random.key(7), batch(0)))


def teacher(**keys):
    return jaxprop.Teacher(BIG, PARAMS, EXTRAS, **keys)


def trained(told, batches, *, tx=None, loss=losses.softmax_cross_entropy, detail="rows", **options):
    objective = jaxprop.loss_from(STUDENT, loss, {"accuracy": metrics.accuracy}, teacher=told)
    step = jaxprop.make_train_step(objective, tx or optax.sgd(0.1), **options)
    params, extras = STUDENT.init(jax.random.key(0), batches[0])
    state, seen = step.init(params, key=jax.random.key(1), extras=extras), []
    for one in batches:
        state, m = step(state, one, detail)
        seen.append(m)
    return step, state, seen, objective


def by_hand(params, batch, temperature, weight):
    """The loss as the paper writes it."""
    outputs, _ = STUDENT.apply(params, {}, batch, key=None, train=False)
    told, _ = BIG.apply(PARAMS, EXTRAS, batch, key=None, train=False)
    p = jax.nn.softmax(told / temperature)
    divergence = (p * (jax.nn.log_softmax(told / temperature) - jax.nn.log_softmax(outputs / temperature))).sum(-1)
    of_labels = -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["labels"][:, None], -1)[:, 0]
    each = (1 - weight) * of_labels + weight * temperature**2 * divergence
    return jnp.average(each, weights=batch["weight"])


def test_a_step_is_that_of_the_loss_by_hand():
    one = batch(0)
    params, _ = STUDENT.init(jax.random.key(0), one)
    loss, grads = jax.value_and_grad(by_hand)(params, one, 3.0, 0.7)
    _, state, (m,), _ = trained(teacher(temperature=3.0, weight=0.7), [one])
    np.testing.assert_allclose(m.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(m.grad_norm, optax.tree.norm(grads), rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, expected)


def test_the_parts_of_the_loss_are_reported_and_an_evaluation_has_the_plain_loss():
    one = batch(0)
    _, state, (m,), objective = trained(teacher(temperature=2.0, weight=0.25), [one], tx=optax.sgd(0.0))
    _, _, (plain,), _ = trained(None, [one], tx=optax.sgd(0.0))
    of = {name: float(total / count) for name, (total, count) in m.metrics.items()}
    np.testing.assert_allclose(of["task_loss"], plain.loss, rtol=1e-6)
    np.testing.assert_allclose(m.loss, 0.75 * of["task_loss"] + 0.25 * of["divergence"], rtol=1e-6)
    evaluate = jaxprop.make_eval_step(objective)
    figures = evaluate.finish([evaluate(state.params, state.extras, one)])
    np.testing.assert_allclose(figures["loss"], plain.loss, rtol=1e-6)
    assert set(figures) == {"loss", "accuracy"}


def test_with_weight_1_the_labels_may_be_anything():
    one = batch(0) | {"labels": np.full(16, -1, np.int32)}
    _, _, (m,), _ = trained(teacher(weight=1.0), [one])
    np.testing.assert_allclose(m.loss, by_hand(STUDENT.init(jax.random.key(0), one)[0], batch(0), 2.0, 1.0), rtol=1e-5)


def test_the_teacher_is_in_no_state_and_in_no_row():
    batches = [batch(i) for i in range(2)]
    with_step, state, seen, _ = trained(teacher(), batches, tx=optax.adam(1e-2), detail="full")
    without, other, plain, _ = trained(None, batches, tx=optax.adam(1e-2), detail="full")
    assert jax.tree.structure(state) == jax.tree.structure(other)
    assert [x.shape for x in jax.tree.leaves(state)] == [x.shape for x in jax.tree.leaves(other)]
    assert with_step.layer_names == without.layer_names
    assert seen[-1].layout.taps == plain[-1].layout.taps
    # A tap of the teacher would change the values, too: those of the first step are of the same parameters.
    np.testing.assert_allclose(seen[0].taps.rms, plain[0].taps.rms, rtol=1e-6)


def test_the_arrays_are_arguments_of_the_program_and_no_constants():
    one = batch(0)
    large = mlp(400, 400)
    params, extras = jax.device_get(large.init(jax.random.key(7), one))
    told = jaxprop.Teacher(large, params, extras)
    step, state, _, _ = trained(told, [one])
    text = step.lower(state, one).as_text()
    assert len(text) < 200_000  # the kernel of 400 x 400 alone would be 1.3 million hexadecimal digits
    memory = step.memory(state, one)
    assert memory.parts["teacher"] == sum(leaf.nbytes for leaf in jax.tree.leaves((params, extras)))


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 4},
        {"steps_per_call": 2},
        {"mesh": 2},
        {"mesh": 8, "fsdp": 4},
        {"mesh": 2, "accumulate": 2},
        {"mesh": 2, "deterministic": "across_devices"},
    ],
    ids=str,
)
def test_the_same_steps_in_other_ways(options):
    batches = [batch(i) for i in range(2)]
    _, state, _, _ = trained(teacher(), batches, tx=optax.adam(1e-2))
    options = dict(options)
    if "mesh" in options:
        count, fsdp = options.pop("mesh"), options.pop("fsdp", 1)
        options["mesh"] = jaxprop.make_mesh(count, fsdp=fsdp)
    if options.get("steps_per_call"):
        batches = [jax.tree.map(lambda *x: np.stack(x), *batches)]
    _, other, seen, _ = trained(teacher(), batches, tx=optax.adam(1e-2), **options)
    assert np.isfinite(seen[-1].loss).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), state.params, other.params)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_teacher_computes_in_the_precision_of_the_step(precision):
    seen = []

    def apply(params, extras, batch, *, key, train):
        seen.append((jax.tree.leaves(params)[0].dtype.name, batch["inputs"].dtype.name, train, key))
        return BIG.apply(params, extras, batch, key=key, train=train)

    told = teacher()._replace(model=BIG._replace(apply=apply))
    _, _, (m, _), _ = trained(told, [batch(0), batch(1)], precision=precision)
    assert np.isfinite(m.loss)
    assert set(seen) == {(precision, precision, False, None)}


def test_the_teacher_sees_the_batch_as_it_was_augmented():
    seen = []

    def apply(params, extras, batch, *, key, train):
        seen.append(batch["inputs"])
        return batch["inputs"][:, :3], extras

    def augment(key, batch):
        return {**batch, "inputs": batch["inputs"] + 100}

    told = jaxprop.Teacher(BIG._replace(apply=apply), PARAMS)
    objective = jaxprop.loss_from(STUDENT, losses.softmax_cross_entropy, augment=augment, teacher=told)
    params, extras = STUDENT.init(jax.random.key(0), batch(0))
    with jax.disable_jit():
        objective.mean_loss(params, extras, batch(0), jax.random.key(0), jaxprop.policy("float32"))
    kept = np.arange(16) != 5
    np.testing.assert_allclose(seen[0][kept], batch(0)["inputs"][kept] + 100)


def test_a_nan_of_padding_reaches_nothing():
    one = batch(0)
    one["inputs"][5] = np.nan
    _, state, (m,), _ = trained(teacher(), [one])
    assert np.isfinite(m.loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_tokens_are_weighed_by_their_mask():
    spec = Spec({"inputs": jax.ShapeDtypeStruct((4,), jnp.int32)}, {"vocabulary": 9})
    small, large = (
        make_model(schema.Transformer(name="transformer", layers=n, width=8, heads=2, dropout=0.0), spec)
        for n in (1, 2)
    )
    text = RNG.integers(0, 9, (8, 5)).astype(np.int32)
    one = {"inputs": text[:, :-1], "labels": text[:, 1:], "mask": RNG.integers(0, 2, (8, 4)).astype(np.float32)}
    params, extras = large.init(jax.random.key(1), one)
    objective = jaxprop.loss_from(
        small, losses.softmax_cross_entropy, teacher=jaxprop.Teacher(large, params, extras, weight=1.0, temperature=1.0)
    )
    own, beside = small.init(jax.random.key(0), one)
    loss, (weight, _, _) = objective.mean_loss(own, beside, one, jax.random.key(2), jaxprop.policy("float32"))
    outputs, told = (
        small.apply(own, beside, one, key=None, train=False)[0],
        large.apply(params, extras, one, key=None, train=False)[0],
    )
    p = jax.nn.log_softmax(told)
    each = (jnp.exp(p) * (p - jax.nn.log_softmax(outputs))).sum(-1)
    np.testing.assert_allclose(loss, (each * one["mask"]).sum() / one["mask"].sum(), rtol=1e-5)
    assert weight == one["mask"].sum()


WRONG = [
    ({"temperature": 0.0}, "expected a temperature above 0, got 0.0"),
    ({"weight": 0.0}, "expected a weight above 0 and at most 1, got 0.0"),
    ({"weight": 1.5}, "expected a weight above 0 and at most 1, got 1.5"),
]


@pytest.mark.parametrize(("keys", "told"), WRONG, ids=str)
def test_numbers_that_cannot_be(keys, told):
    with pytest.raises(UsageError, match=told):
        jaxprop.loss_from(STUDENT, losses.softmax_cross_entropy, teacher=teacher(**keys))


def test_a_model_in_the_place_of_a_teacher():
    with pytest.raises(UsageError, match=r"expected jaxprop.Teacher\(model, params, extras\), got Model"):
        jaxprop.loss_from(STUDENT, losses.softmax_cross_entropy, teacher=BIG)


def test_logits_in_stretches_are_refused():
    with pytest.raises(UsageError, match="vocabulary_chunks has to stay 1"):
        jaxprop.loss_from(STUDENT, losses.softmax_cross_entropy, teacher=teacher(), vocabulary_chunks=4)

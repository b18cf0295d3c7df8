"""Compilations: each cause that compiles a step again is named, and what is expected to compile is not."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprop
from jaxprop.health.signals.settings import Signals
from jaxprop.train.compilations import Compilations, changes, described

X = np.ones((4, 3), np.float32)


class Moded:
    """A batch entry with a static field."""

    def __init__(self, x, mode):
        self.x, self.mode = x, mode


jax.tree_util.register_pytree_node(Moded, lambda m: ((m.x,), m.mode), lambda mode, leaves: Moded(leaves[0], mode))


def loss(params, batch, key):
    total = sum(jnp.mean(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(batch))
    return total.astype(params["w"].dtype) * jnp.sum(params["w"] ** 2)


def made_step(**options):
    step = jaxprop.make_train_step(loss, optax.adam(0.1), **{"health": False, **options})
    return step, step.init({"w": jnp.ones(3)}, key=jax.random.key(0))


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "jaxprop"]


def on(device):
    return jax.device_put(X, jax.devices()[device])


CAUSES = {
    "shape": ({"x": X}, {"x": X[:2]}, "shape", 'batch["x"]: float32[4,3] -> float32[2,3]', "pad it"),
    "dtype": ({"x": X}, {"x": X.astype(np.int32)}, "dtype", 'batch["x"]: float32[4,3] -> int32[4,3]', "cast it"),
    "both": (
        {"x": X}, {"x": X[:2].astype(np.int32)}, "shape and dtype", 'batch["x"]: float32[4,3] -> int32[2,3]', "pad it",
    ),
    "weak type": (
        {"s": np.float32(1)}, {"s": 1.0}, "weak type",
        'batch["s"]: float32[] -> float32[] of a Python number (weakly typed)', "jnp.float32(x)",
    ),
    "a number of another type": ({"s": 1.0}, {"s": 1}, "dtype", 'batch["s"]: float32[] -> int32[]', "cast it"),
    "a missing key": ({"x": X, "y": X}, {"x": X}, "structure", 'batch["y"]: given -> missing', "the same keys"),
    "a new key": ({"x": X}, {"x": X, "y": X}, "structure", 'batch["y"]: missing -> float32[4,3]', "the same keys"),
    "a static field": ({"x": Moded(X, "a")}, {"x": Moded(X, "b")}, "structure", "d[a], [*])} -> {", "static fields"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "kind", "what", "fix"), CAUSES.values(), ids=CAUSES)
def test_a_changed_argument_is_named_with_its_cost_and_the_fix(caplog, before, after, kind, what, fix):
    step, state = made_step()
    for batch in (before, before, after):
        state, _ = step(state, batch)
    first, again = step.compilations
    assert (first.changes, first.message, first.fix) == ((), "", "")
    (change,) = again.changes
    assert (change.kind, again.step, again.detail) == (kind, 3, "lean")
    assert what in str(change)
    assert fix in again.fix
    assert 0 < again.seconds < 60
    (line,) = told(caplog)
    assert line.startswith(f"jaxprop: the call of step 3 compiled the step again in {again.seconds:.1f} s: ")
    assert str(change) in line
    assert again.fix in line


def test_a_batch_that_lies_on_another_device_is_named_and_so_is_the_state_that_follows_it(caplog):
    step, state = made_step()
    state, _ = step(state, {"x": X})
    state, _ = step(state, {"x": on(0)})  # its results are bound to the device from now on
    state, _ = step(state, {"x": X})
    _, moved, followed = step.compilations
    assert list(map(str, moved.changes)) == ['batch["x"]: float32[4,3] bound to no device -> float32[4,3] on cpu:0']
    assert "jax.device_put" in moved.fix
    assert all(change.kind == "placement" and change.path.startswith("state.") for change in followed.changes)
    assert ", and " in followed.message


def test_a_batch_split_another_way_is_named():
    mesh = jaxprop.make_mesh(2)
    step, state = made_step()
    state = jax.device_put(state, NamedSharding(mesh, P()))
    for spec in (P(), P("data")):
        state, _ = step(state, {"x": jax.device_put(X, NamedSharding(mesh, spec))})
    placed = [change for change in step.compilations[1].changes if change.path.startswith("batch")]
    assert [change.kind for change in placed] == ["placement"]
    assert "P('data',) over cpu:0, cpu:1" in placed[0].after


def test_a_state_of_other_types_is_named_with_a_fix_of_its_own():
    step, state = made_step()
    state, _ = step(state, {"x": X})
    state = state._replace(
        params={"w": jnp.ones(4)}, opt_state=jax.tree.map(lambda x: jnp.ones(4) if x.ndim else x, state.opt_state)
    )
    step(state, {"x": X})
    again = step.compilations[1]
    assert str(again.changes[0]) == 'state.params["w"]: float32[3] -> float32[4]'
    assert again.fix.startswith("go on with the state that the step returns")


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("jax_default_matmul_precision", lambda: jax.default_matmul_precision("float32")),
        ("jax_default_device", lambda: jax.default_device(jax.devices()[1])),
    ],
)
def test_a_setting_of_jax_is_named(setting, changed):
    step, state = made_step()
    state, _ = step(state, {"x": X})
    with changed():
        step(state, {"x": X})
    (change,) = step.compilations[1].changes
    assert (change.path, change.kind) == (setting, "setting")


def test_the_nearest_earlier_call_is_the_one_compared_with():
    batches = [{"x": X}, {"x": X[:2]}, {"x": X[:2].astype(np.int32)}, {"x": X.astype(np.int32)}, {"y": X[:1]}]
    calls = [described((), batch) for batch in batches]
    compilations = Compilations()
    for batch in batches[:-1]:
        compilations.add("lean", 1, "lean", 0.1, (), batch)
    assert [list(map(str, made.changes)) for made in compilations.made] == [
        [],
        ['batch["x"]: float32[4,3] -> float32[2,3]'],
        ['batch["x"]: float32[2,3] -> int32[2,3]'],
        ['batch["x"]: int32[2,3] -> int32[4,3]'],
    ]
    assert list(changes(calls[0], calls[0])) == []
    assert [change.path for change in changes(calls[0], calls[4])] == ['batch["x"]', 'batch["y"]']


def test_many_compilations_are_summed_up(caplog):
    caplog.set_level(logging.WARNING)
    compilations = Compilations()
    for size in range(1, 102):
        compilations.add("lean", size, "lean", 0.5, (), {"x": np.ones(size)})
    said = [(made.step, made.message) for made in compilations.made if made.message]
    assert [step for step, _ in said] == [2, 3, 4, 11, 101]
    assert said[2][1].endswith("; later ones are summed up")
    assert said[3][1].startswith("compiled the step again 10 times, in 5.0 s; now for ")
    assert said[4][1].startswith("compiled the step again 100 times, in 50.0 s; now for ")
    assert (compilations.repeats, compilations.repeated_seconds) == (100, 50.0)


def test_what_has_to_compile_is_no_repeat(caplog):
    health = Signals(rare_every=3, flush_every=6)
    step, state = made_step(health=health, precision="float16")
    for detail in (None, None, None, "lean", None, None, None):
        state, _ = step(state, {"x": X}, detail)
    assert {made.detail for made in step.compilations} == {"lean", "rows", "full", "flush"}
    assert all(not made.changes for made in step.compilations)
    assert all("for the first time" in line for line in told(caplog))  # announced, as ever


def test_a_shorter_stack_of_batches_is_a_program_of_its_own(caplog):
    step, state = made_step(steps_per_call=3)
    for size in (3, 3, 2, 3, 2):
        state, _ = step(state, {"x": np.stack([X] * size)})
    assert [(made.step, made.changes) for made in step.compilations] == [(3, ()), (9, ())]
    assert told(caplog) == []


def test_what_compiles_beside_the_step_is_not_its_own(caplog):
    step, state = made_step()
    evaluate = jaxprop.make_eval_step(loss)
    for size in (2, 3, 4):
        state, _ = step(state, {"x": X})
        evaluate(state.params, {}, {"x": X[:size]})
    jax.jit(lambda state: step(state, {"x": X})[1].loss)(state)  # as a part of a larger program
    assert [made.changes for made in step.compilations] == [()]
    assert told(caplog) == []


def test_caches_that_were_cleared_are_noted_and_no_repeat(caplog):
    step, state = made_step()
    for _ in range(2):
        state, _ = step(state, {"x": X})
        jax.clear_caches()
    assert [made.changes for made in step.compilations] == [(), ()]
    assert told(caplog) == []


def test_arrays_of_numpy_and_of_jax_are_alike(caplog):
    step, state = made_step()
    for batch in ({"x": X}, {"x": jnp.asarray(X)}, {"x": X.copy()}):
        state, _ = step(state, batch)
    assert len(step.compilations) == 1


def test_a_loop_that_says_what_to_measure_is_not_told_on_the_logger(caplog):
    step, state = made_step()
    for size in (4, 3):
        state, _ = step(state, {"x": X[:size]}, "lean")
    assert step.compilations[1].message
    assert told(caplog) == []

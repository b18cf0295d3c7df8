"""The prediction of plain, accumulated, sharded and foreign steps; what of it belongs to which layer and line."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprop
from jaxprop.train.make import make_train_step
from jaxprop.train.memory.predict import Buffer, Memory, named, part_of, place_of, predict, text
from jaxprop.train.memory.program import Frame, Program

WIDTH, BATCH, DEPTH = 64, 512, 6


def loss_fn(params, batch, key):
    hidden = batch["x"]
    for i, kernel in enumerate(params):
        with jax.named_scope(f"layer{i}"):
            hidden = jnp.tanh(hidden @ kernel)
    return jnp.mean((hidden - batch["y"]) ** 2)


def step_and_arguments(**options):
    step = jaxprop.make_train_step(loss_fn, optax.adam(1e-3), **options)
    params = [jnp.eye(WIDTH)] * DEPTH
    state = step.init(params, key=jax.random.key(0))
    return step, state, {"x": jnp.ones((BATCH, WIDTH)), "y": jnp.ones((BATCH, WIDTH))}


@pytest.fixture(scope="module")
def plain():
    return (lambda step, state, batch: step.memory(state, batch))(*step_and_arguments())


def test_the_parts_add_up_to_what_xla_reports():
    step, state, batch = step_and_arguments(ema_decay=0.9)
    compiled = step.lower(state, batch).compile()
    found, stats = predict(compiled), compiled.memory_analysis()
    kernels = 4 * DEPTH * WIDTH**2
    assert found.parts["params"] == found.parts["ema"] == kernels
    assert 2 * kernels <= found.parts["opt_state"] <= 2 * kernels + 8
    assert found.parts["batch"] == 2 * 4 * BATCH * WIDTH
    total = stats.argument_size_in_bytes + stats.temp_size_in_bytes + stats.output_size_in_bytes
    assert found.peak == pytest.approx(total - stats.alias_size_in_bytes, rel=0.01)
    assert found.peak == sum(found.parts.values())


def test_activations_are_found_by_layer_and_line(plain):
    activation = 4 * BATCH * WIDTH
    assert (DEPTH - 1) * activation <= plain.parts["activations"] <= (DEPTH + 3) * activation
    layers = {buffer.layer for buffer in plain.buffers if buffer.part == "activations" and buffer.size >= activation}
    assert {f"layer{i}" for i in range(DEPTH - 1)} <= layers
    largest = plain.buffers[0]
    assert largest.shape == f"float32[{BATCH},{WIDTH}]"
    assert largest.place.rpartition(":")[0] == __file__
    assert plain.largest == ("activations", plain.parts["activations"])


def test_accumulation_takes_less_and_its_loop_is_looked_into(plain):
    step, state, batch = step_and_arguments(accumulate=4)
    found = step.memory(state, batch)
    assert found.peak < plain.peak
    assert found.parts["activations"] < 0.5 * plain.parts["activations"]
    assert any(buffer.layer.startswith("layer") and buffer.part == "activations" for buffer in found.buffers)


def test_shapes_will_do_for_a_state_and_a_batch(plain):
    step, state, batch = step_and_arguments()
    shapes = jax.eval_shape(lambda: (state, batch))
    assert step.memory(*shapes).parts == plain.parts


def test_a_sharded_state_counts_by_device():
    mesh = jaxprop.make_mesh(1)
    step, state, batch = step_and_arguments(mesh=mesh)
    assert step.memory(state, batch).parts["params"] == 4 * DEPTH * WIDTH**2


@pytest.mark.parametrize("assignment", [b"", b"\x08", b"not a protocol buffer"])
def test_without_a_buffer_assignment_the_sums_still_hold(assignment):
    step, state, batch = step_and_arguments()
    compiled = step.lower(state, batch).compile()
    stats = compiled.memory_analysis()
    names = [f"{name}_size_in_bytes" for name in ("argument", "output", "alias", "temp")]
    other = SimpleNamespace(**{name: getattr(stats, name) for name in names})
    other.serialized_buffer_assignment_proto = assignment
    told = SimpleNamespace(
        args_info=compiled.args_info, input_shardings=compiled.input_shardings, memory_analysis=lambda: other,
        runtime_executable=compiled.runtime_executable,
    )  # fmt: skip
    found, whole = predict(told), predict(compiled)
    assert found.buffers == ()
    assert found.parts["temporaries"] == stats.temp_size_in_bytes
    assert found.peak == whole.peak - whole.parts.get("constants", 0)


def test_a_backend_that_reports_nothing():
    assert predict(SimpleNamespace(memory_analysis=lambda: None)) is None


@pytest.mark.parametrize(
    ("op_name", "layer", "operation", "part"),
    [
        ("jit(train_step)/jvp(blocks/0)/attn/dot_general", "blocks/0/attn", "dot_general", "activations"),
        ("jit(train_step)/transpose(jvp(blocks/0))/attn/mul", "blocks/0/attn", "mul", "gradients"),
        ("jit(f)/while/body/closed_call/jvp(head)/jit(relu)/max", "head", "max", "activations"),
        (
            "jit(f)/transpose(jvp(blocks/1))/checkpoint/rematted_computation/mlp/tanh",
            "blocks/1/mlp",
            "tanh",
            "activations",
        ),
        ("jit(f)/while/body/eval_jaxpr/jvp(net)/tanh", "net", "tanh", "activations"),
        ("jit(f)/cond/branch_1_fun/sqrt", "", "sqrt", "temporaries"),
        ("jit(f)/transpose(jvp(a))/reduce_sum:jit(f)/transpose(jvp(b))/reduce_sum", "", "", "gradients"),
    ],
)
def test_names(op_name, layer, operation, part):
    assert named(op_name) == (layer, operation)
    assert part_of(op_name) == part


def test_the_line_of_a_caller_is_not_that_of_the_update():
    inside = make_train_step.__code__.co_filename
    frames = (
        Frame("/lib/python3.11/site-packages/optax/adam.py", 1, 2),
        Frame(inside, 2, 3),
        Frame("/home/me/main.py", 3, 0),
        Frame("/home/me/model.py", 4, 2),
    )
    made = Program({}, frames)
    assert [place_of(made, frame) for frame in (1, 3, 4, 0)] == ["", "/home/me/main.py:3", "/home/me/model.py:4", ""]


def test_text():
    buffers = (
        Buffer(3 << 20, 3, "blocks/0", "dot", "model.py:7", "float32[4]", "activations"),
        Buffer(512, 1, "", "fusion", "", "float32[2]", "temporaries"),
    )
    lines = text(Memory(6 << 20, {"params": 2 << 20, "activations": 4 << 20}, buffers)).splitlines()
    assert lines == [
        "predicted peak of one step, each device: 6.0 MiB",
        "  parameters                      2.0 MiB",
        "  activations                     4.0 MiB",
        "largest temporaries at the peak:",
        "       3.0 MiB  float32[4] x 3  blocks/0 dot model.py:7",
        "         512 B  float32[2]  (no layer) fusion",
    ]


def test_the_measured_arrays_of_a_state_are_its_size():
    step, state, batch = step_and_arguments()
    held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    found = step.memory(state, batch)
    assert found.parts["params"] + found.parts["opt_state"] == held

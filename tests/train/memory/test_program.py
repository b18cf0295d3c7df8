"""Programs written by hand, field by field, since their classes come with no Python package."""

import jax
import jax.numpy as jnp
import pytest

from jaxprop.train.memory.program import (
    Frame,
    Value,
    constant_bytes,
    convolution_bytes,
    program,
    shape_text,
    temporaries,
)


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(*entries):
    """A message from (number, integer, text or inner message)."""
    out = b""
    for number, value in entries:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def buffer(number, size, instruction):
    return (1, message((1, number), (2, size), (3, message((4, instruction)))))


def allocation(index, size, ids, *flags):
    return (3, message((1, index), (2, size), *((flag, 1) for flag in flags), *((9, message((1, i))) for i in ids)))


def test_only_temporary_values_at_the_peak_are_returned():
    constant, argument, live_out, thread_local = 12, 5, 7, 3
    assignment = message(
        *(buffer(i, 10 * i, 100 + i) for i in range(1, 8)),
        allocation(0, 50, [1, 2], argument),
        allocation(1, 60, [3], live_out),
        allocation(2, 70, [4], constant),
        allocation(3, 80, [5, 6, 7]),
        allocation(4, 90, [1], thread_local),
        (5, message((1, 3), (2, varint(6) + varint(7)))),
    )
    assert temporaries(assignment) == [Value(60, 106, ()), Value(70, 107, ())]
    assert constant_bytes(assignment) == 70


def test_all_temporary_values_where_the_peak_is_not_told():
    assignment = message(buffer(1, 10, 5), buffer(2, 20, 6), allocation(0, 30, [1, 2]))
    assert [value.size for value in temporaries(assignment)] == [10, 20]


def instruction(number, opcode, op_name, operands=(), frame=0):
    metadata = message(*([(2, op_name)] if op_name else []), (15, frame))
    packed = b"".join(map(varint, operands))
    return (2, message((2, opcode), (7, metadata), (35, number), (36, packed)))


def test_a_copy_is_described_by_what_it_copies():
    copied = program(message((3, message(instruction(1, "dot", "jit(f)/dot"), instruction(2, "copy", "", [1])))))
    assert copied.described(2).op_name == "jit(f)/dot"
    nameless = program(message((3, message(instruction(1, "iota", ""), instruction(2, "copy", "", [1])))))
    assert nameless.described(2).opcode == "copy"
    assert nameless.described(9) is None


def test_a_circle_of_nameless_instructions_ends():
    circle = program(message((3, message(instruction(1, "while", "", [2]), instruction(2, "tuple", "", [1])))))
    assert circle.described(1).opcode == "while"


def test_a_stack_goes_from_the_innermost_frame_outwards_and_ends():
    place = [message((1, 1), (3, 10)), message((1, 2), (3, 20))]
    index = message(
        (1, "a.py"),
        (1, "b.py"),
        *((3, one) for one in place),
        (4, message((1, 1), (2, 2))),
        (4, message((1, 2), (2, 2))),
    )
    found = program(message((17, index)))
    assert list(found.stack(1)) == [Frame("a.py", 10, 2), Frame("b.py", 20, 2)]
    assert list(found.stack(0)) == list(found.stack(7)) == []


def test_shapes_of_tuples_are_those_of_their_parts():
    part = message((2, 16), (3, varint(4)))
    pair = message((2, 13), (4, part), (4, message((2, 4))))
    assert shape_text(memoryview(pair), (0,)) == "bfloat16[4]"
    assert shape_text(memoryview(pair), (1,)) == "int32[]"
    assert shape_text(memoryview(pair)) == shape_text(memoryview(pair), (5,)) == "tuple"


@pytest.mark.parametrize(("dtype", "width"), [(jnp.float32, 4), (jnp.bfloat16, 2)])
@pytest.mark.parametrize(("padding", "side"), [("SAME", 10), ("VALID", 8)])
def test_a_convolution_copies_its_padded_input(dtype, width, padding, side):
    x, kernel = jnp.ones((16, 8, 8, 4), dtype), jnp.ones((3, 3, 4, 8), dtype)

    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    compiled = jax.jit(convolved).lower(x, kernel).compile()
    made = program(compiled.runtime_executable().hlo_modules()[0].as_serialized_hlo_module_proto())
    # XLA may compute in float32 what is bfloat16.
    assert convolution_bytes(made) in {w * (16 * side * side * 4 + kernel.size) for w in (width, 4)}


def test_a_program_without_convolutions_copies_nothing():
    assert convolution_bytes(program(message((3, message(instruction(1, "dot", "jit(f)/dot")))))) == 0


def test_the_fields_are_those_of_the_installed_xla():
    def three(x):
        return jnp.sort(x @ x.T).sum()

    compiled = jax.jit(three).lower(jnp.ones((64, 64))).compile()
    module = compiled.runtime_executable().hlo_modules()[0]
    found = program(module.as_serialized_hlo_module_proto())
    assert any(one.op_name.endswith("dot_general") for one in found.instructions.values())
    assert any(frame.file == __file__ for frame in found.frames)
    stats = compiled.memory_analysis()
    held = temporaries(stats.serialized_buffer_assignment_proto)
    assert 0.5 * stats.temp_size_in_bytes <= sum(value.size for value in held) <= stats.temp_size_in_bytes
    assert all(value.instruction in found.instructions for value in held)

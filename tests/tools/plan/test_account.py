"""`tools/plan/account.py`: operations, bytes and collectives, of small programs and of those that XLA makes here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxprop.parallel.mesh import make_mesh
from jaxprop.tools.plan.account import account
from jaxprop.tools.plan.hlo import parse

LOOP = """HloModule made

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{0} get-tuple-element(%p), index=1
  %sum = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[2,2]<=[4], use_global_device_ids=true, to_apply=%add
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %sum)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]{0}) parameter(0)
  ROOT %w = (s32[], f32[8]{0}) while(%a), condition=%condition, body=%bodyKNOWN
}
"""


@pytest.mark.parametrize("known", ["", ', backend_config={"known_trip_count":{"n":"5"}}'])
def test_a_loop_counts_for_each_of_its_turns(known):
    found = account(parse(LOOP.replace("KNOWN", known)), {"data": 2, "fsdp": 2})
    (one,) = found.collectives
    assert (one.kind, one.axes, one.devices, one.times) == ("all-reduce", ("fsdp",), 2, 5)
    assert (one.size, one.sent) == (5 * 32, 5 * 32)  # 2 (n - 1) / n of 32 bytes, five times
    assert found.loops_unknown == 0


def test_a_loop_of_unknown_length_is_counted_once_and_told():
    text = LOOP.replace("KNOWN", "").replace("constant(5)", "parameter(1)")
    found = account(parse(text), {"data": 2, "fsdp": 2})
    assert (found.collectives[0].times, found.loops_unknown) == (1, 1)


TPU = """%gather (p: bf16[2,8]) -> bf16[8,8] {
  %p = bf16[2,8]{1,0} parameter(0)
  ROOT %g = bf16[8,8]{1,0} all-gather(%p), channel_id=3, replica_groups=mesh['axis_0'=4] {'axis_0'}, dimensions={0}
}

%scatter (p: bf16[8,8]) -> bf16[2,8] {
  %p = bf16[8,8]{1,0} parameter(0)
  %r = bf16[8,8]{1,0} all-reduce(%p), channel_id=4, replica_groups={{0,1,2,3}}, to_apply=%add
  %i = s32[] constant(0)
  ROOT %s = bf16[2,8]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={2,8}
}

ENTRY %main (a: bf16[2,8]) -> bf16[2,8] {
  %a = bf16[2,8]{1,0:T(8,128)} parameter(0)
  %f = bf16[8,8]{1,0:T(8,128)S(1)} fusion(%a), kind=kCustom, calls=%gather
  %h = bf16[8,8]{1,0:T(8,128)S(1)} fusion(%a), kind=kCustom, calls=%gather
  ROOT %o = bf16[2,8]{1,0} fusion(%h), kind=kCustom, calls=%scatter
}
"""


SLICES = """ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0} parameter(0)
  %t = token[] after-all()
  %s = (f32[8,128]{1,0}, u32[], token[]) send(%a, %t), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target=TARGET,_xla_megascale_transfer_type="KIND"}, backend_config={}
  %r = (f32[8,128]{1,0}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target=TARGET,_xla_megascale_transfer_type="KIND"}, backend_config={}
  %d = (f32[8,128]{1,0}, token[]) recv-done(%r), channel_id=1, is_host_transfer=true
  ROOT %o = f32[8,128]{1,0} get-tuple-element(%d), index=0
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("target", "kind", "expected"),
    [
        ('"{1,2}x{0:1}"', "ALL_REDUCE", ("all-reduce", ("data",), 2, 4096, 4096)),
        ("{{100000,200000},{200001,100001}}", "ALL_REDUCE", ("all-reduce", ("data",), 2, 4096, 4096)),
        ("{{100000,200000,100001,200001}}", "ALL_GATHER", ("all-gather", ("data", "fsdp"), 4, 16384, 12288)),
        ("{{100000,200000},{200001,100001}}", "ONE_TO_ONE", ("collective-permute", ("data",), 2, 4096, 4096)),
    ],
)
def test_what_slices_send_each_other_counts(target, kind, expected):
    text = SLICES.replace("TARGET", target).replace("KIND", kind)
    found = account(parse(text), {"data": 2, "fsdp": 2}, [100000, 100001, 200000, 200001])
    (one,) = found.collectives
    assert (one.kind, one.axes, one.devices, one.size, one.sent) == expected
    assert {(i, j) for i, j, *_ in one.groups.tolist()} <= {(0, 2), (3, 1), (1, 3)}
    assert found.moved == 2 * 4096  # what is sent is read, and what is received written


@pytest.mark.parametrize(
    ("target", "kind"),
    [("@[2,2]", "ALL_REDUCE"), ("{{100000,300000}}", "ALL_REDUCE"), ("{{100000,200000}}", "")],
    ids=["another form", "a chip that is not there", "no kind"],
)
def test_slices_that_exchange_arrays_in_a_way_nobody_knows_are_told(target, kind):
    text = SLICES.replace("TARGET", target).replace("KIND", kind)
    found = account(parse(text), {"data": 2}, [100000, 200000])
    assert (found.collectives, found.sends_unknown) == ((), 1)
    plain = account(parse(text.replace("megascale", "other")), {"data": 2}, [100000, 200000])
    assert (plain.collectives, plain.sends_unknown) == ((), 0)


def test_the_parts_of_one_collective_of_a_tpu_are_one_and_a_sum_in_parts_is_a_scatter():
    found = account(parse(TPU), {"data": 4})
    assert {(one.kind, one.times, one.size, one.sent) for one in found.collectives} == {
        ("all-gather", 1, 128, 96),
        ("reduce-scatter", 1, 128, 96),
    }
    # The input is read twice and the result written once; what lies on the chip, S(1), is free.
    assert found.moved == 32 + 32 + 32


SLICED = """%inner (p: f32[100,4], i: s32[]) -> f32[4] {
  %p = f32[100,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %s = f32[1,4]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,4}
  ROOT %r = f32[4]{0} bitcast(%s)
}

ENTRY %main (p: f32[100,4], i: s32[]) -> f32[4] {
  %p = f32[100,4]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[4]{0} fusion(%p, %i), kind=kLoop, calls=%inner
}
"""


def test_what_is_only_sliced_is_not_read_whole():
    assert account(parse(SLICED), {"data": 1}).moved == 16 + 4 + 16


@pytest.mark.parametrize(
    ("line", "left", "right", "flops"),
    [
        # A product of matrices, and one for each of 8 x 8 pairs, as a TPU writes them.
        ("f32[8,512,3072] convolution(%a, %b), window={size=1}, dim_labels=0bf_io0->0bf", "8,512,1024",
         "1024,3072,1", 2 * 8 * 512 * 3072 * 1024),
        ("f32[8,8,512,512] convolution(%a, %b), window={size=8x8 stride=7x7 lhs_dilate=8x8}, "
         "dim_labels=0b1f_0o1i->01bf", "8,512,8,128", "8,512,8,128", 2 * 64 * 512 * 512 * 128),
        # A convolution of 3 x 3 with padding, whose outermost taps meet no input.
        ("f32[2,4,4,5] convolution(%a, %b), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f", "2,4,4,3",
         "3,3,3,5", 2 * 2 * 5 * 3 * 10 * 10),
    ],
)  # fmt: skip
def test_products_of_every_form(line, left, right, flops):
    text = f"ENTRY %main (a: f32[{left}]) -> f32[1] {{\n  %a = f32[{left}] parameter(0)\n"
    text += f"  %b = f32[{right}] parameter(1)\n  ROOT %c = {line}\n}}\n"
    assert account(parse(text), {"data": 1}).flops == flops


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
def test_a_sum_over_one_axis_of_a_compiled_program(axis):
    mesh = make_mesh(8, data=2, fsdp=2, tensor=2)
    rest = tuple(name for name in mesh.axis_names if name != axis)
    split = NamedSharding(mesh, PartitionSpec(rest, axis))
    kept = NamedSharding(mesh, PartitionSpec(axis))
    out = NamedSharding(mesh, PartitionSpec(rest))
    x, w = jax.ShapeDtypeStruct((16, 64), jnp.float32), jax.ShapeDtypeStruct((64, 32), jnp.float32)
    compiled = jax.jit(jnp.dot, in_shardings=(split, kept), out_shardings=out).lower(x, w).compile()
    found = account(parse(compiled.as_text()), dict(mesh.shape))
    assert found.flops == 2 * 16 * 64 * 32 / 8
    (one,) = found.collectives
    assert (one.kind, one.axes, one.devices) == ("all-reduce", (axis,), 2)
    assert one.size == 4 * 32 * 4  # [16 / 4, 32] float32


def test_a_scan_of_a_compiled_program():
    def f(x, w):
        return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ w), None), x, None, length=7)[0]

    x = jnp.ones((4, 8))
    found = account(parse(jax.jit(f).lower(x, jnp.ones((8, 8))).compile().as_text()), {"data": 1})
    assert found.flops == 7 * 2 * 4 * 8 * 8
    assert np.isfinite(found.moved)

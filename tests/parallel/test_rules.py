"""Where parameters, and what belongs to them, lie: rules of the user's, of the built-in layers, and by themselves."""

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxprop.core.trees import leaf_paths
from jaxprop.errors import UsageError
from jaxprop.parallel.mesh import make_mesh
from jaxprop.parallel.rules import Rule, check_rules, following, parameter_specs

MESH = make_mesh(fsdp=2, tensor=2)  # data 2, fsdp 2, tensor 2


def spec(path, shape, rules=(), mesh=MESH):
    tree = np.zeros(shape, np.float32)
    for name in reversed(path.split("/")):
        tree = {name: tree}
    return tuple(parameter_specs(tree, mesh, rules)[0])


BY_THEMSELVES = {
    "the largest dimension": ("w", (32, 64), (None, "fsdp")),
    "that can be divided": ("w", (33, 64, 65), (None, "fsdp")),
    "the first of equals": ("w", (64, 64), ("fsdp",)),
    "none that can be divided": ("w", (33, 65), ()),
    "small": ("w", (2, 2), ()),
    "a scalar": ("w", (), ()),
}


@pytest.mark.parametrize("case", BY_THEMSELVES)
def test_a_parameter_without_a_rule_is_split_along_its_largest_dimension(case):
    path, shape, expected = BY_THEMSELVES[case]
    assert spec(path, shape) == expected


BUILT_IN = {
    "blocks/0/attn/qkv/kernel": ((64, 192), ("fsdp", "tensor")),
    "blocks/0/attn/out/kernel": ((64, 64), ("tensor", "fsdp")),
    "decoder/1/cross/kv/kernel": ((64, 128), ("fsdp", "tensor")),
    "blocks/0/mlp/up/kernel": ((64, 256), ("fsdp", "tensor")),
    "blocks/0/mlp/down/kernel": ((256, 64), ("tensor", "fsdp")),
    "blocks/0/mlp/up/bias": ((2048,), ("tensor",)),
    "blocks/0/mlp_norm/scale": ((64,), ()),
    "embed/embedding": ((256, 64), ("tensor", "fsdp")),
    "head/kernel": ((128, 10), ("fsdp", "tensor")),
    "layers/0/dense/kernel": ((64, 32), ("fsdp", "tensor")),
    "stages/0/0/conv/kernel": ((3, 3, 16, 32), (None, None, "fsdp", "tensor")),
}


@pytest.mark.parametrize("path", BUILT_IN)
def test_kernels_of_built_in_layers_are_split_as_their_products_are(path):
    shape, expected = BUILT_IN[path]
    assert spec(path, shape) == expected


def test_an_axis_that_does_not_divide_is_left_out_and_fsdp_takes_another_dimension():
    assert spec("blocks/0/mlp/up/kernel", (63, 256)) == (None, "tensor")
    assert spec("head/kernel", (129, 10, 8)) == (None, "tensor", "fsdp")


def test_the_first_rule_that_matches_counts_and_goes_before_those_of_built_in_layers():
    rules = [Rule("embed/.*", (("fsdp", "tensor"),)), Rule(".*", ()), Rule("head/.*", ("data",))]
    assert spec("embed/embedding", (256, 64), rules) == (("fsdp", "tensor"),)
    assert spec("head/kernel", (64, 64), rules) == ()


def test_axes_that_the_mesh_has_not_are_passed_over():
    rules = [Rule("w", ("sequence", ("fsdp", "tensor")))]
    assert spec("w", (64, 64), rules, make_mesh(8, tensor=4)) == (None, "tensor")
    assert spec("w", (64, 64), rules, make_mesh(1)) == ()


WRONG = {
    "too many entries": (Rule("w", ("fsdp", None, None)), "has 3 entries, and w has the shape"),
    "does not divide": (Rule("w", (None, "fsdp")), "splits dimension 1 of w over fsdp, and its size 33 is no multiple"),
    "nothing": (Rule("v", ()), "the rule 'v' matches no parameter; there are: w"),
    "unknown axis": (Rule("w", ("fsbp",)), "unknown axis of the mesh 'fsbp'; did you mean 'fsdp'"),
    "twice": (Rule("w", ("fsdp", "fsdp")), "names the axis fsdp twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_rule_that_cannot_be_kept_says_why(case):
    rule, says = WRONG[case]
    params = {"w": np.zeros((64, 33), np.float32)}

    def use():
        check_rules([rule], params, MESH)
        parameter_specs(params, MESH, [rule])

    with pytest.raises(UsageError, match=says):
        use()


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion"])
def test_the_optimizer_lies_as_the_parameters_do(name):
    params = {"dense": {"kernel": np.zeros((256, 512), np.float32), "bias": np.zeros(512, np.float32)}}
    state = {"params": params, "opt_state": jax.eval_shape(getattr(optax, name)(1e-3).init, params)}
    where = following(params, parameter_specs(params, MESH), MESH)
    paths = leaf_paths(state)
    found = {path: (leaf.shape, where(path, leaf)) for path, leaf in zip(paths, jax.tree.leaves(state), strict=True)}
    kernels = [spec for path, (shape, spec) in found.items() if shape == (256, 512)]
    assert kernels == [P("fsdp", "tensor")] * len(kernels)
    assert len(kernels) >= (1 if name == "adafactor" else 2)
    assert all(spec == P() for shape, spec in found.values() if shape == ())


def test_a_moving_average_lies_as_its_parameter_and_batch_statistics_on_every_device():
    params = {"kernel": np.zeros((64, 64), np.float32)}
    where = following(params, [P("fsdp")], MESH)
    assert where("ema/params/kernel", params["kernel"]) == P("fsdp")
    assert where("extras/batch_stats/mean", np.zeros(4096, np.float32)) == P()
    assert where("opt_state/0/factors", np.zeros((64, 32), np.float32)) == P("fsdp")

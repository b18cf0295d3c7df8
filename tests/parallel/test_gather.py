"""Arrays that lie on several processes."""

import jax
import numpy as np

from jaxprop.parallel.gather import gathered
from tests.run.many import run_program


def test_what_one_process_can_read_is_left_as_it_is():
    tree = {"a": np.ones(3), "b": jax.numpy.ones(2)}
    assert gathered(tree)["a"] is tree["a"]
    assert gathered(tree)["b"] is tree["b"]


def test_every_process_gets_the_whole_of_an_array_in_parts():
    program = """
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxprop.parallel.gather import gathered
mesh = jax.make_mesh((2,), ("data",))
part = np.full((1, 3), float(process_index()), np.float32)
whole = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), part)
found = gathered({"x": whole, "y": 1})
print(type(found["x"]).__name__, found["x"].tolist(), found["y"], file=sys.stderr)
"""
    for process in run_program(program, 2):
        assert process.code == 0, process.err
        assert process.err == "ndarray [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]] 1\n"

"""`bench/train/made.py`: a configuration ready to be measured."""

import pytest

from jaxprop.bench.train.made import make, planned_bytes
from jaxprop.bench.train.workloads import config_of

SMALL = config_of("mlp", data={"shape": [6], "batch_size": 8}, model={"hidden": [5]}, parallel={"devices": 1})


def test_sizes_operations_and_compile_times():
    facts = make(SMALL).facts
    assert (facts["batch"], facts["parameters"], facts["precision"]) == (8, 6 * 5 + 5 + 5 * 10 + 10, "float32")
    # Forward, and the gradient of each kernel; of the inputs only where a layer lies below.
    assert facts["flops_formula"] == 2 * 8 * (2 * 6 * 5 + 3 * 5 * 10)
    assert facts["flops_compiled"] >= facts["flops_formula"]
    assert facts["compile_warm_s"] > 0
    assert facts["compile_cold_s"] > 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accumulated_steps_have_the_same_operations(accumulate):
    config = SMALL.model_copy(update={"run": SMALL.run.model_copy(update={"accumulate": accumulate})})
    assert make(config, twice=False).facts["flops_formula"] == make(SMALL, twice=False).facts["flops_formula"]


def test_memory_is_planned_without_making_the_state():
    assert planned_bytes(SMALL) == make(SMALL, twice=False).facts["planned_bytes"]

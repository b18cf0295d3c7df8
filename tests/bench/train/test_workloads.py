"""`bench/train/workloads.py`: the built-in workloads."""

import jax
import pytest

from jaxprop.bench.train.workloads import WORKLOADS, config_of
from jaxprop.errors import UsageError
from jaxprop.run.compose import compose

MILLIONS = {
    "mlp": 5.0, "cnn": 3.245, "resnet18": 11.69, "resnet50": 25.56, "vit_s": 22.05,
    "detector": 1.92, "lstm": 3.319, "transformer_base": 60.9, "seq2seq_gru": 16.8, "conv_bilstm": 6.224,
    "conformer": 7.871, "gpt_10m": 8.8, "gpt2_124m": 124.5, "gpt_1b": 1072.3,
}  # fmt: skip


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_has_the_size_that_it_is_named_after(name):
    experiment = compose(config_of(name))
    state = jax.eval_shape(experiment.init, 0)
    assert sum(x.size for x in jax.tree.leaves(state.params)) / 1e6 == pytest.approx(MILLIONS[name], rel=0.01)


def test_one_that_does_not_exist_is_said_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown workload 'gpt2'.*gpt2_124m"):
        config_of("gpt2")

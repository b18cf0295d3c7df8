import pytest

from jaxprop.config.build import build
from jaxprop.errors import ConfigError


def test_defaults_are_filled_in(sections):
    config = build(sections)
    assert (config.precision.policy, config.sinks.jsonl, config.checkpoint.keep) == ("float32", True, 2)
    assert config.optimizer.schedule.name == "constant"


def test_a_config_is_frozen(sections):
    config = build(sections)
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 3


def test_problems_of_a_mapping_have_no_file(sections):
    with pytest.raises(ConfigError) as caught:
        build(sections | {"run": {"epochs": "3", "sed": 1}})
    assert caught.value.problems == [
        "run.epochs: expected a whole number, got '3'; remove the quotes",
        "run.sed: unknown key; did you mean 'seed'?",
    ]


def test_what_is_no_mapping():
    with pytest.raises(ConfigError, match=r"expected the sections task, .* run; got a list"):
        build([1])

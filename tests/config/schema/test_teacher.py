"""The key `task.teacher`: a run, its name alone, or code of one's own."""

import pytest

from jaxprop.config.build import build
from jaxprop.config.dump import dump
from jaxprop.config.load import load
from jaxprop.config.schema.teacher import CustomTeacher, RunTeacher
from jaxprop.errors import ConfigError

SECTIONS = {
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "run": {"epochs": 1},
}


def teacher_of(value):
    return build(SECTIONS | {"task": {"name": "classify", "teacher": value}}).task.teacher


def test_the_forms():
    assert teacher_of(None) is None
    assert teacher_of("runs/big") == teacher_of({"run": "runs/big"}) == RunTeacher(run="runs/big")
    own = teacher_of({"class": "mine.py:teacher", "weight": 0.9, "scale": 2})
    assert isinstance(own, CustomTeacher)
    assert (own.weight, own.temperature, own.arguments()) == (0.9, 2.0, {"scale": 2})


WRONG = [
    ({}, "task.teacher.run: required key is missing"),
    ({"run": "a", "weight": 0.0}, "task.teacher.weight: expected a number above 0, got 0.0"),
    ({"run": "a", "weight": 1.5}, "task.teacher.weight: expected a number of at most 1, got 1.5"),
    ({"run": "a", "temperature": 0}, "task.teacher.temperature: expected a number above 0, got 0"),
    ({"run": "a", "temprature": 2.0}, "task.teacher.temprature: unknown key; did you mean 'temperature'?"),
    ({"class": "mine.py"}, "task.teacher.class: expected FILE.py:NAME or package.module:NAME"),
    ({"class": "mine.py:t", "weight": 2.0}, "task.teacher.weight: expected a number of at most 1, got 2.0"),
    (3, "task.teacher: expected text, got 3"),
    ([1], "task.teacher: expected text, got a list"),
]


@pytest.mark.parametrize(("value", "told"), WRONG, ids=str)
def test_what_cannot_be(value, told):
    with pytest.raises(ConfigError) as raised:
        teacher_of(value)
    assert [line for line in raised.value.problems if line.startswith(told)], raised.value.problems
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize("value", ["runs/big", {"run": "runs/big", "weight": 1.0}, {"class": "a.b:t", "scale": 2.5}])
def test_a_dump_loads_to_the_same(value, tmp_path):
    config = build(SECTIONS | {"task": {"name": "classify", "teacher": value}})
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(tmp_path / "config.yaml").config.task.teacher == config.task.teacher

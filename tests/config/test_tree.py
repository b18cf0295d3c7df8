import pytest

from jaxprop.config.tree import Tree, dotted

TREE = Tree({}, {"": "a:1", "run": "a:2", "run.seed": "a:3", "model.hidden.0": "override 'x'"})


@pytest.mark.parametrize(
    ("path", "origin"),
    [
        (("run", "seed"), "a:3"),
        (("run", "steps"), "a:2"),  # absent: its mapping
        (("model",), "override 'x'"),  # written only through what is in it
        (("task", "loss", "name"), "a:1"),
        ((), "a:1"),
    ],
)
def test_origin_is_the_nearest_that_is_known(path, origin):
    assert TREE.origin(path) == origin


def test_problem_is_one_line():
    assert TREE.problem(("run", "seed"), "what") == "a:3: run.seed: what"
    assert Tree({}, {}).problem(("run", "seed"), "what") == "run.seed: what"
    assert dotted(("a", 0, "b")) == "a.0.b"

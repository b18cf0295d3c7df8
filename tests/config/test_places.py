import pytest

from jaxprop.config.places import ROOT, at, item

VALUE = {
    "task": {"name": "classify", "loss": {"name": "huber"}},
    "model": {"name": "mlp"},
    "optimizer": {"name": "adamw", "schedule": {"name": "cosine"}, "groups": [{"match": "x"}]},
    "data": {"name": "nonsense"},
}
OWN = {
    "task": {"loss": {"class": "l.py:loss"}, "metrics": {"f1": {"class": "m.py:f1"}}, "teacher": {"class": "t.py:t"}},
    "model": {"class": "n.py:Net", "name": "mlp"},
    "optimizer": {"class": "o.py:make", "schedule": {"name": "cosine"}},
}


@pytest.mark.parametrize(
    ("path", "model", "choice", "tagged"),
    [
        ((), "Config", None, None),
        (("task",), "Task", None, None),
        (("task", "loss"), "Huber", "squared_error", True),
        (("model",), "Mlp", "transformer", True),
        (("optimizer",), "adamw", "sgd", False),
        (("optimizer", "schedule"), "Cosine", "linear", False),
        (("optimizer", "groups", 0), "Group", None, None),
        (("data",), None, "digits", True),
        (("run",), "Run", None, None),
    ],
)
def test_the_class_at_a_path(path, model, choice, tagged):
    place, value = at(path, VALUE)
    found = place.model(value)
    assert (found and found.__name__) == model
    choices = place.choices()
    assert (choices is not None) == (choice is not None)
    if choices:
        assert choice in choices.names
        assert choices.tagged == tagged


@pytest.mark.parametrize(
    "path", [("nothing",), ("data", "batch_size"), ("run", "steps", "deeper"), ("model", "hidden", "x")]
)
def test_no_place(path):
    place, value = at(path, VALUE)
    assert place is None or place.model(value) is None


def test_items():
    assert item({"a": 1}, "a") == 1
    assert item([5, 6], 1) == 6
    assert item([5], 1) is item(None, "a") is item([5], "a") is None
    assert ROOT.child({}, "optimizer").choices().model("sgd").__name__ == "sgd"


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (("model",), "CustomModel"),
        (("task", "loss"), "CustomLoss"),
        (("task", "teacher"), "CustomTeacher"),
        (("task", "metrics", "f1"), "CustomMetric"),
        (("optimizer",), "CustomOptimizer"),
        (("optimizer", "schedule"), "Cosine"),
    ],
)
def test_a_class_chooses_code_of_ones_own(path, model):
    place, value = at(path, OWN)
    assert place.model(value).__name__ == model
    assert at(("model", "width"), OWN)[0] is None

"""Sections with code of the user's own: what `class` may name, and that they compare by what they say."""

import pytest
from pydantic import ValidationError

from jaxprop.config.schema.custom import Custom, Target, names_of, target_of
from jaxprop.config.schema.data import CustomData
from jaxprop.config.schema.model import Mlp


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("net.py:Net", Target("net.py", "Net")),
        ("/a b/c:d/net.py:Net", Target("/a b/c:d/net.py", "Net")),
        ("package.module:Net", Target("package.module", "Net")),
        ("net:Net", Target("net", "Net")),
        *((text, None) for text in ("", "net.py", "net.py:", ":Net", "net.py:2", "net.py:a.b", "a b:Net", ".py:Net")),
        *((text, None) for text in ("package.:Net", "net.pyc:Net()", "net.py:Net\n")),
    ],
)
def test_what_a_class_may_name(text, target):
    assert target_of(text) == target
    if target is None:
        with pytest.raises(ValidationError):
            Custom.model_validate({"class": text})


def test_shown_without_the_folder():
    assert Target("/a/net.py", "Net").shown == "net.py:Net"
    assert Target("a.b", "Net").shown == "a.b:Net"


def test_equal_by_class_and_keys_wherever_they_were_written():
    one = Custom.model_validate({"class": "net.py:Net", "width": 1})
    same = one.admitted(one.target, True, {"model.class": "a.yaml:1"})
    assert one == same
    assert hash(one) == hash(same)
    assert (one.permitted, same.permitted, same.model_copy(update={"class_sha256": None}).permitted) == (0, 1, 1)
    assert one != Custom.model_validate({"class": "net.py:Net", "width": 2})
    assert one != CustomData.model_validate({"class": "net.py:Net", "width": 1})


def test_its_own_keys_are_no_arguments():
    data = CustomData.model_validate({"class": "d.py:make", "batch_size": 3, "path": "x", "class_sha256": "0" * 64})
    assert data.arguments() == {"path": "x"}
    assert data.name == "d.py:make"
    with pytest.raises(ValidationError, match="frozen"):
        data.batch_size = 4


def test_names():
    assert names_of(Mlp) == ("mlp",)
    assert names_of(CustomData) == ()

"""Models of another width, and what cannot be one."""

import pytest

from jaxprop.config.build import build
from jaxprop.config.schema.model import Cnn, Mlp, Transformer
from jaxprop.config.widths import WIDTHS, base_of, width_of, with_keys, with_width
from jaxprop.errors import ConfigError
from jaxprop.models import MODELS

SECTIONS = {
    "task": {"name": "classify"}, "data": {"name": "digits"}, "model": {"name": "mlp", "hidden": [256, 128]},
    "run": {"epochs": 1},
}  # fmt: skip


def configured(model=None, **optimizer):
    sections = {"optimizer": {"name": "adam", "lr": 0.1, **optimizer}}
    return build(SECTIONS | sections | ({} if model is None else {"model": model}))


def test_every_built_in_model_has_a_width():
    assert WIDTHS.keys() == MODELS.keys()


def test_all_widths_stay_in_proportion():
    assert width_of(Mlp(name="mlp", hidden=(64, 128))) == 128
    assert with_width(Cnn(name="cnn", channels=(32, 64), hidden=(128,)), 16).channels == (8, 16)
    assert with_width(Transformer(name="transformer", width=64), 512).width == 512
    with pytest.raises(ConfigError, match=r"makes model\.hidden 12\.5 in place of 50, which is no whole number"):
        with_width(Mlp(name="mlp", hidden=(50, 64)), 16)


def test_the_base_model_is_that_of_base_width_or_of_base():
    assert base_of(configured()) is None
    assert base_of(configured(parametrization="mup", base_width=64)).hidden == (64, 32)
    assert base_of(configured(parametrization="mup", base={"hidden": [8, 16]})).hidden == (8, 16)


WRONG = {
    "no base": ({"parametrization": "mup"}, "mup needs the width that rates were found at: base_width: 64"),
    "two bases": ({"parametrization": "mup", "base_width": 64, "base": {"hidden": [8]}}, "got both"),
    "a base of nothing": ({"base_width": 64}, "base_width is for parametrization: mup; add that, or remove base_width"),
    "an optimizer that it is not known for": (
        {"name": "novograd", "parametrization": "mup", "base_width": 64},
        "how rates of novograd depend on the width is not known",
    ),
    "a width that is no whole number": ({"parametrization": "mup", "base_width": 3}, "base_width: a width of 3 in"),
    "a key that is not there": (
        {"parametrization": "mup", "base": {"hiden": [8]}}, r"optimizer.base: the model mlp has no key 'hiden'.*hidden",
    ),
    "a value that does not fit": ({"parametrization": "mup", "base": {"hidden": "wide"}}, "optimizer.base: hidden: "),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_are_one_sentence(what):
    changes, sentence = WRONG[what]
    with pytest.raises(ConfigError, match=sentence) as caught:
        configured(**changes)
    assert len(caught.value.problems) == 1


def test_a_key_may_be_any_of_the_section():
    assert with_keys(Transformer(name="transformer", width=64), {"width": 32, "heads": 2}).heads == 2

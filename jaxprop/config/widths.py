"""The width of a model, and the same model of another width. Imports no jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.model import ModelSection
from jaxprop.config.schema.optimizer import Optimizer
from jaxprop.errors import ConfigError, did_you_mean

# The keys of built-in models that say how wide they are; the largest value of the first one is the model's width.
WIDTHS: dict[str, tuple[str, ...]] = {
    "mlp": ("hidden",),
    "cnn": ("channels", "hidden"),
    "resnet": ("widths",),
    "vit": ("width",),
    "rnn": ("width",),
    "transformer": ("width",),
    "seq2seq_transformer": ("width",),
    "seq2seq_rnn": ("width",),
    "detector": ("widths", "pyramid"),
    "conv_bilstm": ("width", "channels"),
    "conformer": ("width",),
}


def width_of(section: ModelSection) -> int:
    """Returns the width of a model.

    Args:
      section: a built-in model, or one of the user's own with the argument `width`.

    Raises:
      ConfigError: a model of the user's own has no such argument.

    Example:
      >>> from jaxprop.config.schema.model import Cnn
      >>> width_of(Cnn(name="cnn", channels=(16, 32), hidden=(64,)))
      32
    """
    value = _keys(section)[0][1]
    return max(value) if isinstance(value, tuple | list) else int(value)


def with_width(section: ModelSection, width: int) -> ModelSection:
    """Returns a model whose widths are all in the same proportion, so that it has another one.

    Args:
      section: a built-in model, or one of the user's own with the argument `width`.
      width: the new one.

    Raises:
      ConfigError: a width would not be a whole number, or there is none.

    Example:
      >>> from jaxprop.config.schema.model import Cnn
      >>> with_width(Cnn(name="cnn", channels=(16, 32), hidden=(64,)), 8).hidden
      (16,)
    """
    before = width_of(section)
    return with_keys(section, {key: _in_proportion(key, value, width, before) for key, value in _keys(section)})


def with_keys(section: ModelSection, keys: Mapping[str, Any]) -> ModelSection:
    """Returns a model with some keys changed.

    Args:
      section: the model.
      keys: of the section, and their values.

    Raises:
      ConfigError: there is no such key, or its value does not fit.

    Example:
      >>> from jaxprop.config.schema.model import Mlp
      >>> with_keys(Mlp(name="mlp"), {"hidden": [8]}).hidden
      (8,)
    """
    known = [*section.arguments()] if isinstance(section, Custom) else [*type(section).model_fields]
    for key in keys:
        if key not in known or key == "name":
            raise ConfigError(f"optimizer.base: the model {section.name} has no key {key!r}{did_you_mean(key, known)}")
    if isinstance(section, Custom):
        return section.model_copy(update=dict(keys))
    try:
        return type(section).model_validate({**section.model_dump(), **keys})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"optimizer.base: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def base_of(config: Config) -> ModelSection | None:
    """Returns the model that is as usual, by which rates and initial values of the model are scaled; None without it.

    Args:
      config: the configuration.

    Raises:
      ConfigError: the base model cannot be said.
    """
    optimizer = config.optimizer
    if not isinstance(optimizer, Optimizer) or optimizer.parametrization == "standard":
        return None
    if optimizer.base is not None:
        return with_keys(config.model, optimizer.base)
    assert optimizer.base_width is not None
    return with_width(config.model, optimizer.base_width)


def _keys(section: ModelSection) -> list[tuple[str, Any]]:
    if isinstance(section, Custom):
        width = section.arguments().get("width")
        if not isinstance(width, int):
            raise ConfigError(
                f"optimizer.base_width: the model {section.name} has no argument width; write the arguments that make "
                "the base model, as in optimizer.base: {features: 64}"
            )
        return [("width", width)]
    return [(key, getattr(section, key)) for key in WIDTHS[section.name]]


def _in_proportion(key: str, value: Any, width: int, before: int) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_in_proportion(key, one, width, before) for one in value)
    if value * width % before:
        raise ConfigError(
            f"a width of {width} in place of {before} makes model.{key} {value * width / before:g} in place of "
            f"{value}, which is no whole number; use another width, or optimizer.base with keys of the model"
        )
    return value * width // before

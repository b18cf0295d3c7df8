"""What a model must be like to compute what a checkpoint's own does: from its map, its config.json and its shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxprop.config.schema.base import Section
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.initial import MAPS, WeightMap
from jaxprop.config.weight_maps import weight_map
from jaxprop.errors import UsageError
from jaxprop.run.weight_files import Listed, Weights
from jaxprop.run.weight_rules import matched

# What `transformers` calls activations, where it is not what they are called here.
ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu", "gelu_fast": "gelu", "gelu_pytorch_tanh": "gelu",
               "gelu_python": "gelu_exact", "swish": "silu"}  # fmt: skip
SHAPED = ("width", "ff_multiple", "depths", "widths", "block", "stem")  # keys that shapes of parameters follow from


def model_of(made: WeightMap, given: Weights, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of the section `model` that the weights were made for, as far as they can be told.

    Args:
      made: the map, with the keys that all of its checkpoints have.
      given: the arrays, by their paths here.
      config: what a `config.json` beside them holds.

    Example:
      >>> import numpy as np
      >>> arrays = {"embed/embedding": np.zeros((9, 8)), "blocks/1/mlp/up/kernel": np.zeros((8, 32))}
      >>> found = model_of(weight_map("gpt2"), Weights(arrays, {}, "there"), {"n_head": 2})
      >>> [found[key] for key in ("name", "layers", "width", "heads", "ff_multiple", "norm_epsilon")]
      ['transformer', 2, 8, 2, 4, 1e-05]
    """
    plain = {key: value for key, value in config.items() if isinstance(value, int | float | str)}
    told = {here: plain[there] for there, here in made.config.items() if there in plain}
    if "activation" in told:
        told["activation"] = ACTIVATIONS.get(str(told["activation"]), told["activation"])
    measure = MEASURED.get(str(made.model.get("name")))
    return {**made.model, **told, **({} if measure is None else measure(given.params))}


def _transformer(arrays: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    numbers = [int(match[1]) for path in arrays if (match := re.match(r"blocks/(\d+)/", path))]
    table, up = arrays.get("embed/embedding"), next((a for p, a in arrays.items() if p.endswith("mlp/up/kernel")), None)
    if numbers:
        found["layers"] = max(numbers) + 1
    if table is not None and table.ndim == 2:
        found["width"] = table.shape[1]
    if up is not None and up.ndim == 2 and up.shape[0] and up.shape[1] % up.shape[0] == 0:
        found["ff_multiple"] = up.shape[1] // up.shape[0]
    return found


def _resnet(arrays: Mapping[str, Any]) -> dict[str, Any]:
    first = re.compile(r"stages/(\d+)/(\d+)/layers/(\d+)/conv/kernel")
    at = {tuple(map(int, match.groups())): arrays[path] for path in arrays if (match := first.fullmatch(path))}
    at = {place: kernel for place, kernel in at.items() if kernel.ndim == 4}
    if not at:
        return {}
    stages = range(max(place[0] for place in at) + 1)
    return {
        "block": "bottleneck" if any(place[2] == 2 for place in at) else "basic",
        "depths": tuple(1 + max((place[1] for place in at if place[0] == i), default=0) for i in stages),
        "widths": tuple(at[i, 0, 0].shape[-1] if (i, 0, 0) in at else 0 for i in stages),
    }


MEASURED: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"transformer": _transformer, "resnet": _resnet}


def differences(config: Config, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of some keys of the section `model` that a configuration has otherwise.

    Args:
      config: the configuration.
      wanted: keys and values, as `model_of` returns them.
    """
    model = config.model
    if not isinstance(model, Section) or getattr(model, "name", None) != wanted.get("name"):
        return {key: value for key, value in wanted.items() if key == "name"}
    has = {key: getattr(model, key) for key in type(model).model_fields}
    language = config.task.name == "language"
    if "causal" in has and has["causal"] is None:
        has["causal"] = language
    unread = ("pool",) if language else ("tie_embeddings",)  # which have no effect on such a model
    return {key: value for key, value in wanted.items() if key in has and key not in unread and has[key] != value}


def written(keys: Mapping[str, Any]) -> str:
    """Returns keys of the section `model` as they are written on a command line.

    Example:
      >>> written({"width": 768, "depths": (2, 2), "causal": True, "norm_epsilon": 1e-5})
      'model.width=768 model.depths=[2,2] model.causal=true model.norm_epsilon=1e-05'
    """

    def value(x: Any) -> str:
        if isinstance(x, list | tuple):
            return f"[{','.join(map(str, x))}]"
        return str(x).lower() if isinstance(x, bool) else str(x)

    return " ".join(f"model.{key}={value(x)}" for key, x in keys.items())


def expect_name(config: Config, wanted: Mapping[str, Any], given: Weights) -> None:
    """Raises UsageError where the model is of another kind than the one that the weights were made for."""
    found = differences(config, wanted)
    if "name" in found:
        raise UsageError(
            f"run.init_from.map: the weights of {given.where} are of another model; write {written(found)}"
        )


def told(config: Config, made: WeightMap, wanted: Mapping[str, Any]) -> list[str]:
    """Returns what is to be said of a model that would compute other outputs from the same weights."""
    found = differences(config, wanted)
    notes = []
    if found:
        notes.append(
            f"warning: the weights were made for {written(found)}, and the outputs are others with other values"
        )
    if "heads" in made.config.values() and "heads" not in wanted:
        notes.append(
            "the number of heads is neither in the weights nor in a config.json beside them; "
            f"model.heads={getattr(config.model, 'heads', None)} is taken"
        )
    return notes


def unlike(made: WeightMap, config: Mapping[str, Any]) -> list[str]:
    """Returns what is to be said of weights for another computation, which no key of `model` here gives.

    Args:
      made: the map.
      config: what a `config.json` beside the weights holds.

    Example:
      >>> unlike(weight_map("bert"), {"model_type": "bert", "hidden_size": 768})
      []
    """
    plain = {key: value for key, value in config.items() if isinstance(value, bool | int | float | str)}
    found = {key: plain[key] for key, value in made.only.items() if key in plain and plain[key] != value}
    if not found:
        return []
    there = ", ".join(f"{key}: {json.dumps(value)}" for key, value in found.items())
    here = ", ".join(f"{key}: {json.dumps(made.only[key])}" for key in found)
    return [
        f"warning: the config.json beside the weights says {there}, and the model here is that of "
        f"{here}, so its outputs are not those of the checkpoint's own model"
    ]


def fix(config: Config, wanted: Mapping[str, Any], path: str, there: tuple[int, ...], here: tuple[int, ...]) -> str:
    """Returns what gives a parameter the shape of an array, or an empty text where that is not known.

    Args:
      config: the configuration.
      wanted: keys of the section `model` that the weights were made for.
      path: of the parameter.
      there, here: shapes of the array and of the parameter.
    """
    shaped = {key: value for key, value in differences(config, wanted).items() if key in SHAPED}
    if shaped:
        return f"write {written(shaped)}"
    if path == "embed/embedding":
        return (
            f"use the checkpoint's tokenizer, which has {there[0]} tokens, with data.tokenizer: PATH/tokenizer.json, "
            "or draw it anew with skip: ['embed/.*']"
        )
    if path == "positions/embedding" and there[0] < here[0]:
        return f"write data.{'sequence_length' if config.task.name == 'language' else 'max_length'}={there[0]}"
    return f"write model.token_types={there[0]}" if path == "types/embedding" else ""


def fitting_map(listed: Listed) -> str | None:
    """Returns the name of the packaged map that fits all it needs of a checkpoint, or None.

    Example:
      >>> fitting_map(Listed(("embedder/weight",), lambda name: None, "there", {})) is None
      True
    """
    for name in MAPS:
        made = weight_map(name)
        assert made is not None
        try:
            matched(listed, made.rules)
        except UsageError:
            continue
        return name
    return None

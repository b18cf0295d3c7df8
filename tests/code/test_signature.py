"""The arguments of the user's callables: names, and the simple types, as strictly as the schema's own keys."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import pytest
from flax import nnx

from jaxprop.code.signature import check_arguments, signature_of


class Nnx(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs): ...


class Linen(nn.Module):
    width: int
    kind: Literal["a", "b"] = "a"

    @nn.compact
    def __call__(self, x):
        return x


class Equinox(eqx.Module):
    weight: jax.Array

    def __init__(self, width: int, key): ...


class Fields(eqx.Module):
    width: int
    depth: int = 2


class Pair(NamedTuple):
    first: int
    second: int = 0


class Child(Nnx):
    def __call__(self, x):
        return x


class Empty: ...


def function(width, /, depth: "int" = 1, *rest, dropout: float = 0.0, **more): ...


@pytest.mark.parametrize(
    ("target", "names", "required", "rest"),
    [
        (Nnx, ["width", "rngs"], ["width", "rngs"], None),
        (Child, ["width", "rngs"], ["width", "rngs"], None),
        (Linen, ["width", "kind"], ["width"], None),
        (Equinox, ["width", "key"], ["width", "key"], None),
        (Fields, ["width", "depth"], ["width"], None),
        (Pair, ["first", "second"], ["first"], None),
        (Empty, [], [], None),
        (function, ["width", "depth", "dropout"], ["width"], "more"),
        (functools.partial(Nnx, 3), ["rngs"], ["rngs"], None),
    ],
)
def test_what_a_callable_takes(target, names, required, rest):
    found = signature_of(target)
    assert list(found.parameters) == names
    assert found.required == required
    assert found.rest == rest
    assert found.known


def test_a_signature_that_python_does_not_know_takes_anything():
    class Hidden:
        __signature__ = "not one"

        def __call__(self, *args): ...

    found = signature_of(Hidden())
    assert not found.known
    assert check_arguments(found, {"anything": 1}) == ({"anything": 1}, [])


def typed(
    whole: int = 0,
    real: float = 0.0,
    flag: bool = False,
    text: str = "",
    kind: Literal["relu", "gelu"] = "relu",
    perhaps: int | None = None,
    either: int | str = 0,
    sizes: tuple[int, ...] = (),
    pair: tuple[int, float] = (1, 2.0),
    items: list[int] | None = None,
    several: Sequence[str] = (),
    bare: tuple = (),
    marked: Annotated[int, "of something"] = 0,
    array: jax.Array | None = None,
    free: Any = None,
    plain=None,
): ...


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"whole": 3}, 3),
        ({"real": 3}, 3.0),
        ({"flag": True}, True),
        ({"text": "a"}, "a"),
        ({"kind": "gelu"}, "gelu"),
        ({"perhaps": None}, None),
        ({"either": "a"}, "a"),
        ({"sizes": [8, 16]}, (8, 16)),
        ({"pair": [1, 0.5]}, (1, 0.5)),
        ({"items": [1, 2]}, [1, 2]),
        ({"several": ["a"]}, ("a",)),
        ({"bare": [1, "a"]}, (1, "a")),
        ({"marked": 2}, 2),
        ({"array": [1.0]}, [1.0]),
        ({"free": {"a": 1}}, {"a": 1}),
        ({"plain": [1]}, [1]),
    ],
)
def test_values_that_fit(given, taken):
    arguments, wrong = check_arguments(signature_of(typed), given)
    assert wrong == []
    assert [(type(value), value) for value in arguments.values()] == [(type(taken), taken)]


@pytest.mark.parametrize(
    ("given", "key", "what"),
    [
        ({"whole": 1.5}, "whole", "expected a whole number, got 1.5"),
        ({"whole": 64.0}, "whole", "expected a whole number, got 64.0; write 64"),
        ({"whole": True}, "whole", "expected a whole number, got true"),
        ({"whole": "7"}, "whole", "expected a whole number, got '7'; remove the quotes"),
        ({"whole": None}, "whole", "expected a whole number, got nothing"),
        ({"real": True}, "real", "expected a number, got true"),
        ({"real": float("inf")}, "real", "expected a finite number, got inf"),
        ({"flag": 1}, "flag", "expected true or false, got 1"),
        ({"text": 3}, "text", "expected text, got 3"),
        ({"kind": "rellu"}, "kind", "expected 'relu' or 'gelu', got 'rellu'; did you mean 'relu'?"),
        ({"perhaps": "a"}, "perhaps", "expected a whole number, got 'a'"),
        ({"either": 1.5}, "either", "expected a whole number or text, got 1.5"),
        ({"sizes": 8}, "sizes", "expected a list, got 8"),
        ({"sizes": [8, "a"]}, "sizes.1", "expected a whole number, got 'a'"),
        ({"items": [1.5]}, "items.0", "expected a whole number, got 1.5"),
        ({"several": [1]}, "several.0", "expected text, got 1"),
        ({"marked": "a"}, "marked", "expected a whole number, got 'a'"),
        ({"wole": 1}, "wole", "unknown key; did you mean 'whole'?"),
    ],
)
def test_values_that_do_not_fit(given, key, what):
    _, wrong = check_arguments(signature_of(typed), given)
    assert [tuple(one) for one in wrong] == [(key, what)]


def test_names_that_do_not_fit():
    signature = signature_of(Nnx)
    assert [tuple(one) for one in check_arguments(signature, {"widht": 1}, ["rngs"])[1]] == [
        ("widht", "unknown key; did you mean 'width'?"),
        ("width", "required key is missing"),
    ]
    assert check_arguments(signature, {"width": 1, "zzz": 1}, ["rngs"])[1][0].what == "unknown key (known: width)"
    assert check_arguments(signature_of(Empty), {"zzz": 1})[1][0].what == "unknown key; it takes no arguments"
    near = check_arguments(signature_of(Empty), {"batchsize": 1}, other=["batch_size"])[1]
    assert near[0].what == "unknown key; did you mean 'batch_size'?"
    assert check_arguments(signature_of(function), {"width": 1, "anything": 2})[1] == []


def test_an_annotation_that_cannot_be_read_checks_nothing():
    def broken(width, depth=1): ...

    broken.__annotations__ = {"width": "Nowhere", "depth": "int"}
    assert check_arguments(signature_of(broken), {"width": "a"})[1] == []

"""The errors a person sees: their sentences and exit codes."""

import inspect

import pytest

from jaxprop import errors

EXIT_CODES = {"ConfigError": 2, "UsageError": 2}  # all others: 1, a runtime error


def classes():
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__]


@pytest.mark.parametrize("error", classes(), ids=lambda c: c.__name__)
def test_every_error_is_a_documented_value_error_with_its_exit_code(error):
    assert issubclass(error, errors.JaxpropError)
    assert issubclass(error, ValueError)
    assert error.__doc__
    assert error.exit_code == EXIT_CODES.get(error.__name__, 1)


def test_exit_codes_are_the_documented_ones():
    codes = {name: value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes == {
        "EXIT_DONE": 0, "EXIT_RUNTIME": 1, "EXIT_USAGE": 2, "EXIT_DIVERGED": 3, "EXIT_SIGTERM": 75, "EXIT_SIGINT": 130,
    }  # fmt: skip


@pytest.mark.parametrize(("given", "problems"), [("one", ["one"]), (["one", "two"], ["one", "two"]), (("a",), ["a"])])
def test_a_config_error_keeps_its_problems_apart(given, problems):
    error = errors.ConfigError(given)
    assert error.problems == problems
    assert str(error) == "\n".join(problems)


def test_a_missing_extra_says_how_to_install_it():
    message = str(errors.MissingExtraError("equinox", "from_equinox"))
    assert "from_equinox needs the package 'equinox'" in message
    assert message.endswith("pip install equinox")


@pytest.mark.parametrize(
    ("name", "known", "clause"),
    [
        ("adamm", ["sgd", "adam", "adamw"], "; did you mean 'adam'?"),
        ("optimiser", ["optimizer"], "; did you mean 'optimizer'?"),
        ("zzz", ["optimizer", "model"], ""),
        ("x", [], ""),
        ("lr", iter(["lr", "beta"]), "; did you mean 'lr'?"),
    ],
)
def test_did_you_mean_names_the_nearest_or_nothing(name, known, clause):
    assert errors.did_you_mean(name, known) == clause


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cn", "unknown model 'cn'; did you mean 'cnn'? (known: cnn, mlp)"),
        ("diffusion", "unknown model 'diffusion' (known: cnn, mlp)"),
    ],
)
def test_one_of_lists_what_is_known_sorted(name, sentence):
    assert errors.one_of(name, (known for known in ("mlp", "cnn")), "model") == sentence


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u202e", "\u200b", "\ud800"])
def test_control_characters_are_replaced(character):
    assert errors.printable(f"a{character}b\n") == "a?b?"
    assert errors.printable(f"a{character}b\n\tc", lines=True) == "a?b\n c"
    assert errors.printable("µ ▁ 漢") == "µ ▁ 漢"

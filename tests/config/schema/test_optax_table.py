"""The table of optimizers against the optax that is installed."""

import importlib.util
import inspect
from pathlib import Path

import optax
import pytest

from jaxprop.config.schema.optax_table import ARGUMENTS_LEFT_OUT, LEFT_OUT, OPTAX_VERSION, OPTIMIZERS

WRITTEN = ("polyak_sgd", "sam")  # tests/train/test_named.py compares these
GENERATED = [name for name in OPTIMIZERS if name not in WRITTEN]
SCRIPT = Path(__file__).parents[3] / "scripts" / "make_optax_table.py"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("make_optax_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def signature(row):
    module = optax.contrib if row["function"].startswith("optax.contrib.") else optax
    return inspect.signature(getattr(module, row["function"].rpartition(".")[2])).parameters


@pytest.mark.skipif(optax.__version__ != OPTAX_VERSION, reason="the table was generated from another optax")
def test_the_committed_table_is_what_the_script_writes(generator):
    assert generator.TABLE.read_text(encoding="utf-8") == "\n".join(generator.lines()) + "\n"


@pytest.mark.parametrize("name", GENERATED)
def test_every_argument_exists_in_optax_with_the_same_default(name, generator):
    row, parameters = OPTIMIZERS[name], signature(OPTIMIZERS[name])
    changed = generator.CHANGED.get(name, ("", {}))[1]
    for argument, (_, default) in row["arguments"].items():
        expected = changed.get(argument, parameters[argument].default)
        assert default == (expected.dtype.name if hasattr(expected, "dtype") else expected), argument
    assert {row["mask"], row["decay"]} - {None} <= parameters.keys()
    rate = parameters["learning_rate"].default
    assert row["lr"][1] is ... or row["lr"][1] == rate


@pytest.mark.parametrize("name", GENERATED)
def test_an_argument_that_yaml_cannot_say_has_a_reason(name):
    missing = set(signature(OPTIMIZERS[name])) - set(OPTIMIZERS[name]["arguments"]) - {"learning_rate"}
    if optax.__version__ == OPTAX_VERSION:  # a newer optax may have added some
        assert missing <= set(ARGUMENTS_LEFT_OUT)
    assert not set(OPTIMIZERS[name]["arguments"]) & set(ARGUMENTS_LEFT_OUT)


def test_every_optimizer_of_optax_is_offered_or_left_out_with_a_reason(generator):
    offered = {row["function"].rpartition(".")[2] for row in OPTIMIZERS.values()}
    assert not offered & set(LEFT_OUT)
    assert set(generator.WRITTEN) == set(WRITTEN)
    if optax.__version__ == OPTAX_VERSION:
        assert set(generator.exported()) <= offered | set(LEFT_OUT)
    assert set(LEFT_OUT) <= vars(optax).keys() | vars(optax.contrib).keys()


@pytest.mark.parametrize(
    ("name", "argument", "kind"),
    [
        ("adam", "b1", "fraction"),
        ("adam", "eps", "positive"),
        ("lars", "eps", "nonnegative"),
        ("sgd", "momentum", "fraction?"),
        ("momentum", "momentum", "fraction"),
        ("adafactor", "clipping_threshold", "nonnegative?"),
        ("adafactor", "dtype_momentum", "dtype"),
        ("adamw", "mu_dtype", "dtype?"),
        ("muon", "preconditioning", ("frobenius", "spectral", "aol", "schatten")),
        ("muon", "ns_steps", "positive_int"),
        ("prodigy", "betas", "fractions"),
        ("schedule_free_sgd", "warmup_steps", "positive_int?"),
    ],
)
def test_kinds(name, argument, kind):
    assert OPTIMIZERS[name]["arguments"][argument][0] == kind

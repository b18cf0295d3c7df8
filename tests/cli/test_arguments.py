"""The config among its overrides."""

import pytest

from jaxprop.cli.arguments import split, split_config
from jaxprop.errors import UsageError
from jaxprop.run import champions
from tests.run.champion_acts import fake_run


@pytest.mark.parametrize(
    ("words", "config", "overrides"),
    [
        ("c.yaml", "c.yaml", ()),
        ("c.yaml optimizer.lr=1 data.batch_size=2", "c.yaml", ("optimizer.lr=1", "data.batch_size=2")),
        ("a.b=1 c.yaml d=2", "c.yaml", ("a.b=1", "d=2")),
        ("runs/lr=1/config.yaml a=-1", "runs/lr=1/config.yaml", ("a=-1",)),
    ],
)
def test_the_config_is_the_word_that_is_no_override(words, config, overrides):
    first, *rest = words.split()
    assert split(first, rest or None) == (config, overrides)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("a=1 b=2", "no config is named, only overrides; write it first: CONFIG a=1"),
        ("a.yaml b.yaml", "expected key=value after the config 'a.yaml', got 'b.yaml'"),
        ("a.yaml lr", "expected key=value after the config 'a.yaml', got 'lr'"),
    ],
)
def test_one_config_is_needed(words, sentence):
    first, *rest = words.split()
    with pytest.raises(UsageError, match=f"^{sentence}$"):
        split(first, rest)


EMPTY = ["train digits --run", "eval digits --run", "lr-find digits --run", "lesson rates --run", "report runs/a --out"]


@pytest.mark.parametrize("words", EMPTY)
def test_an_empty_path_is_refused(jaxprop, words):
    """Fault: `--run "$UNSET"` wrote the run into the working directory."""
    code, out, err = jaxprop(*words.split(), "")
    assert (code, out) == (2, "")
    assert "the path is empty; give one, or leave the option out" in err.replace("\n", " ")


def test_a_champion_is_its_run_for_what_takes_a_config_and_its_name_for_what_challenges_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    champions.adopt(None, "digits", fake_run(tmp_path / "run"))
    words = ("run.seed=2", ["champion:digits"])
    assert split(*words) == ("champion:digits", ("run.seed=2",))
    assert split_config(*words) == ("runs/champions/digits/versions/0001", ("run.seed=2",))
    assert split_config("digits_mlp", None) == split("digits_mlp", None)

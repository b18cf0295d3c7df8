"""The model card: figures of the checkpoint, and what the inputs were prepared by."""

import pytest

from jaxprop.run.loaded import load
from jaxprop.tools.export.card import card
from jaxprop.tools.export.format import Made
from tests.run.trained import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return load(trained(tmp_path_factory.mktemp("home")))


def test_figures_are_those_of_the_checkpoint(run):
    text = card(run, "safetensors", Made("a", b"", "load()", {}, {}, ("It is small.",)))
    steps = [i for i, split in enumerate(run.metrics["split"]) if split == "eval"]
    at = next(i for i in steps if run.metrics["step"][i] == run.step)
    assert f"| | evaluation at step {run.step} | reference |" in text.replace("|  |", "| |")
    assert f"| loss | {run.metrics['loss'][at]:.4g} |" in text
    assert "It is small." in text
    assert "## Inputs" not in text


def test_the_preparation_is_shown_and_long_ones_are_cut(run):
    held = run.opened.prepared
    run.opened = run.opened._replace(
        prepared=held._replace(prepared={"mean": [0.5] * 3000}, info={"class_names": ["a|b"]})
    )
    try:
        text = card(run, "safetensors", Made("a", b"", "load()", {}, {}))
    finally:
        run.opened = run.opened._replace(prepared=held)
    assert '"mean": [' in text
    assert "\n...\n```" in text
    assert "class names, in order: a|b" in text
    assert len(text) < 8000

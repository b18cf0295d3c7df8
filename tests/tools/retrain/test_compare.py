"""Retraining of tasks whose figures do not add up: boxes, transcripts and translations, each a few steps."""

import pytest

from jaxprop.config.build import build
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.retrain import Request, retrain

pytestmark = pytest.mark.timeout(300)

SECTIONS = {
    "detect": {
        "data": {"name": "digit_scenes", "examples": 24, "test_examples": 12, "side": 32, "batch_size": 8},
        "model": {"name": "detector", "widths": [8, 8, 8], "depth": 1, "pyramid": 8, "head_depth": 1},
    },
    "transcribe": {
        "data": {"name": "tones", "examples": 8, "test_examples": 6, "batch_size": 4},
        "model": {"name": "conv_bilstm", "mels": 8, "channels": [8], "strides": [4], "width": 4, "layers": 1},
    },
    "translate": {
        "data": {"name": "number_words", "examples": 150, "test_examples": 12, "batch_size": 8, "largest": 999},
        "model": {"name": "seq2seq_rnn", "width": 8},
    },
}
HEADLINES = {"detect": "map", "transcribe": "wer", "translate": "bleu"}


@pytest.mark.parametrize("task", SECTIONS)
def test_a_task_is_retrained_by_its_own_figure(task, tmp_path):
    """From a YAML file with a section `data`; what was measured example by example is what an evaluation measures."""
    base = {
        "task": {"name": task},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "parallel": {"devices": 1},
        "sinks": {"console": False},
        "health": {"layers": False, "taps": False},  # which would compile a second program
        "run": {"steps": 2, "eval_every": 2, "log_every": 2},
    }
    train(build(base | SECTIONS[task]), tmp_path / "runs" / "model", quiet=True)
    (tmp_path / "week2.yaml").write_text("data: {data_seed: 7}\n")
    asked = Request(str(tmp_path / "runs" / "model"), str(tmp_path / "week2.yaml"), root=tmp_path / "champions")
    done = retrain(asked, quiet=True)
    assert done.record["decision"] == "kept aside"
    figures = done.record["figures"]
    assert {one["metric"] for one in figures.values()} == {HEADLINES[task]}
    first = load(tmp_path / "runs" / "model").summary["metrics"]
    for name, value in figures["old"]["all"]["champion"].items():
        assert value == pytest.approx(first[name], rel=1e-4, abs=1e-6), name
    for one in figures.values():
        assert one["draws"] >= 200
        assert one["interval"][0] <= one["difference"] <= one["interval"][1]
    assert done.record["suspects"]["examples"] == SECTIONS[task]["data"]["examples"]
    assert done.record["suspects"]["worst"][0]["champion"]

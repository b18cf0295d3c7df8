"""Retraining of every task but classify: those whose figures do not add up, each a few steps, and drifts in files."""

import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.retrain import Request, retrain

pytestmark = pytest.mark.timeout(300)

USUAL = {
    "parallel": {"devices": 1},
    "sinks": {"console": False},
    "health": {"layers": False, "taps": False},  # which would compile a second program
}
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
    few = {"optimizer": {"name": "adam", "lr": 1e-3}, "run": {"steps": 2, "eval_every": 2, "log_every": 2}}
    train(build({**USUAL, "task": {"name": task}, **few, **SECTIONS[task]}), tmp_path / "runs" / "model", quiet=True)
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


# -- files of the user's own, in which a drift is learned and the old data are kept -----------------

LENGTHS = {"train": 300, "test": 150}
WORDS = ("the", "sun", "sea", "hill", "rain")


def numbers(rng, length, shift):
    """A target that is a sum, where the inputs lie elsewhere after a drift, and its slope changes there."""
    x = rng.normal(size=(length, 2)) + shift
    y = x[:, 0] + np.where(x[:, 0] > 3, 3.0, 1.0) * x[:, 1] + 0.05 * rng.normal(size=length)
    return ["a", "b", "y"], np.column_stack([x, y])


def marks(rng, length, shift):
    """Two labels, each of one input; after a drift the second label is turned round where the first input is large."""
    x = rng.normal(size=(length, 2)) + np.array([shift, 0])
    second = (x[:, 1] > 0) != (x[:, 0] > 3)
    return ["a", "b", "warm", "wet"], np.column_stack([x, x[:, 0] > 0, second])


def texts(rng, length, shift):
    """Sentences whose words follow each other in turn, and in another turn after a drift."""
    step = 2 if shift else 1
    starts = rng.integers(len(WORDS), size=length)
    return "\n".join(" ".join(WORDS[(start + step * i) % 5] for i in range(8)) for start in starts) + "\n"


def write(folder, task, seed, shift):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for split, length in LENGTHS.items():
        if task == "language":
            (folder / f"{split}.txt").write_text(texts(rng, length, shift))
            continue
        columns, rows = (numbers if task == "regress" else marks)(rng, length, shift)
        lines = [",".join(columns), *(",".join(f"{value:g}" for value in row) for row in rows)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")


TABLE = {"model": {"name": "mlp", "hidden": [32]}, "run": {"steps": 250, "eval_every": 250, "log_every": 250}}
FILES = {
    "regress": {**TABLE, "data": {"name": "table", "target": "y"}},
    "multilabel": {**TABLE, "data": {"name": "table", "target": ["warm", "wet"]}},
    "language": {
        "data": {"name": "text", "sequence_length": 32},
        "model": {"name": "rnn", "cell": "gru", "width": 48, "layers": 1},
        "run": {"steps": 60, "eval_every": 60, "log_every": 60},
    },
}
FIGURES = {"regress": "mean_absolute_error", "multilabel": "accuracy", "language": "loss"}
BETTER = {"regress": min, "multilabel": max, "language": min}
TOLERANCES = {"regress": 0.5, "multilabel": 0.1, "language": 0.1}  # so small a model gives up a little of the old


@pytest.mark.parametrize("task", FILES)
def test_a_drift_in_files_is_learned(task, tmp_path):
    suffix = "txt" if task == "language" else "csv"
    for week, shift in (("week1", 0.0), ("week2", 5.0)):
        write(tmp_path / week, task, seed=len(week) + int(shift), shift=shift)
    files = {split: str(tmp_path / "week1" / f"{split}.{suffix}") for split in LENGTHS}
    changes = {"optimizer": {"name": "adam", "lr": 1e-2}, "data": {**FILES[task]["data"], **files, "batch_size": 32}}
    train(build({**USUAL, "task": {"name": task}, **FILES[task], **changes}), tmp_path / "model", quiet=True)
    asked = Request(str(tmp_path / "model"), str(tmp_path / "week2"), root=tmp_path / "champions", replay=0.5)
    asked = asked._replace(tolerance=TOLERANCES[task])
    done = retrain(asked, quiet=True)
    assert done.record["decision"] == "promoted", done.record["reason"]
    figures = done.record["figures"]
    assert {one["metric"] for one in figures.values()} == {FIGURES[task]}
    new = figures["new"]
    assert BETTER[task](new["champion"], new["challenger"]) == new["challenger"]
    assert new["interval"][0] > 0
    first = load(tmp_path / "model").summary["metrics"]
    assert figures["old"]["champion"] == pytest.approx(first[FIGURES[task]], rel=1e-4)
    suspects = done.record["suspects"]
    assert suspects["share"] > 0.3  # what the champion does not know looks wrong to it
    # Examples of packed text have no place of their own.
    place = "text train[" if task == "language" else f"{tmp_path / 'week2' / 'train.csv'}:"
    assert suspects["worst"][0]["name"].startswith(place)

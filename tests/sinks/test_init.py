import os
import subprocess
import sys

import pytest

from jaxprop.config.schema.run import Sinks
from jaxprop.errors import RunFolderError
from jaxprop.sinks import open_sinks

RECORD = {"step": 5, "split": "train", "loss": 0.5}


@pytest.mark.parametrize(
    ("section", "quiet", "files", "stderr"),
    [
        (Sinks(), False, {"metrics.jsonl", "layers.jsonl", "alerts.jsonl"}, True),
        (Sinks(), True, {"metrics.jsonl", "layers.jsonl", "alerts.jsonl"}, False),
        (Sinks(jsonl=False, tensorboard=True), True, {"tensorboard"}, False),
        (Sinks(jsonl=False, console=False), False, set(), False),
        (Sinks(tensorboard=True), False, {"metrics.jsonl", "layers.jsonl", "alerts.jsonl", "tensorboard"}, True),
    ],
)
def test_the_sinks_asked_for_are_opened(tmp_path, capsys, section, quiet, files, stderr):
    sink = open_sinks(section, tmp_path, total_steps=10, quiet=quiet)
    sink.write(RECORD)
    sink.close()
    out, err = capsys.readouterr()
    assert set(os.listdir(tmp_path)) == files
    assert out == ""
    assert err == ("step 5/10  train  loss 0.5\n" if stderr else "")


@pytest.mark.parametrize(("start_step", "left"), [(5, 2), (4, 1), (None, 1)])
def test_a_resumed_run_appends_and_a_new_one_begins_anew(tmp_path, start_step, left):
    for start in (None, start_step):
        sink = open_sinks(Sinks(), tmp_path, total_steps=10, start_step=start, quiet=True)
        sink.write(RECORD)
        sink.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == left


def test_a_brief_console_shows_what_to_act_on(tmp_path, capsys):
    sink = open_sinks(Sinks(), tmp_path, total_steps=10, brief=True)
    sink.write(RECORD)
    sink.alert({"step": 5, "severity": "act", "message": "the loss is not finite"})
    sink.close()
    assert capsys.readouterr().err == "step 5  act: the loss is not finite\n"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_what_is_open_is_closed_when_another_cannot_be_opened(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(RunFolderError, match="TensorBoard"):  # an unclosed file would be a warning, so an error
        open_sinks(Sinks(tensorboard=True), tmp_path, total_steps=10, quiet=True)


def test_importing_sinks_does_not_import_jax():
    script = "import sys, jaxprop.sinks; print([name for name in ('jax', 'tensorboardX') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"

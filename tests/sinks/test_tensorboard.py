import errno
import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxprop.errors import RunFolderError
from jaxprop.sinks.tensorboard import open_tensorboard


def events(folder):
    """All events in the order TensorBoard reads them: record framing is length, crc, data, crc."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def scalars(folder):
    """What TensorBoard shows: a START event hides the earlier events from its step on."""
    shown = []
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            shown = [one for one in shown if one[1] < event.step]
        shown += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return shown


def train(folder, steps, start_step):
    sink = open_tensorboard(folder, start_step=start_step)
    for step in steps:
        sink.write({"step": step, "split": "train", "loss": step / 2})
    sink.close()


def test_records_and_layers_become_scalars(tmp_path):
    sink = open_tensorboard(tmp_path)
    sink.write({"step": 5, "split": "train", "loss": 0.5, "lr": 0.25})
    sink.write({"step": 5, "split": "eval", "accuracy": 1.0, "best": None})
    sink.layers([{"step": 5, "layer": "blocks/0/attn", "grad_norm": 2.0}])
    sink.alert({"step": 5, "message": "spike"})
    sink.close()
    assert scalars(tmp_path) == [
        ("train/loss", 5, 0.5),
        ("train/lr", 5, 0.25),
        ("eval/accuracy", 5, 1.0),
        ("layers/blocks/0/attn/grad_norm", 5, 2.0),
    ]


@pytest.mark.parametrize(("start_step", "first"), [(3, [1, 2, 3]), (0, []), (None, [])])
def test_a_resumed_run_hides_the_steps_it_takes_again(tmp_path, start_step, first):
    train(tmp_path, range(1, 6), None)
    train(tmp_path, range(4, 7), start_step)
    assert [step for _, step, _ in scalars(tmp_path)] == [*first, 4, 5, 6]


def test_a_run_that_goes_back_hides_the_steps_it_takes_again(tmp_path):
    sink = open_tensorboard(tmp_path)
    for step in (1, 2, 3):
        sink.write({"step": step, "split": "train", "loss": 0.5})
    sink.rewind(1)
    sink.write({"step": 2, "split": "train", "loss": 0.25})
    sink.layers([{"step": 2, "tap": "blocks/0", "rms": 1.0}])
    sink.close()
    assert scalars(tmp_path) == [("train/loss", 1, 0.5), ("train/loss", 2, 0.25), ("taps/blocks/0/rms", 2, 1.0)]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write TensorBoard events to .*choose another run folder"):
        open_tensorboard(tmp_path / "tensorboard")


def test_a_full_disk_is_an_error_of_the_call_and_never_a_hang(tmp_path, monkeypatch):
    """A thread of tensorboardX's own would die of it, and its queue take no more."""
    sink = open_tensorboard(tmp_path)

    def full(self, event):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, "write_event", full)
    with pytest.raises(RunFolderError, match=r"cannot write TensorBoard events .*No space left on device.*less full"):
        sink.write({"step": 1, "split": "train", "loss": 0.5})
    sink.close()


def test_names_are_shown_as_they_are(tmp_path):
    """`SummaryWriter` would write `a_b`, and so two layers as one."""
    sink = open_tensorboard(tmp_path)
    sink.layers([{"step": 1, "layer": name, "grad_norm": 1.0} for name in ("a b", "a_b")])
    sink.close()
    assert {tag for tag, _, _ in scalars(tmp_path)} == {"layers/a b/grad_norm", "layers/a_b/grad_norm"}

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
        values = [value for value in event.summary.value if value.HasField("simple_value")]
        shown += [(value.tag, event.step, value.simple_value) for value in values]
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


def test_the_gradient_norms_of_the_layers_are_a_histogram(tmp_path):
    sink = open_tensorboard(tmp_path)
    norms = {"a": 1e-3, "b": 2.0, "c": 2.5, "dead": 0.0, "broken": float("nan")}
    sink.layers([{"step": 5, "layer": name, "grad_norm": norm} for name, norm in norms.items()])
    sink.layers([{"step": 6, "layer": "a", "grad_norm": 1.0}, {"step": 6, "tap": "a", "grad_rms": 1.0}])
    sink.layers([{"step": 7, "layer": name, "update_ratio": 1.0} for name in "ab"])
    sink.close()
    values = [(e.step, value) for e in events(tmp_path) for value in e.summary.value if value.HasField("histo")]
    ((step, value),) = values
    assert (step, value.tag) == (5, "layers/log10_grad_norm")
    found = value.histo
    filled = [(limit, count) for limit, count in zip(found.bucket_limit, found.bucket, strict=True) if count]
    assert filled == [(-2.75, 1), (0.5, 2)]  # 10^-3 lies below 10^-2.75, 2 and 2.5 between 10^0.25 and 10^0.5
    assert (found.num, sum(found.bucket)) == (3, 3)
    assert (found.min, found.max) == pytest.approx((-3, 0.39794), abs=1e-5)
    assert all(count == 0 or limit > found.min for limit, count in zip(found.bucket_limit, found.bucket, strict=True))

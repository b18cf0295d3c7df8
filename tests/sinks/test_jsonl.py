import json
import math
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from jaxprop.errors import RunFolderError
from jaxprop.sinks.jsonl import encode, open_jsonl, truncate_after
from tests.processes import started


def strict(line):
    def refuse(name):
        raise ValueError(name)

    return json.loads(line, parse_constant=refuse)


def read(path):
    return [strict(line) for line in path.read_text().splitlines()]


def test_each_kind_of_record_has_its_file(tmp_path):
    sink = open_jsonl(tmp_path)
    sink.write({"step": 1, "split": "train", "loss": 0.5})
    sink.layers([{"step": 1, "layer": "a"}, {"step": 1, "layer": "b"}])
    sink.alert({"step": 1, "kind": "spike", "message": "größer"})
    sink.close()
    assert read(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "train", "loss": 0.5}]
    assert [row["layer"] for row in read(tmp_path / "layers.jsonl")] == ["a", "b"]
    assert read(tmp_path / "alerts.jsonl")[0]["message"] == "größer"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1 + 0.2, 0.1 + 0.2),
        (5e-324, 5e-324),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int32(3), 3),
        (math.nan, None),
        (-math.inf, None),
        (np.float32("inf"), None),
        ({"a": [math.nan, (1, math.inf)]}, {"a": [None, [1, None]]}),
        ("a\nb\u2028", "a\nb\u2028"),
        (True, True),
        (None, None),
    ],
)
def test_every_value_is_one_line_of_strict_json(value, expected):
    line = encode({"value": value})
    assert "\n" not in line
    back = strict(line)["value"]
    assert back == expected
    assert type(back) is type(expected)


@pytest.mark.parametrize(
    ("text", "step", "left"),
    [
        ("", 5, ""),
        ('{"step": 1}\n{"step": 2}\n', 2, '{"step": 1}\n{"step": 2}\n'),
        ('{"step": 1}\n{"step": 2}\n', 1, '{"step": 1}\n'),
        ('{"step": 0}\n{"step": 2}\n', 0, '{"step": 0}\n'),
        ('{"step": 0}\n{"step": 2}\n', None, ""),
        ('{"step": 1}\n{"step": 2, "lo', 9, '{"step": 1}\n'),
        ('{"step": 1}\n{"step": 2}', 9, '{"step": 1}\n'),
        ('{"step": 1}\n3\n', 9, '{"step": 1}\n'),
        ('{"step": 1, "a": "\u2028"}\n', 1, '{"step": 1, "a": "\u2028"}\n'),
    ],
)
def test_truncate_after(tmp_path, text, step, left):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text, encoding="utf-8")
    truncate_after(path, step)
    assert path.read_text(encoding="utf-8") == left
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_character_cut_in_half_is_dropped(tmp_path):
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "message": "\xc3')
    truncate_after(path, 9)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_truncating_a_file_that_is_not_there_makes_none(tmp_path):
    truncate_after(tmp_path / "metrics.jsonl", 3)
    assert os.listdir(tmp_path) == []


def test_a_resumed_run_leaves_the_same_file_as_an_uninterrupted_one(tmp_path):
    def train(folder, steps, start=None):
        sink = open_jsonl(folder, start_step=start)
        for step in steps:
            sink.write({"step": step, "split": "train", "loss": 1 / step})
            sink.layers([{"step": step, "layer": name} for name in "ab"])
        sink.close()

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    train(tmp_path / "whole", range(1, 11))
    train(tmp_path / "parts", range(1, 8))
    train(tmp_path / "parts", range(6, 11), start=5)
    for name in ("metrics", "layers", "alerts"):
        assert (tmp_path / "parts" / f"{name}.jsonl").read_bytes() == (
            tmp_path / "whole" / f"{name}.jsonl"
        ).read_bytes()


def test_a_run_that_goes_back_keeps_its_alerts(tmp_path):
    sink = open_jsonl(tmp_path)
    for step in (1, 2, 3):
        sink.write({"step": step, "split": "train"})
        sink.layers([{"step": step, "layer": "a"}])
        sink.alert({"step": step, "message": "one"})
    sink.rewind(1)
    sink.write({"step": 2, "split": "train", "again": True})
    sink.alert({"step": 2, "message": "two"})
    sink.close()
    assert [r["step"] for r in read(tmp_path / "metrics.jsonl")] == [1, 2]
    assert read(tmp_path / "metrics.jsonl")[1]["again"]
    assert [r["step"] for r in read(tmp_path / "layers.jsonl")] == [1]
    assert [r["step"] for r in read(tmp_path / "alerts.jsonl")] == [1, 2, 3, 2]


@pytest.mark.parametrize(
    ("alerts", "left"), [(None, [1, 2, 1]), (0, []), (2, [1, 2]), (4, [1, 2, 3, 1]), (9, [1, 2, 3, 1])]
)
def test_alerts_are_cut_to_a_number_of_lines(tmp_path, alerts, left):
    (tmp_path / "alerts.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in (1, 2, 3, 1)) + '{"st')
    (tmp_path / "metrics.jsonl").write_text('{"step": 2}\n{"step": 3}\n')
    open_jsonl(tmp_path, start_step=2, alerts=alerts).close()
    assert [r["step"] for r in read(tmp_path / "alerts.jsonl")] == left
    assert [r["step"] for r in read(tmp_path / "metrics.jsonl")] == [2]


KILLED = """
import sys
from jaxprop.sinks.jsonl import open_jsonl
sink = open_jsonl(sys.argv[1])
for step in range(1, 100):
    sink.write({"step": step, "split": "train", "loss": 1 / step})
print("written", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_nothing_it_has_written(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGKILL)
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == list(range(1, 100))


def test_a_folder_in_the_way_and_a_missing_one(tmp_path):
    (tmp_path / "layers.jsonl").mkdir()
    with pytest.raises(RunFolderError, match=r"layers\.jsonl cannot be written \(Is a directory\); make it writable"):
        open_jsonl(tmp_path)
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl cannot be written \(No such file or directory\)"):
        open_jsonl(tmp_path / "none")


def test_a_full_disk_is_one_sentence_when_writing_and_when_closing(tmp_path):
    sink = open_jsonl(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl cannot be written \(File too large\); .*free space"):
            sink.write({"step": 1, "text": "x" * 6000})
        with pytest.raises(RunFolderError, match=r"cannot be written \(File too large\)"):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

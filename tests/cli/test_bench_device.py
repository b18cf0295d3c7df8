"""`jaxprop bench device`, and with it `bench train`: their files, their JSON, bad input, and Ctrl-C."""

import json
from pathlib import Path

import pytest

from jaxprop.bench import document
from jaxprop.bench.device import suite as device_suite
from jaxprop.bench.document import Row
from jaxprop.bench.train import suite as train_suite


@pytest.fixture
def here(package):
    """The working directory of the command."""
    return Path.cwd()


@pytest.fixture
def measured(monkeypatch):
    """Both suites measure one row, and note what they were asked for."""
    asked = []

    def device(session, devices, options):
        asked.append((devices, options))
        session.add(Row(section="dispatch", name="call", unit="us", better="lower", value=2.0, low=1.9, high=2.1))

    def train(session, targets, options, say):
        asked.append((targets, options))
        session.add(Row(section="train", name="mlp", unit="ms", better="lower", value=2.0, low=1.9, high=2.1))

    monkeypatch.setattr(device_suite, "run", device)
    monkeypatch.setattr(train_suite, "run", train)
    return asked


def test_results_are_printed_and_written(jaxprop, measured, here):
    ran = jaxprop("bench", "device", "--out", "a.json")
    assert ran.code == 0
    assert "call 2 ±5.0% us" in " ".join(ran.out.split())
    assert "results: a.json" in ran.out
    assert document.read(here / "a.json").complete


def test_without_a_name_the_file_is_new_in_a_folder(jaxprop, measured, here):
    assert jaxprop("bench", "train", "mlp").code == 0
    (path,) = (here / "bench").glob("train-*.json")
    arguments = document.read(path).arguments
    assert (arguments["targets"], arguments["overrides"]) == ("mlp", None)


def test_overrides_are_kept_in_one_order(jaxprop, measured, here):
    words = ("run.steps=3", "digits", "data.batch_size=8")
    assert jaxprop("bench", "train", *words, "--out", "a.json").code == 0
    arguments = document.read(here / "a.json").arguments
    assert (arguments["targets"], arguments["overrides"]) == ("digits", "data.batch_size=8 run.steps=3")


@pytest.mark.parametrize("command", [("device",), ("train", "mlp")])
def test_json_is_the_document_and_nothing_else(jaxprop, measured, here, command):
    ran = jaxprop("bench", *command, "--json", "--out", "a.json")
    assert ran.err == ""
    assert json.loads(ran.out) == json.loads((here / "a.json").read_text())


def test_options_reach_the_measurement(jaxprop, measured):
    options = (
        "--device",
        "2",
        "--section",
        "matmul",
        "--seconds",
        "5",
        "--sustain",
        "0",
        "--contrast",
        "--aim",
        "0.05",
    )
    assert jaxprop("bench", "device", *options).code == 0
    assert (
        jaxprop("bench", "train", "mlp", "cnn", "--precision", "bfloat16", "--batch", "8", "--batch", "auto").code == 0
    )
    (devices, device), (targets, train) = measured
    assert [one.id for one in devices] == [2]
    assert (device.sections, device.contrast, device.sustain) == (("matmul",), True, 0)
    assert (device.plan.seconds, device.plan.aim) == (5, 0.05)
    assert [name for name, _ in targets] == ["mlp", "cnn"]
    assert (train.precisions, train.batches) == (("bfloat16",), (8, 0))


def test_what_was_measured_before_an_interrupt_is_kept(jaxprop, monkeypatch, here):
    def device(session, *_):
        session.add(Row(section="dispatch", name="call", unit="us", value=2.0))
        raise KeyboardInterrupt

    monkeypatch.setattr(device_suite, "run", device)
    ran = jaxprop("bench", "device", "--out", "a.json")
    assert ran.code == 130
    found = document.read(here / "a.json")
    assert [row.name for row in found.rows] == ["call"]
    assert not found.complete
    assert any("interrupted" in note for note in found.notes)


def test_what_was_measured_before_an_error_is_kept(jaxprop, monkeypatch, here):
    def device(session, *_):
        session.add(Row(section="dispatch", name="call", unit="us", value=2.0))
        raise RuntimeError("something broke")

    monkeypatch.setattr(device_suite, "run", device)
    assert jaxprop("bench", "device", "--out", "a.json").code == 1
    assert [row.name for row in document.read(here / "a.json").rows] == ["call"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("device", "--device", "99"), "--device 99: expected a number below 8 or `all`"),
        (("device", "--section", "matmull"), "--section matmull: there is no such section; one of matmul"),
        (("device", "--seconds", "-1"), "greater than or equal to 0"),
        (("device", "--out", "file/a.json"), "the results cannot be written to file/a.json"),
        (("train", "mlpp"), "mlpp"),
        (("train", "mlp", "data.batch_size=3"), "overrides are of a YAML file"),
        (("train", "mlp", "--batch", "0"), "--batch 0: expected a positive number, or auto"),
        (("train", "mlp", "--precision", "fp8"), "unknown precision 'fp8'"),
        (("train",), "Missing argument"),
    ],
)
def test_bad_input_is_one_sentence(jaxprop, measured, here, arguments, sentence):
    (here / "file").touch()
    ran = jaxprop("bench", *arguments)
    assert ran.code == 2
    assert sentence in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert not measured

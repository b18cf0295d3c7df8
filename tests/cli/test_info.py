"""`jaxprop info`: its tables, and that it leaves nothing behind."""

import json
import os
from pathlib import Path

import pytest

from jaxprop.run import memory
from jaxprop.tools import info as module
from jaxprop.tools.info import Cost, Description, Device, Layer, Moved
from jaxprop.train.memory import Buffer, Memory

SOME = Description(
    layers=(
        Layer("blocks/0/" + "attention/" * 12 + "qkv", {"kernel": (128, 3, 4, 32)}, ("bfloat16", "float32"), 49152),
        Layer("head", {"bias": (10,), "kernel": (128, 10)}, ("float32",), 1290),
    ),
    parameters=50442,
    frozen=49152,
    bytes={"params": 201768, "opt_state": 403540, "ema": 0, "extras": 0},
    cost=Cost(1.5e9, True, 2 << 20, 3 << 20, 5 << 20),
    devices=(Device("gpu", "NVIDIA H200", 8, 139 << 30),),
    data={"train_examples": 1437, "total_steps": 46},
    reference={"unigram_loss": 3.04159},
    optimizers=(
        Moved("frozen", "blocks/.*", None, 1.0, None, 49152, ("blocks/0/a", "blocks/1/a", "blocks/0/b")),
        Moved("adamw", None, 3e-4, 1.0, 0.01, 1290, ("head/bias", "head/kernel")),
    ),
)
UNTOLD = SOME._replace(cost=Cost(None, False, None, None, None), devices=(Device("cpu", "cpu", 1, None),), reference={})


def rows(jaxprop, monkeypatch, found):
    monkeypatch.setattr(module, "describe", lambda config: found)
    ran = jaxprop("info", "digits")
    assert (ran.code, ran.err) == (0, "")
    return [" ".join(line.split()) for line in ran.out.splitlines() if "─" not in line]


def test_tables(jaxprop, monkeypatch):
    assert rows(jaxprop, monkeypatch, SOME) == [
        "layer shapes dtype parameters",
        f"blocks/0/{'attention/' * 12}qkv kernel [128, 3, 4, 32] bfloat16, float32 49,152",
        "head bias [10], kernel [128, 10] float32 1,290",
        "total 50,442",
        "optimizer group highest learning rate weight decay parameters which",
        "frozen blocks/.* 49,152 blocks/0-1/a",
        "blocks/0/b",
        "adamw 0.0003 0.01 1,290 head/bias",
        "head/kernel",
        "state size",
        "parameters 197.0 KiB",
        "optimizer state 394.1 KiB",
        "parameters frozen 49,152",
        "one train step",
        "floating-point operations (loops counted once) at least 1,500,000,000",
        "state and batch, each device 2.0 MiB",
        "temporaries, each device 3.0 MiB",
        "all memory, each device 5.0 MiB",
        "platform devices count memory of each",
        "gpu NVIDIA H200 8 139.0 GiB",
        "data",
        "train examples 1,437",
        "total steps 46",
        "reference",
        "unigram loss 3.042",
    ]


def test_products_in_8_bits(jaxprop, monkeypatch):
    found = SOME._replace(products={"int8": 1006, "float32": 2})
    told = rows(jaxprop, monkeypatch, found)
    at = told.index("all memory, each device 5.0 MiB")
    assert told[at + 1 : at + 3] == [
        "products and convolutions of int8 1,006",
        "products and convolutions of float32 2",
    ]


def test_overrides(jaxprop, monkeypatch):
    configs = []
    monkeypatch.setattr(module, "describe", lambda config: configs.append(config) or SOME)
    assert jaxprop("info", "model.hidden=[7]", "digits").code == 0
    assert [config.model.hidden for config in configs] == [(7,)]


FOUND = Memory(
    8 << 20,
    {"params": 1 << 20, "activations": 7 << 20},
    (
        Buffer(6 << 20, 3, "blocks/0", "dot", "model.py:7", "float32[64,8]", "activations"),
        Buffer(1 << 20, 1, "", "sort", "", "int32[9]", "temporaries"),
    ),
)


def memory_rows(jaxprop, monkeypatch, found, advice):
    monkeypatch.setattr(memory, "predicted", lambda experiment: found)
    monkeypatch.setattr(memory, "advise", lambda config, now, sources, note: advice)
    ran = jaxprop("info", "digits", "--memory")
    assert ran.code == 0
    return [" ".join(line.split()) for line in ran.out.splitlines() if "─" not in line], ran.err


def test_memory(jaxprop, monkeypatch):
    tried = (
        memory.Tried("run.remat=full", 5 << 20, 3 << 20, True, True),
        memory.Tried("run.remat=dots", 8 << 20, 0, True, False),
        memory.Tried("precision.policy=bfloat16", 9 << 20, -1 << 20, False, False),
        memory.Tried("run.accumulate=4", None, None, False, False, "does not fit in memory either"),
    )
    shown, said = memory_rows(jaxprop, monkeypatch, FOUND, tried)
    assert said == "compiling the train step\n"
    assert shown == [
        "one train step, each device at the peak",
        "parameters 1.0 MiB",
        "activations 7.0 MiB",
        "all 8.0 MiB",
        "largest temporaries at the peak operation array line size",
        "blocks/0 dot 3 x float32[64,8] model.py:7 6.0 MiB",
        "(temporaries) sort int32[9] 1.0 MiB",
        "override peak with it saves",
        "run.remat=full 5.0 MiB 3.0 MiB 38%",
        "run.remat=dots 8.0 MiB 0 B 0% does not help",
        "precision.policy=bfloat16 9.0 MiB -1.0 MiB -12% does not help",
        "run.accumulate=4 does not fit in memory either",
    ]


def test_memory_that_nothing_lowers_or_nobody_reports(jaxprop, monkeypatch):
    shown, _ = memory_rows(jaxprop, monkeypatch, FOUND, ())
    assert shown[-1] == "No single override lowers the peak by more than 1 %."
    shown, said = memory_rows(jaxprop, monkeypatch, None, ())
    assert shown == []
    assert said.endswith("memory is not reported by this backend\n")


def test_json(jaxprop, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "describe", lambda config: SOME)
    found = json.loads(jaxprop("info", "digits", "--json").out)
    assert list(found)[:2] == ["command", "run"]
    assert (found["command"], found["run"], found["parameters"]) == ("info", None, 50442)
    assert found["layers"][1]["shapes"] == {"bias": [10], "kernel": [128, 10]}
    (tmp_path / "metrics.jsonl").write_text("")
    assert jaxprop("init", "digits", str(tmp_path / "config.yaml")).code == 0
    assert json.loads(jaxprop("info", str(tmp_path), "--json").out)["run"] == str(tmp_path)
    monkeypatch.setattr(memory, "predicted", lambda experiment: FOUND)
    tried = (memory.Tried("run.remat=full", 5 << 20, 3 << 20, True, True),)
    monkeypatch.setattr(memory, "advise", lambda config, now, sources, note: tried)
    found = json.loads(jaxprop("info", "digits", "--memory", "--json").out)
    assert (found["memory"]["peak"], found["tried"][0]["line"]) == (8 << 20, "run.remat=full")
    monkeypatch.setattr(memory, "predicted", lambda experiment: None)
    assert json.loads(jaxprop("info", "digits", "--memory", "--json").out)["memory"] is None


def test_memory_of_a_packaged_config(jaxprop):
    ran = jaxprop("info", "digits", "--memory", "health.layers=false", "model.hidden=[8]", "parallel.devices=1")
    assert ran.code == 0
    assert "activations" in ran.out
    assert ran.err.startswith("compiling the train step\ncompiling with run.remat=full (1 of ")


def test_what_a_backend_does_not_tell(jaxprop, monkeypatch):
    shown = rows(jaxprop, monkeypatch, UNTOLD)
    assert "floating-point operations not reported by this backend" in shown
    assert "all memory, each device not reported by this backend" in shown
    assert "cpu cpu 1 not reported by this backend" in shown
    assert "reference" not in shown


def test_nothing_is_written_and_nothing_is_coloured(jaxprop, package):
    ran = jaxprop("info", "digits", "model.hidden=[4]", "parallel.devices=1")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert "majority accuracy" in ran.out
    assert os.listdir(Path()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["digit"], "error: digit: no such config; did you mean 'digits'?\n"),
        (["digits", "model.hiden=[4]"], "error: override 'model.hiden=[4]': model.hiden: unknown key; did you mean"),
        (
            ["digits", "data.batch_size=5000"],
            "error: override 'data.batch_size=5000': data.batch_size: 5000 is larger than the",
        ),
    ],
)
def test_what_cannot_be_described(jaxprop, arguments, sentence):
    ran = jaxprop("info", *arguments)
    assert ran.code in (1, 2)
    assert ran.out == ""
    assert ran.err.startswith(sentence)


def test_of_very_many_parameters_the_rest_is_counted(jaxprop, monkeypatch):
    paths = tuple(f"layer_{chr(97 + i)}/kernel" for i in range(26))
    moved = (SOME.optimizers[1]._replace(paths=paths), SOME.optimizers[0])
    told = rows(jaxprop, monkeypatch, SOME._replace(optimizers=moved))
    assert told.index("and 2 more; --json has all of them") - told.index("layer_b/kernel") == 23

"""`jaxprop doctor`: its tables, its JSON and its exit code."""

import json

import pytest

from jaxprop.tools import doctor as module
from jaxprop.tools.doctor import Diagnosis, Extra, Notice

WELL = Diagnosis(
    versions={"python": "3.11.7", "jax": "0.10.2", "flax": None},
    devices=[{"platform": "gpu", "kind": "NVIDIA H200", "memory_bytes": 140 << 30, "count": 2}],
    host={
        "system": "Linux x86_64",
        "cores": 16,
        "memory_bytes": 128 << 30,
        "available_bytes": None,
        "allocator": "system",
        "compile_cache": "/c, 2 programs, 0.1 MiB",
    },
    extras={"equinox": Extra(True, "pip e"), "tpu": Extra(False, "pip install 'jax[tpu]'")},
    notices=[Notice("note", "TensorBoard is not installed", "pip install tensorboard")],
    forms=({"layer": "pooling", "form": "slices", "why": "yes", "gain": "4 to 9", "active": True},),
)
ILL = WELL._replace(notices=[Notice("broken", "flax is not installed", "pip install flax"), *WELL.notices])


@pytest.mark.parametrize(("found", "code"), [(WELL, 0), (ILL, 1)])
def test_json_and_exit_code(jaxprop, monkeypatch, found, code):
    monkeypatch.setattr(module, "diagnose", lambda: found)
    ran = jaxprop("doctor", "--json")
    assert (ran.code, ran.err) == (code, "")
    told = json.loads(ran.out)
    assert (told["command"], told["run"]) == ("doctor", None)
    assert told["extras"]["tpu"] == {"installed": False, "install": "pip install 'jax[tpu]'"}
    assert [notice["severity"] for notice in told["findings"]] == [notice.severity for notice in found.notices]
    assert told["forms"] == list(found.forms)
    assert (told["versions"], told["devices"], told["host"]) == (found.versions, found.devices, found.host)


def test_tables(jaxprop, monkeypatch):
    monkeypatch.setattr(module, "diagnose", lambda: WELL)
    ran = jaxprop("doctor")
    rows = [" ".join(line.split()) for line in ran.out.splitlines()]
    for row in (
        "flax not installed",
        "cores 16",
        "memory 128.0 GiB",
        "available unknown",
        "compile cache /c, 2 programs, 0.1 MiB",
        "gpu NVIDIA H200 2 140.0 GiB",
        "equinox installed",
        "pooling slices yes 4 to 9",
        "tpu not installed: pip install 'jax[tpu]'",
        "note: TensorBoard is not installed",
        "pip install tensorboard",
    ):
        assert row in rows
    assert rows[-1] == "nothing is broken"
    monkeypatch.setattr(module, "diagnose", lambda: ILL)
    assert "nothing is broken" not in jaxprop("doctor").out


def test_this_machine(jaxprop):
    ran = jaxprop("doctor")
    assert ran.code == 0
    assert "jax cannot start" not in ran.out

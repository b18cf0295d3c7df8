"""`jaxprop plan`: tables, JSON and the page, and one sentence for what cannot be planned."""

import importlib.util
import json

import pytest

SMALL = [
    "data.name=random", "data.shape=[16]", "data.vocabulary=64", "data.batch_size=8", "model.layers=1",
    "model.width=32", "model.heads=2",
]  # fmt: skip
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")


def test_host_devices(jaxprop):
    ran = jaxprop("plan", "lm", *SMALL, "--devices", 4, "parallel.mesh.fsdp=4")
    assert ran.code == 0, ran.err
    assert "The step needs " in ran.out
    assert "over the 4 devices" in ran.out
    assert all(word in ran.out for word in ("optimizer state", "all-gather", "fsdp 4", "Assumptions:"))
    assert ran.err == "compiling the train step for 4 host devices\n"


@pytest.mark.timeout(300)
def test_gpus_with_a_search_a_scaling_and_a_page(jaxprop, tmp_path):
    page = tmp_path / "plan.html"
    ran = jaxprop(
        "plan", "lm", *SMALL, "--gpu", "h100:4", "--search", "--candidates", 2, "--minutes", 0.0001, "--report", page,
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["command"], found["run"], found["fits"]) == ("plan", None, True)
    assert found["time"]["low"] <= found["time"]["high"]
    assert found["needed"] == sum(found["parts"].values())
    assert {one["kind"] for one in found["work"]["collectives"]} == {"all-reduce"}
    # No time was given, so nothing further was compiled, which is told.
    tried = [one["overrides"] for one in found["search"]]
    assert len(tried) + len(found["not_compiled"]) > 4
    assert len(found["scaling"]) + len(found["not_scaled"]) == 10
    assert any("needs a GPU" in sentence for sentence in found["assumptions"])
    text = page.read_text()
    assert "Content-Security-Policy" in text
    assert "Fits: the step needs" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "no devices are named to plan for; give one of --topology v5e:16x16, --gpu h100:8 and --devices 8"),
        (["--gpu", "h100:8", "--devices", 8], "--gpu and --devices exclude each other"),
        (["--devices", 8, "--slices", 2], "--slices is a number of slices of TPUs"),
        (["--topology", "v6:2x2"], "did you mean 'v6e'"),
        (["--topology", "v5e:3x5"], "the nearest is v5e:2x4"),
        (["--gpu", "h200"], "such as h200:8"),
        (["--devices", 4, "parallel.mesh.fsdp=3"], "a mesh of fsdp 3 needs a multiple of 3 devices"),
        (["--devices", 4, "data.batch_size=6"], "cannot be divided over the 4 devices of 4 host devices"),
        (["--devices", 4, "--report", "nowhere/plan.html"], "--report: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_planned(jaxprop, options, told):
    ran = jaxprop("plan", "lm", *SMALL, *options)
    assert ran.code == 2
    assert told in ran.err
    assert ran.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in ran.err


@needs_libtpu
@pytest.mark.timeout(600)
def test_tpus(jaxprop):
    ran = jaxprop("plan", "lm", *SMALL, "--topology", "v5e:2x2", "--json", "parallel.mesh.fsdp=4")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["fits"], found["chips"], found["mesh"]) == (True, 4, {"data": 1, "fsdp": 4})
    assert found["work"]["flops"] == pytest.approx(found["model_flops"] / 4, rel=0.05)
    assert {axis for one in found["work"]["collectives"] for axis in one["axes"]} == {"fsdp"}
    assert found["time"]["links"]["ICI"] > 0

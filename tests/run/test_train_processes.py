"""Training in several processes over loopback is training in one: records, metrics, checkpoints, whatever the mesh."""

import json
import sys

import pytest

from tests.run.many import ended, started

SETTINGS = [
    "digits_mlp", "optimizer.schedule.steps=16", "optimizer.schedule.warmup_steps=2", "checkpoint.every_steps=4",
    "run.log_every=2", "run.eval_every=8", "data.batch_size=64", "health.rare_every=4",
]  # fmt: skip


def train(folder, count, devices, *overrides):
    """Trains in so many processes; returns what each has said."""
    command = [sys.executable, "-m", "jaxprop", "train", *SETTINGS, *overrides, "--run", str(folder), "--dist", "auto"]
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    more = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    if count == 1:
        command[-1] = "none"
    with started(command, count, **more) as children:
        done = ended(children, timeout=200)
    assert [process.code for process in done] == [0] * count, [process.err for process in done]
    assert all(process.out == "" for process in done[1:])
    return done


def records(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def assert_same(one, other, name, keys):
    mine, theirs = records(one, name), records(other, name)
    assert [r["step"] for r in mine] == [r["step"] for r in theirs]
    for a, b in zip(mine, theirs, strict=True):
        for key in keys:
            if key in a:
                assert b[key] == pytest.approx(a[key], rel=1e-5), (name, a["step"], key)


@pytest.mark.timeout(400)
def test_two_processes_then_four_are_one(tmp_path):
    """fsdp over two processes, then data and fsdp over four that take up their checkpoint; against four devices."""
    one, many = tmp_path / "one", tmp_path / "many"
    train(one, 1, 4, "run.steps=16")
    train(many, 2, 2, "run.steps=8", "parallel.mesh.fsdp=4")
    done = train(many, 4, 1, "run.steps=16", "parallel.mesh.fsdp=2")
    assert "resumed from step 8" in done[0].err
    assert "its mesh was fsdp 4" in done[0].err
    assert_same(one, many, "metrics.jsonl", ["loss", "accuracy", "grad_norm", "lr"])
    assert_same(one, many, "layers.jsonl", ["grad_norm", "param_norm", "update_norm"])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, many)]
    assert summaries[0]["metrics"] == pytest.approx(summaries[1]["metrics"], rel=1e-5)
    assert (many / "panels.json").is_file()


@pytest.mark.timeout(300)
def test_alerts_of_two_processes_are_those_of_one(tmp_path):
    """At a rate that is far too high; the bits of the losses need not agree then, and the alerts do."""
    doomed = ["run.steps=10", "optimizer.lr=0.3", "health.rare_every=10"]
    train(tmp_path / "one", 1, 1, *doomed)
    train(tmp_path / "many", 2, 1, *doomed, "parallel.mesh.fsdp=2")
    one, many = (
        [(a["step"], a["kind"], a["layer"]) for a in records(tmp_path / name, "alerts.jsonl")]
        for name in ("one", "many")
    )
    assert one == many
    assert "dead" in {kind for _, kind, _ in one}

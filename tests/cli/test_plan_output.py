"""`cli/plan_output.py`: what is said of a plan, and the curve of a weak scaling."""

import pytest

from jaxprop.cli.plan_output import Plan, plain, plots, sentences, tables, verdict, write_report
from jaxprop.config.build import build
from jaxprop.core.datasheet import sheet_of_kind
from jaxprop.tools.plan.account import Account
from jaxprop.tools.plan.compiled import Placed
from jaxprop.tools.plan.roofline import Estimate
from jaxprop.tools.plan.scaling import Scaled
from jaxprop.tools.plan.topology import Target

GIB = 2**30
CONFIG = build(
    {
        "task": {"name": "language"},
        "data": {"name": "random", "shape": [16], "batch_size": 8},
        "model": {"name": "transformer"},
        "optimizer": {"name": "adamw", "lr": 1e-3},
        "run": {"steps": 1},
    }
)
TARGET = Target("v5e:2x4", "tpu", tuple(range(8)), sheet_of_kind("TPU v5 lite"), (2, 4))


def placed(**changes):
    made = Placed(
        target="v5e:2x4", chips=8, mesh={"data": 8}, remat="none", batch_size=8, fits=True, needed=4 * GIB,
        capacity=16 * GIB, parts={"parameters": 4 * GIB}, buffers=(), parameters=GIB, held=3 * GIB, work=None,
        model_flops=1e12, time=Estimate(1e-3, 2e-3, {"ICI": 1e-3}, 2e-3, 3e-3, "memory", (0.2, 0.3)),
        per_second=(8 / 3e-3, 8 / 2e-3), tokens=16, seconds=1.0,
    )  # fmt: skip
    return made._replace(**changes)


def plan(made, **changes):
    return Plan(TARGET, CONFIG, made, "rows")._replace(**changes)


def test_what_is_said_of_the_memory():
    assert verdict(placed()) == "Fits: the step needs 4.0 GiB of each device's memory, of 16.0 GiB."
    assert "over the 8 devices" in verdict(placed(capacity=None, fits=None))
    said = verdict(placed(needed=20 * GIB, fits=False))
    assert said.startswith("Does not fit: the step needs 20.0 GiB")
    assert "4.0 GiB more than the 16.0 GiB there are" in said
    assert "at least 20.0 GiB" in verdict(placed(needed=20 * GIB, fits=False, parts={}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"held": 20 * GIB}, "parallel.mesh.fsdp=8 parallel.mesh.data=1"),
        ({"held": 200 * GIB, "mesh": {"data": 1, "fsdp": 8}}, "more chips: the state alone is 25.0 GiB"),
        ({}, "run.remat=full"),
        ({"remat": "full", "mesh": {"data": 1, "fsdp": 4, "tensor": 2}}, "run.accumulate=2"),
        ({"remat": "dots"}, "run.remat=full"),
        ({"remat": "full"}, "parallel.mesh.tensor=2"),
    ],
)
def test_the_first_thing_to_change(changes, told):
    said = list(sentences(plan(placed(needed=20 * GIB, fits=False, **changes))))
    assert any(sentence.startswith("First thing to change: ") and told in sentence for sentence in said)


def test_a_weak_scaling_is_a_curve_and_a_table(tmp_path):
    points = tuple(Scaled(2**i, placed(chips=2**i, per_second=(2.0**i, 2.0**i))) for i in range(4))
    made = plan(placed(), scaled=(*points, Scaled(16, None, "no <such> shape")), unscaled=(32,))
    drawn = list(plots(made))
    assert [plot.title for plot in drawn] == ["Weak scaling", "Time of a step", "Memory of each device"]
    assert [(point.x, point.y) for point in drawn[0].lines[0].points] == [(1, 16), (2, 32), (4, 64), (8, 128)]
    (table,) = (table for table in tables(made) if table.title == "Weak scaling")
    assert [row[0] for row in table.rows] == ["1", "2", "4", "8", "16"]
    assert all(len(row) == len(table.headers) for row in table.rows)
    page = tmp_path / "plan.html"
    write_report(made, page)
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "no &lt;such&gt; shape" in text
    assert "Not compiled in the time there was: 32 devices" in text


def test_everything_is_in_the_json():
    found = plain(plan(placed()))
    assert {"target", "fits", "needed", "parts", "time", "mesh", "search", "scaling", "assumptions"} <= set(found)
    assert (found["target"], found["devices"]["sheet"].link) == ("v5e:2x4", 200)


def test_what_the_account_does_not_know_is_told():
    def rows(**unknown):
        return dict(next(iter(tables(plan(placed(work=Account(1e12, 1e6, (), **unknown))))))[2])

    flops, sent = "FLOPs of a device, a step", "bytes sent by a device, a step"
    assert (rows(loops_unknown=0)[flops], rows(loops_unknown=0)[sent]) == ("1.000e+12", "0 B")
    told = rows(loops_unknown=2, sends_unknown=3)
    assert told[flops] == "1.000e+12 (2 loops counted once)"
    assert told[sent] == "0 B (3 exchanges of slices not counted)"

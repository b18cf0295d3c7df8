"""`tools/plan/compiled.py`: a step compiled for devices, and what stops one."""

import jax
import pytest

from jaxprop.config.build import build
from jaxprop.config.schema.run import Mesh
from jaxprop.errors import ConfigError, JaxpropError, OutOfMemoryError, UsageError
from jaxprop.tools.plan import compiled
from jaxprop.tools.plan.compiled import place
from jaxprop.tools.plan.subject import Subject
from jaxprop.tools.plan.topology import gpu, host
from jaxprop.train import compiled as step_of

SECTIONS = {
    "task": {"name": "language"},
    "data": {"name": "random", "shape": [16], "vocabulary": 64, "batch_size": 8, "examples": 4},
    "model": {"name": "transformer", "layers": 1, "width": 32, "heads": 2},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "parallel": {"mesh": {"data": 2, "fsdp": 2}},
    "run": {"steps": 1},
}


@pytest.fixture(scope="module")
def subject():
    # A batch of more examples than there are: a plan reads no more than two.
    return Subject(build(SECTIONS))


@pytest.fixture(scope="module")
def placed(subject):
    return place(subject, host(4))


def test_what_is_held_and_done(placed):
    assert placed.mesh == {"data": 2, "fsdp": 2}
    assert placed.needed == sum(placed.parts.values())
    # float32, of which all that is large enough is halved
    assert 4 * placed.parameters / 2 <= placed.parts["parameters"] < 4 * placed.parameters * 0.6
    assert placed.parts["optimizer state"] == pytest.approx(2 * placed.parts["parameters"], rel=0.01)
    assert placed.parts["batch"] == 2 * (2 * 16 + 1) * 4  # inputs, labels and a weight
    assert placed.work.flops == pytest.approx(placed.model_flops / 4, rel=0.02)
    assert {axis for one in placed.work.collectives for axis in one.axes} == {"data", "fsdp"}
    assert (placed.fits, placed.time, placed.tokens) == (None, None, 16)


def test_other_meshes_policies_and_batches(subject, placed):
    other = place(subject, host(2), Mesh(fsdp=2), "full", 4)
    assert (other.mesh, other.remat, other.batch_size) == ({"data": 1, "fsdp": 2}, "full", 4)
    assert other.model_flops == pytest.approx(placed.model_flops / 2, rel=0.02)
    assert other.work.flops > other.model_flops / 2 * 1.1  # the forward pass is made again


def test_gpus_have_times_and_a_limit(subject):
    found = place(subject, gpu("h100:4"))
    assert (found.fits, found.capacity) == (True, int(0.75 * 80 * 2**30))
    assert found.time.high >= found.time.low > 0
    assert found.per_second[1] == pytest.approx(8 / found.time.low)


LOGITS = 4 * 2 * 16 * 64  # bytes, of the two examples of one device


@pytest.mark.parametrize(("capacity", "chunks"), [(8 * LOGITS, 1), (8 * LOGITS - 8, 16)])
def test_logits_are_in_stretches_where_the_target_and_not_this_machine_needs_them(
    subject, monkeypatch, capacity, chunks
):
    seen = []
    monkeypatch.setattr(compiled, "capacity_of", lambda _: capacity)
    monkeypatch.setattr(compiled, "compose", lambda config, *args, **options: seen.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compiled.place(subject, gpu("h100:4"))
    assert seen[0].run.vocabulary_chunks == chunks


def test_a_batch_or_a_mesh_that_does_not_divide(subject):
    with pytest.raises(ConfigError, match=r"6 cannot be divided over the 4 devices of 4 host .* data.batch_size=8"):
        place(subject, host(4), batch_size=6)
    with pytest.raises(UsageError, match="a mesh of fsdp 3 needs a multiple of 3 devices, and there are 4"):
        place(subject, host(4), Mesh(fsdp=3))


def stopped(monkeypatch, error):
    def lower(*_):
        raise error

    monkeypatch.setattr(step_of.TrainStep, "lower", lower)


@pytest.mark.parametrize(
    ("told", "needed", "limit"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", 20.5, 15.75),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (71.20G) "
            "exceeds available HBM (15.75G).", 71.2, 15.75,
        ),
    ],
)  # fmt: skip
def test_a_step_that_its_compiler_refuses_does_not_fit(subject, monkeypatch, told, needed, limit):
    stopped(monkeypatch, jax.errors.JaxRuntimeError(told))
    found = place(subject, host(4))
    assert (found.fits, found.parts, found.work) == (False, {}, None)
    assert (found.needed, found.capacity) == (int(needed * 2**30), int(limit * 2**30))


def test_a_step_that_cannot_be_compiled(subject, monkeypatch):
    stopped(monkeypatch, NotImplementedError("MLIR translation rule for primitive 'eig' not found for platform tpu"))
    with pytest.raises(JaxpropError, match=r"cannot be compiled for 4 host devices: MLIR .* 'eig' not found"):
        place(subject, host(4))


def test_a_host_without_the_memory_to_compile(subject, monkeypatch):
    stopped(monkeypatch, MemoryError())
    with pytest.raises(OutOfMemoryError, match="not enough memory to compile"):
        place(subject, host(4))

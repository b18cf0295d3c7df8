"""`tools/plan/search.py`: which meshes there are, in which order they are tried, and which is best."""

import pytest

from jaxprop.config.build import build
from jaxprop.config.schema.run import Mesh
from jaxprop.core.datasheet import sheet_of_kind
from jaxprop.errors import ConfigError
from jaxprop.tools.plan import search
from jaxprop.tools.plan.compiled import Placed
from jaxprop.tools.plan.roofline import Estimate
from jaxprop.tools.plan.search import Candidate, Tried, candidates, meshes, ranked
from jaxprop.tools.plan.topology import Target

SECTIONS = {
    "task": {"name": "language"},
    "data": {"name": "random", "shape": [16], "vocabulary": 64, "batch_size": 8},
    "model": {"name": "transformer", "layers": 2, "width": 64, "heads": 4},
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "run": {"steps": 1},
}


def config(**model):
    return build(SECTIONS | {"model": SECTIONS["model"] | model})


def sizes(found):
    return {tuple(mesh.model_dump().values()) for mesh in found}


def test_every_mesh_uses_all_devices_and_divides_batch_heads_and_tokens():
    found = sizes(meshes(config(), 8, 8, 16))
    assert {(8, 1, 1, 1), (1, 8, 1, 1), (2, 2, 1, 2), (1, 2, 1, 4), (2, 1, 2, 2)} <= found
    for data, fsdp, sequence, tensor in found:
        assert data * fsdp * sequence * tensor == 8
        assert 4 % tensor == 0


def test_a_small_batch_needs_devices_elsewhere():
    assert {data * fsdp for data, fsdp, _, _ in sizes(meshes(config(), 8, 2, 16))} == {1, 2}


def test_shared_heads_bound_the_axis_tensor():
    assert max(tensor for *_, tensor in sizes(meshes(config(kv_heads=2), 8, 8, 16))) == 2


def test_without_tokens_no_sequence_is_split():
    assert {sequence for _, _, sequence, _ in sizes(meshes(config(), 8, 8, None))} == {1}


def placed(needed=1000, seconds=1.0, **changes):
    times = Estimate(seconds, 0.0, {}, seconds, seconds, "compute", (0.5, 0.5))
    made = Placed(
        target="v5e:2x4", chips=8, mesh={"data": 8}, remat="none", batch_size=8, fits=needed <= 1000, needed=needed,
        capacity=1000, parts={"parameters": 100, "optimizer state": 200, "activations": 700}, buffers=(),
        parameters=25, held=300, work=None, model_flops=1e12, time=times, per_second=(8.0, 8.0), tokens=16,
        seconds=1.0,
    )  # fmt: skip
    return made._replace(**changes)


class Plain:
    """A subject that compiles nothing."""

    config, tokens = config(), 16


V5E = Target("v5e:2x4", "tpu", tuple(range(8)), sheet_of_kind("TPU v5 lite"), (2, 4))


def test_what_seems_to_fit_comes_first_and_by_its_time():
    found = candidates(Plain, V5E, placed(held=1400))
    fits = [one.bytes <= 1000 for one in found]
    assert fits == sorted(fits, reverse=True)
    assert 0 < fits.count(True) < len(found)
    # First one policy of each mesh, the fastest first, and then the others.
    shapes = [tuple(one.mesh.model_dump().values()) for one in found[: fits.count(True)]]
    first = len(set(shapes))
    assert len(set(shapes[:first])) == first < len(shapes)
    for part in (found[:first], found[first : fits.count(True)]):
        assert [one.seconds for one in part] == sorted(one.seconds for one in part)
    # Made again, activations take less memory and more time.
    same = {one.remat: one for one in found if one.mesh.fsdp == 8}
    assert same["full"].bytes < same["dots"].bytes < same["none"].bytes
    assert same["full"].seconds > same["none"].seconds


def test_the_best_fits_and_is_fastest():
    one = Candidate(Mesh(data=8, fsdp=1, sequence=1, tensor=1), "none", 0.0, 0.0)
    failed, large = Tried(one, None, "no"), Tried(one, placed(needed=2000, seconds=0.1))
    slow, fast = Tried(one, placed(seconds=2.0)), Tried(one, placed(seconds=1.0))
    assert ranked([failed, large, slow, fast]) == [fast, slow, large, failed]


@pytest.mark.parametrize(("number", "minutes", "tried"), [(3, 1.0, 4), (100, 0.0, 1)])
def test_a_search_ends_by_number_and_by_time(monkeypatch, number, minutes, tried):
    def place(subject, target, mesh, remat, *, detail):
        if remat == "dots":
            raise ConfigError("does not go")
        return placed()

    notes = []
    monkeypatch.setattr(search, "place", place)
    found, left = search.search(Plain, V5E, placed(), number=number, minutes=minutes, note=notes.append)
    assert (len(found), len(notes)) == (tried, tried - 1)
    assert len(found) - 1 + len(left) == len(candidates(Plain, V5E, placed()))
    assert any(one.placed == placed() and one.candidate.mesh.data == 8 for one in found)  # the configured one
    assert all(bool(one.problem) == (one.placed is None) for one in found)

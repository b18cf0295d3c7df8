"""Published results: every file in docs/results/ passes, and each kind of mistake is found."""

from pathlib import Path

import pytest

from jaxprop.bench.document import Row
from jaxprop.bench.submitted import check, file_name, problems
from jaxprop.errors import UsageError
from tests.bench.documents import device_document, make_document, make_row, save, train_document

RESULTS = Path(__file__).parents[2] / "docs" / "results"
NAME = "nvidia-h100-80gb-hbm3-device-2026-11-27.json"


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("*.json")) or [None], ids=lambda path: path.name if path else "none"
)
def test_published_results(path):
    assert RESULTS.joinpath("README.md").is_file()
    assert path is None or check(path) == []


def test_documents_that_are_ready(tmp_path):
    assert check(save(device_document(), tmp_path / NAME)) == []
    assert check(save(train_document(), tmp_path / NAME.replace("device", "train"))) == []


@pytest.mark.parametrize(
    ("document", "name"),
    [
        (make_document(kinds=("NVIDIA A100",) * 8), "nvidia-a100-x8-train-2026-11-27.json"),
        (make_document(kinds=("cpu",)), "amd-epyc-9554-train-2026-11-27.json"),
        (
            make_document(kinds=("cpu",), host={"cpu": "Intel(R) Xeon(R) @ 2.00GHz"}),
            "intel-xeon-2-00ghz-train-2026-11-27.json",
        ),
        (make_document(kinds=("TPU v5 lite",), command="device"), "tpu-v5-lite-device-2026-11-27.json"),
        (make_document(kinds=("../../x",)), "x-train-2026-11-27.json"),
        (make_document(kinds=()), "unknown-train-2026-11-27.json"),
    ],
)
def test_the_name_of_a_file(document, name):
    assert file_name(document) == name


def one_problem(tmp_path, document, name=None):
    found = problems(save(document, tmp_path / (name or file_name(document))))
    assert len(found) == 1, found
    return found[0]


RATE = {"section": "matmul", "unit": "TFLOP/s", "better": "higher", "per_call": 1.0}
DTYPE = {"facts": {"dtype": "bfloat16"}}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (make_row(seconds=1 / 1500, **RATE, **DTYPE), "TFLOP/s is more than the 989.5 of the datasheet"),
        (make_row(facts={"of_datasheet": 1.04}), "is 104% of the datasheet"),
        (make_row(noise=0.4, status="ok"), "more than 5%, so its status has to be 'noisy'"),
        (make_row(value=20.0), "the figure is 20, but its samples give 1"),
        (make_row(value=None), "has the status 'ok' and no figure"),
        (make_row(samples=[[0.0, 1.0]]), "has a sample that is not above 0"),
        (make_row(status="failed", message="x"), "has a figure and the status 'failed'"),
        (Row(section="train", name="step", status="failed"), "has the status 'failed' without a message"),
    ],
)
def test_rows_that_cannot_be(tmp_path, row, problem):
    found = one_problem(tmp_path, make_document(make_row("good"), row))
    assert problem in found
    assert found.startswith(f"{row.section}, step, device 0: ")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"complete": False}, "the document is not complete; run the command to its end"),
        ({"notes": ["data from /home/ann/data"]}, "notes.0: holds a path, '/home/ann'; take it out"),
        ({"notes": ["see ~/x and so on"]}, "notes.0: holds a path, '~/x'; take it out"),
        ({"notes": [r"see C:\Users"]}, r"notes.0: holds a path, 'C:\\'; take it out"),
        ({"arguments": {"out": "/tmp/x/y.json"}}, "arguments.out: holds a path, '/tmp/x'; take it out"),
        ({"arguments": {"/srv/x": 1}}, "arguments: a name: holds a path, '/srv/x'; take it out"),
        ({"flags": {"JAX_X": "10.0.0.7:80"}}, "environment.flags.JAX_X: holds an address, '10.0.0.7'; take it out"),
        ({"notes": ["ask ann@example.org"]}, "notes.0: holds an address, 'ann@example.org'; take it out"),
        ({"notes": ["on node7.corp."]}, "notes.0: holds a host name, 'node7.corp'; take it out"),
    ],
)
def test_what_must_not_be_published(tmp_path, changed, problem):
    document = make_document(make_row(), **changed)
    if "@" in problem:  # an address is a host's name, too
        assert problem in problems(save(document, tmp_path / file_name(document)))
    else:
        assert one_problem(tmp_path, document) == problem


def test_ordinary_words_name_nobody(tmp_path):
    notes = [
        "700 TFLOP/s and 3 GB/s; input/output; cl/123456; and/or",
        "jax 0.10.2, CUDA 12.9.1.4, 12.0.0.1",
        "float32 1024 x 1024 x 1024 at 1.5e-3",
        "layers/0/dense",
        "and so on. Then more",
        "a / b / c",
        "see https://docs.jax.dev/en/latest and https://jax.readthedocs.io.",
    ]
    assert (
        check(save(make_document(make_row(), notes=notes), tmp_path / "nvidia-h100-80gb-hbm3-train-2026-11-27.json"))
        == []
    )


def test_the_document_as_a_whole(tmp_path):
    assert "rename it to 'nvidia-h100-80gb-hbm3-train-2026-11-27.json'" in one_problem(
        tmp_path, make_document(make_row()), "mine.json"
    )
    assert one_problem(tmp_path, make_document(make_row(), kinds=())) == "the document names no device"
    assert one_problem(tmp_path, make_document()) == "the document has no figure"
    assert one_problem(tmp_path, make_document(make_row(), make_row())) == "train, step, device 0: stands twice"
    assert one_problem(tmp_path, make_document(make_row(), started="yesterday")).startswith("started is 'yesterday'")
    large = make_document(make_row(rounds=60, count=4000))
    assert "more than 5,000,000; measure for a shorter time" in one_problem(tmp_path, large)


def test_a_file_that_cannot_be_read_is_a_problem_too(tmp_path):
    (tmp_path / "a.json").write_text('{"schema": 1')
    with pytest.raises(UsageError, match="is cut off"):
        problems(tmp_path / "a.json")
    assert "is cut off" in check(tmp_path / "a.json")[0]
    assert "cannot be read" in check(tmp_path / "nowhere.json")[0]

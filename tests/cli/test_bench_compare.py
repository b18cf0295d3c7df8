"""`jaxprop bench compare`: what it prints, when it fails, and one sentence for what cannot be compared."""

import json
from pathlib import Path

import pytest

from jaxprop.bench.document import Row
from tests.bench.documents import EVIL, make_document, make_row, save


@pytest.fixture
def pair(package):
    """Two documents of which the later one is slower by 8 %."""
    save(make_document(make_row("step"), make_row("other", seed=1)), Path("a.json"))
    save(make_document(make_row("step", 0.0108, seed=2), make_row("other", seed=3), commit="fedcba"), Path("b.json"))


def test_a_table_with_differences_and_counts(jaxprop, pair):
    ran = jaxprop("bench", "compare", "a.json", "b.json")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "differs: commit: 0123456789ab -> fedcba"
    step = next(line for line in lines if "train: step" in line)
    assert "1.077x" in step
    assert step.split()[-1] == "slower"
    assert next(line for line in lines if "train: other" in line).split()[-1] == "same"
    assert lines[-1] == "1 slower, 1 same"


@pytest.mark.parametrize(("limit", "code"), [("5%", 1), ("0.05", 1), ("10%", 0), ("0", 1)])
def test_the_exit_code_of_a_slowdown(jaxprop, pair, limit, code):
    ran = jaxprop("bench", "compare", "a.json", "b.json", "--fail-above", limit)
    assert ran.code == code
    last = ran.out.splitlines()[-1]
    said = "failed: train: step takes 1.077 times" if code else "no row is slower by more than 0.1 beyond"
    assert last.startswith(said)


def test_the_other_way_round_it_is_faster(jaxprop, pair):
    ran = jaxprop("bench", "compare", "b.json", "a.json", "--fail-above", "0")
    assert ran.code == 0
    assert "1 faster, 1 same" in ran.out


def test_json_is_one_value_on_stdout(jaxprop, pair):
    ran = jaxprop("bench", "compare", "a.json", "b.json", "--fail-above", "5%", "--json")
    assert (ran.code, ran.err) == (1, "")
    found = json.loads(ran.out)
    assert list(found) == [
        "command", "run", "lines", "machine", "differences", "notes", "judged", "fail_above", "failures",
    ]  # fmt: skip
    assert (found["command"], found["judged"]) == ("bench compare", True)
    assert [line["verdict"] for line in found["lines"]] == ["slower", "same"]
    assert found["lines"][0]["low"] < found["lines"][0]["ratio"] < found["lines"][0]["high"]
    assert found["failures"] == [["train", "step", "0"]]
    assert found["differences"] == [{"what": "commit", "first": "0123456789ab", "second": "fedcba"}]


def test_a_row_that_no_longer_fits_fails(jaxprop, pair):
    gone = Row(section="train", name="step", status="out_of_memory", message="too large", unit="ms", better="lower")
    save(make_document(gone, make_row("other")), Path("b.json"))
    assert jaxprop("bench", "compare", "a.json", "b.json").code == 0
    ran = jaxprop("bench", "compare", "a.json", "b.json", "--fail-above", "5%")
    assert ran.code == 1
    assert ran.out.endswith("failed: train: step cannot be measured any more (out of memory: too large)\n")


def test_different_machines_need_force(jaxprop, pair):
    save(make_document(make_row("step"), kinds=("TPU v4",)), Path("b.json"))
    ran = jaxprop("bench", "compare", "a.json", "b.json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "error: the documents are of different machines (devices: 1 x NVIDIA H100 80GB HBM3 and 1 x TPU v4); "
        "add --force to compare them all the same\n"
    )
    ran = jaxprop("bench", "compare", "a.json", "b.json", "--force")
    assert ran.code == 0
    assert ran.out.startswith("machine: devices: 1 x NVIDIA H100 80GB HBM3 -> 1 x TPU v4\n")


def test_what_a_document_says_reaches_no_terminal_as_it_is(jaxprop, package):
    for name in ("a.json", "b.json"):
        save(make_document(make_row(EVIL), commit=EVIL + name, flags={EVIL: name}), Path(name))
    ran = jaxprop("bench", "compare", "a.json", "b.json")
    assert ran.code == 0
    assert "\x1b" not in ran.out


PEAKS = ("matmul", "memory")


def noisy(name, section="train", seed=0):
    """A figure of one round, which does not tell how far rounds differ."""
    return make_row(name, section=section, rounds=1, seed=seed)


@pytest.fixture
def unclear(package):
    """Two documents in which the step has no verdict, although the device's own rates have one."""
    for path, seed in (("a.json", 0), ("b.json", 10)):
        peaks = [make_row("peak", section=section, seed=seed + i) for i, section in enumerate(PEAKS)]
        save(make_document(*peaks, noisy("step", seed=seed + 5)), Path(path))


def test_a_gate_without_any_verdict_is_not_passed(jaxprop, unclear):
    assert jaxprop("bench", "compare", "a.json", "b.json").code == 0  # nothing was asked to be held
    ran = jaxprop("bench", "compare", "a.json", "b.json", "--fail-above", "5%")
    assert ran.code == 1
    assert ran.err == (
        "error: no row has a verdict, so nothing has been compared; measure both again with --processes 5, or longer "
        "with --seconds, or accept it with --allow-no-verdict\n"
    )
    assert "no row is slower" not in ran.out
    ran = jaxprop("bench", "compare", "a.json", "b.json", "--fail-above", "5%", "--allow-no-verdict")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(jaxprop("bench", "compare", "a.json", "b.json", "--fail-above", "5%", "--json").out)
    assert (found["judged"], found["failures"]) == (False, [])


def test_the_step_comes_first_and_what_it_is_held_against_where_asked_for(jaxprop, unclear):
    lines = jaxprop("bench", "compare", "a.json", "b.json").out.splitlines()
    assert [line.split()[0] for line in lines if line.lstrip().startswith(("train:", "matmul:", "memory:"))] == [
        "train:"
    ]
    assert lines[-2] == "2 rows of the device's own rates and of single products: see --all"
    lines = jaxprop("bench", "compare", "a.json", "b.json", "--all").out.splitlines()
    heading = lines.index("what the step is held against: the device's own rates, and its products by themselves")
    places = {
        name: next(i for i, line in enumerate(lines) if line.lstrip().startswith(f"{name}: "))
        for name in ("train", *PEAKS)
    }
    assert places["train"] < heading < places["matmul"] < places["memory"]


def test_a_rate_of_the_device_that_has_changed_is_shown(jaxprop, package):
    for path, seconds in (("a.json", 0.01), ("b.json", 0.0110)):
        save(make_document(make_row("peak", seconds, section="matmul"), make_row("step")), Path(path))
    out = jaxprop("bench", "compare", "a.json", "b.json").out
    assert "matmul: peak" in out
    assert "see --all" not in out


REFUSED = [
    ("a.json nowhere.json", "nowhere.json: cannot be read (No such file or directory)"),
    ("folder a.json", "folder: cannot be read (Is a directory)"),
    ("a.json cut.json", "cut.json: is cut off or is not JSON (line"),
    ("a.json other.json", "other.json: has the schema 'pytest-benchmark', expected 'jaxprop.bench/1'"),
    ("a.json list.json", "list.json: has the schema None"),
    ("a.json missing.json", "missing.json: environment: field required"),
    ("a.json binary.json", "binary.json: is not a text file"),
    ("a.json device.json", "one document is of `bench train`, the other of `bench device`"),
    ("a.json rows.json", "the documents have no row in common"),
    ("a.json b.json --fail-above five", "--fail-above five: expected a share below 100 %, such as 5% or 0.05"),
    ("a.json b.json --fail-above 200%", "--fail-above 200%: expected a share below 100 %"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_refused_with_one_sentence(jaxprop, pair, arguments, said):
    Path("folder").mkdir()
    Path("cut.json").write_text(Path("a.json").read_text()[:500])
    Path("other.json").write_text('{"schema": "pytest-benchmark"}')
    Path("list.json").write_text("[]")
    Path("missing.json").write_text('{"schema": "jaxprop.bench/1", "command": "train", "started": "x"}')
    Path("binary.json").write_bytes(b"\xff\xfe")
    save(make_document(make_row("step"), command="device"), Path("device.json"))
    save(make_document(make_row("elsewhere")), Path("rows.json"))
    ran = jaxprop("bench", "compare", *arguments.split())
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1

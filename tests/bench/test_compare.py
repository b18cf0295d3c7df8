"""Two documents compared: a verdict for each row, and one sentence where there can be none."""

import pytest

from jaxprop.bench.compare import compare, failures, share
from jaxprop.bench.document import Row
from jaxprop.errors import UsageError
from tests.bench.documents import make_document, make_row


def only(first, second, **options):
    lines = compare(make_document(first), make_document(second), **options).lines
    assert len(lines) == 1
    return lines[0]


def test_slower_faster_and_the_same():
    first = make_document(make_row("a", 0.01, seed=1), make_row("b", 0.01, seed=2), make_row("c", 0.01, seed=3))
    second = make_document(make_row("a", 0.0108, seed=4), make_row("b", 0.0092, seed=5), make_row("c", 0.01, seed=6))
    found = compare(first, second)
    assert [(line.name, line.verdict) for line in found.lines] == [("a", "slower"), ("b", "faster"), ("c", "same")]
    assert found.lines[0].ratio == pytest.approx(1.08, rel=0.01)
    assert (found.machine, found.differences, found.notes) == ([], [], [])
    assert [found.count(verdict) for verdict in ("slower", "same", "broken")] == [1, 1, 0]


def test_a_rate_that_is_lower_is_slower():
    rate = {"better": "higher", "unit": "TFLOP/s", "per_call": 2.0}
    line = only(make_row(seconds=0.01, **rate), make_row(seconds=0.0115, seed=1, **rate))
    assert line.verdict == "slower"
    assert line.ratio == pytest.approx(1.15, rel=0.01)
    assert line.second < line.first


def test_the_work_of_a_call_may_differ():
    """Twice the work in twice the time is the same rate, and ten steps a call the same time of a step."""
    rate = {"better": "higher", "unit": "TFLOP/s"}
    assert only(make_row(seconds=0.01, per_call=1.0, **rate), make_row(seconds=0.02, per_call=2.0, **rate)).ratio == 1.0
    assert only(make_row(seconds=0.01), make_row(seconds=0.1, per_call=100.0)).ratio == pytest.approx(1.0)


def test_noise_gives_no_verdict_and_says_how_large_it_is():
    line = only(make_row(noise=0.3), make_row(noise=0.3, seed=1, seconds=0.0105))
    assert line.verdict == "no verdict"
    assert "the noise is" in line.reason
    # A floor above 5 % cannot say `same`, either, however narrow the interval is.
    drifting = make_row(rounds=8)
    drifting = drifting.model_copy(
        update={"samples": [[one * (1.2 if i > 3 else 1.0) for one in part] for i, part in enumerate(drifting.samples)]}
    )
    assert only(drifting, drifting).verdict == "no verdict"


def test_a_slowdown_of_some_steps_is_remarked():
    """Every third step takes twice as long: the undisturbed time does not show it, the median of four in seven does."""
    first = make_row(rounds=5, count=21)
    second = first.model_copy(
        update={"samples": [[2 * one if i % 7 < 4 else one for i, one in enumerate(part)] for part in first.samples]}
    )
    line = only(first, second)
    assert line.verdict != "slower"
    assert "the medians have the ratio 1.9" in line.reason


def test_many_rows_do_not_make_a_false_alarm():
    first, second = (
        make_document(*(make_row(f"row {i}", noise=0.03, seed=100 * side + i) for i in range(60))) for side in (0, 1)
    )
    assert {line.verdict for line in compare(first, second).lines} <= {"same", "no verdict"}


BROKEN = Row(section="train", name="step", status="out_of_memory", message="does not fit", unit="ms", better="lower")


def test_a_row_that_broke_or_was_repaired():
    line = only(make_row(), BROKEN)
    assert (line.verdict, line.reason) == ("broken", "out of memory: does not fit")
    assert only(BROKEN, make_row()).verdict == "repaired"
    assert only(BROKEN, BROKEN).verdict == "unmeasured"
    assert failures([line], 0.05) == [line]
    # Measured, though too noisy by its own aim: that is no error.
    assert only(make_row(), make_row(status="noisy", seed=1)).verdict == "same"


def test_rows_of_one_document_only_are_named():
    found = compare(make_document(make_row("a"), make_row("b")), make_document(make_row("a"), make_row("c")))
    assert [(line.name, line.verdict) for line in found.lines] == [
        ("a", "same"),
        ("b", "only first"),
        ("c", "only second"),
    ]
    assert (found.lines[1].first, found.lines[1].second) == (pytest.approx(10, rel=0.1), None)


@pytest.mark.parametrize(
    ("changed", "verdict", "reason"),
    [
        ({"samples": []}, "no verdict", "a single figure, without samples"),
        (
            {"samples": [[0.01] * 9]},
            "no verdict",
            "one round only, which does not tell how far rounds differ; measure longer",
        ),
        (
            {"samples": [[0.01], []]},
            "no verdict",
            "one round only, which does not tell how far rounds differ; measure longer",
        ),
        ({"samples": [[0.0, 0.01], [0.01]]}, "no verdict", "a sample is no time that can be measured"),
        ({"per_call": 0.0}, "no verdict", "a sample is no time that can be measured"),
        ({"unit": "s"}, "no verdict", "one is in ms, the other in s"),
    ],
)
def test_samples_that_do_not_tell(changed, verdict, reason):
    line = only(make_row(), make_row(value=20.0).model_copy(update=changed))
    assert (line.verdict, line.reason) == (verdict, reason)
    assert line.p is None
    assert failures([line], 0.0) == []


def test_single_figures_have_a_ratio_and_equal_ones_are_the_same():
    memory = make_row(value=100.0, unit="MiB").model_copy(update={"samples": []})
    line = only(memory, memory.model_copy(update={"value": 110.0}))
    assert (line.verdict, line.ratio) == ("no verdict", 1.1)
    assert only(memory, memory).verdict == "same"


def test_a_difference_of_the_floor_is_none_whichever_the_machine_is():
    """2.5 % is a difference on an accelerator, and none between two processes on a CPU."""
    rows = make_row(noise=0.001, rounds=10), make_row(seconds=0.01027, noise=0.001, rounds=10, seed=1)
    verdicts = [
        compare(*(make_document(row, kinds=(kind,)) for row in rows)).lines[0].verdict for kind in ("TPU v4", "cpu")
    ]
    assert verdicts == ["slower", "same"]


def test_only_what_is_slower_beyond_its_interval_fails():
    line = only(make_row(noise=0.01), make_row(seconds=0.0108, noise=0.01, seed=1))
    assert failures([line], 0.05) == [line]
    assert failures([line], 0.0) == [line]
    assert failures([line], 0.08) == []
    assert failures([line._replace(verdict="no verdict")], 0.0) == []


# -- machines and circumstances -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kinds": ("NVIDIA A100",)}, "devices: 1 x NVIDIA H100 80GB HBM3 and 1 x NVIDIA A100"),
        ({"kinds": ("NVIDIA H100 80GB HBM3",) * 2}, "2 x NVIDIA H100 80GB HBM3"),
        ({"host": {"cpu": "another"}}, "processor: AMD EPYC 9554 and another"),
        ({"host": {"cores": 8}}, "cores: 16 and 8"),
        ({"host": {"affinity": None}}, "affinity: 0,1 and none"),
    ],
)
def test_different_machines_are_refused_unless_forced(changed, said):
    first, second = make_document(make_row()), make_document(make_row(), **changed)
    with pytest.raises(UsageError) as caught:
        compare(first, second)
    assert said in str(caught.value)
    assert "add --force" in str(caught.value)
    assert caught.value.exit_code == 2
    assert len(compare(first, second, force=True).machine) == 1


def test_what_differs_otherwise_is_told():
    first = make_document(make_row(), arguments={"batch": 8, "seconds": 30.0})
    second = make_document(
        make_row(),
        commit=None,
        versions={"jax": "0.11.0"},
        flags={"XLA_FLAGS": "--a=b"},
        host={"allocator": "tcmalloc"},
        arguments={"batch": 16, "seconds": 30.0},
        complete=False,
    )
    found = compare(first, second)
    assert {tuple(one) for one in found.differences} == {
        ("version of jax", "0.10.2", "0.11.0"),
        ("flag XLA_FLAGS", None, "--a=b"),
        ("commit", "0123456789ab", None),
        ("host allocator", None, "tcmalloc"),
        ("argument batch", 8, 16),
    }
    assert found.notes == ["the second document is not complete: the command was ended before all was measured"]


def test_other_commands_and_other_rows_are_refused():
    with pytest.raises(UsageError, match="one document is of `bench train`, the other of `bench device`"):
        compare(make_document(make_row()), make_document(make_row(), command="device"))
    with pytest.raises(UsageError, match="have no row in common"):
        compare(make_document(make_row("a")), make_document(make_row("b")))
    with pytest.raises(UsageError, match="have no row in common"):
        compare(make_document(), make_document())


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("0.05", 0.05), (" 12.5 % ", 0.125), ("0", 0.0), (".1", 0.1)]
)
def test_a_share(text, value):
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "five", "5%%", "-1%", "nan", "inf", "1e-2", "100%", "5", "\u0661%", "0.05\x1b[31m"]
)
def test_what_is_no_share(text):
    with pytest.raises(
        UsageError, match=r"--fail-above .*: expected a share below 100 %, such as 5% or 0.05"
    ) as caught:
        share(text)
    assert str(caught.value).isprintable()

"""Which plots a document has, and what they show."""

import pytest

from jaxprop.bench.render.plots import plots
from tests.bench.documents import device_document, make_document, make_row, train_document


def drawn(document):
    return {plot.title: plot for plot in plots(document)}


def test_a_device_has_its_sweeps():
    found = drawn(device_document())
    assert list(found) == ["Matrix products", "Memory bandwidth"]
    products = found["Matrix products"]
    assert [line.name for line in products.lines] == ["float32", "bfloat16"]
    assert [point.x for point in products.lines[0].points] == [256, 1024, 4096]
    assert products.lines[1].points[-1].y == pytest.approx(700, rel=0.05)
    assert products.lines[1].points[-1].said.startswith("bfloat16 4096 x 4096 x 4096: 6")
    assert (products.log_x, products.log_y, found["Memory bandwidth"].log_y) == (True, False, True)


def test_a_sweep_over_batches_and_the_roofline():
    found = drawn(train_document())
    assert list(found) == ["Matrix products", "Memory bandwidth", "Time of a step", "Train rate", "Roofline"]
    for title in ("Time of a step", "Train rate"):
        assert [line.name for line in found[title].lines] == ["gpt_10m float32", "gpt_10m bfloat16"]
        assert [point.x for point in found[title].lines[0].points] == [8, 16, 32]
    assert found["Train rate"].lines[1].points[0].y == pytest.approx(3000)
    *roofs, parts = found["Roofline"].lines
    assert [line.name for line in roofs] == ["roof, float32", "roof, bfloat16"]
    assert [point.said.partition(":")[0] for point in parts.points] == ["attention", "feed-forward", "norm"]
    assert parts.name == "gpt_10m"
    assert not parts.joined
    for roof, peak in zip(roofs, (50, 700), strict=True):
        assert max(point.y for point in roof.points) == pytest.approx(peak, rel=0.05)
        first = roof.points[0]
        assert first.y / first.x == pytest.approx(3.0, rel=0.05)  # TB/s: the slope is the bandwidth


def test_the_roof_is_that_of_data_which_no_cache_holds():
    facts = {"operation": "copy", "bytes": 1 << 15}
    document = train_document()
    cached = make_row("copy", section="memory", unit="GB/s", better="higher", per_call=1e3, facts=facts)
    found = drawn(document.model_copy(update={"rows": [*document.rows, cached]}))
    first = found["Roofline"].lines[0].points[0]
    assert first.y / first.x == pytest.approx(3.0, rel=0.05)


def test_devices_and_other_sections_are_lines_of_their_own():
    rate = {"unit": "TFLOP/s", "better": "higher"}
    kinds = (("matmul", {"dtype": "float32"}), ("matmul of zeros", {"dtype": "float32"}), ("numpy", {}))
    rows = [
        make_row(
            f"{section} {size} {device}",
            section=section,
            device=device,
            facts=facts | dict.fromkeys("mkn", size),
            **rate,
        )
        for section, facts in kinds
        for device in "01"
        for size in (256, 512)
    ]
    names = [line.name for line in drawn(make_document(*rows))["Matrix products"].lines]
    assert names == [
        "float32 device 0",
        "float32 device 1",
        "float32 device 0 matmul of zeros",
        "float32 device 1 matmul of zeros",
        "device 0 numpy",
        "device 1 numpy",
    ]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"workload": "mlp"},
        {"workload": "mlp", "examples_per_s": 1.0, "batch": "auto"},
        {"workload": "mlp", "examples_per_s": 1.0, "batch": 0},
        {"workload": "mlp", "examples_per_s": 1.0, "batch": True},
    ],
)
def test_facts_that_are_no_numbers_are_not_drawn(facts):
    assert drawn(make_document(make_row("a", facts=facts), make_row("b", facts=facts))) == {}


def test_a_single_size_is_no_sweep():
    assert drawn(make_document(make_row(facts={"workload": "mlp", "examples_per_s": 1.0, "batch": 8}))) == {}

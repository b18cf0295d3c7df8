"""`bench/rounds.py`: the method."""

import itertools
import statistics

import jax
import jax.numpy as jnp
import pytest

from jaxprop.bench import rounds
from jaxprop.bench.rounds import Job, Plan, Prepared, measure

DEVICE = jax.devices()[0]
SHORT = Plan(seconds=60.0, burst=0.01, aim=float("inf"), fewest=2)  # ends by its rounds, however slow or noisy


def job(name="a", call=lambda _: jnp.ones(()), check=lambda _: "", **changes):
    def prepare():
        return Prepared(call, check)

    return Job(**{"section": "s", "name": name, "unit": "1/s", "prepare": prepare, "device": DEVICE} | changes)


def last(jobs, plan=SHORT):
    return {row.name: row for row in measure(jobs, plan, [DEVICE])}


def raises(error):
    def prepare():
        raise error

    return prepare


def test_a_figure_is_measured_in_rounds_and_all_samples_are_kept(monkeypatch):
    seconds = itertools.cycle([0.25, 0.5, 0.5])
    monkeypatch.setattr(rounds, "timing", lambda *_: next(seconds))
    row = last([job()])["a"]
    assert row.status in ("ok", "noisy")
    assert len(row.samples) == 2
    assert min(map(len, row.samples)) >= rounds.FEWEST
    assert row.low <= row.value <= row.high
    assert 1 / row.value == pytest.approx(statistics.median(itertools.chain(*row.samples)))


def test_every_figure_has_its_first_round_before_any_has_its_second():
    seen = [(row.name, len(row.samples)) for row in measure([job("a"), job("b")], SHORT, [DEVICE])]
    assert seen[:2] == [("a", 1), ("b", 1)]


def test_it_stops_by_noise_and_by_time():
    assert len(last([job()], SHORT._replace(fewest=3))["a"].samples) == 3
    assert len(last([job()], SHORT._replace(aim=0.0, seconds=0.2))["a"].samples) > 3
    assert len(last([job()], SHORT._replace(seconds=0.0))["a"].samples) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotImplementedError("no fp8"), "unsupported"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("INTERNAL: device is lost"), "failed"),
    ],
)
def test_what_cannot_be_measured_is_a_row_and_the_others_go_on(error, status):
    found = last([job("a", prepare=raises(error)), job("b")])
    assert found["a"].status == status
    assert found["a"].value is None
    assert found["a"].message
    assert found["b"].value


def test_a_device_that_is_lost_later_is_a_row():
    calls = []

    def prepare():
        calls.append(0)
        if len(calls) > 1:
            raise RuntimeError("INTERNAL: device is lost")
        return Prepared(lambda _: jnp.ones(()), lambda _: "")

    found = last([job("a", prepare=prepare), job("b")])
    assert found["a"].status == "failed"
    assert found["b"].value


def test_a_wrong_result_is_an_error():
    found = last([job(check=lambda x: "the product is wrong" if float(x) == 1 else "")])["a"]
    assert (found.status, found.message, found.value) == ("failed", "the product is wrong", None)


def test_a_rate_above_the_datasheet_is_an_error():
    found = last([job(limit=1e-3)])["a"]
    assert found.status == "failed"
    assert "more than the 0.001 of the datasheet" in found.message
    assert last([job(limit=1e12)])["a"].facts["of_datasheet"] < 1


def test_a_larger_size_is_left_out_where_it_would_take_too_long():
    plan = SHORT._replace(longest=0.5)
    found = last(
        [job("a"), job("b", follows=("a", 1e9)), job("c", follows=("b", 1.0)), job("d", follows=("a", 1))], plan
    )
    assert [*found] == ["a", "d"]


def test_times_and_rates():
    found = last([job("rate", per_call=3.0), job("time", better="lower", per_call=1e3)])
    rate, time = found["rate"], found["time"]
    middle = [*itertools.chain(*rate.samples)]
    assert min(middle) <= 3.0 / rate.value <= max(middle)
    middle = [*itertools.chain(*time.samples)]
    assert min(middle) <= time.value / 1e3 <= max(middle)


def test_an_interrupt_goes_through():
    rows = measure([job("a"), job("b", prepare=raises(KeyboardInterrupt()))], SHORT, [DEVICE])
    assert next(rows).name == "a"
    with pytest.raises(KeyboardInterrupt):
        next(rows)

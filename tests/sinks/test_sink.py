import pytest

from jaxprop.sinks.sink import Sink, fan_out


def recording(name, seen):
    return Sink(*(lambda *given, field=field: seen.append((name, field, *given)) for field in Sink._fields))


def test_everything_reaches_every_sink_in_order():
    seen = []
    both = fan_out([recording("a", seen), Sink(), recording("b", seen)])
    for field in Sink._fields[:-1]:
        getattr(both, field)(field.upper())
    both.close()
    expected = [(name, field, field.upper()) for field in Sink._fields[:-1] for name in "ab"]
    assert seen == [*expected, ("a", "close"), ("b", "close")]


def test_closing_closes_all_even_when_one_fails():
    def fail():
        raise OSError("full")

    seen = []
    with pytest.raises(OSError, match="full"):
        fan_out([recording("a", seen), Sink(close=fail), recording("b", seen)]).close()
    assert seen == [("a", "close"), ("b", "close")]


def test_no_sink_at_all_takes_everything():
    none = fan_out([])
    assert none.write({"step": 1}) is None
    assert none.close() is None

"""Bad records: the first one stops a strict reader; a tolerant one says what it has skipped, or that it is too much."""

import pytest

from jaxprop.data.bad import BadInputs, BadRecords
from jaxprop.errors import DataError


def collected(allowed, count):
    bad = BadRecords(allowed, unit="row")
    for i in range(count):
        bad.add(f"wine.csv:{i + 2}", "is not UTF-8")
    return bad


def test_nothing_bad_is_nothing_to_say():
    assert BadRecords(0.0).notes(total=0) == []
    assert BadRecords(0.5).notes(total=7) == []


def test_the_first_one_stops_where_none_is_allowed():
    with pytest.raises(DataError, match=r"^wine.csv:2: is not UTF-8; repair or remove this row, or set data.max_bad"):
        collected(0.0, 1)


@pytest.mark.parametrize(("count", "total"), [(1, 10), (2, 20), (5, 50)])
def test_as_many_as_allowed_are_skipped_and_told(count, total):
    (note,) = collected(0.1, count).notes(total)
    assert note.startswith(f"skipped {count} of {total} rows that cannot be used: wine.csv:2: is not UTF-8")
    assert ("(and 2 more)" in note) == (count == 5)
    assert "wine.csv:5" not in note


def test_one_more_than_allowed_is_an_error_whose_fix_works():
    with pytest.raises(DataError, match=r"^6 of 50 rows cannot be used, .*\(0.1\) allows: wine.csv:2") as caught:
        collected(0.1, 6).notes(50)
    enough = float(str(caught.value).rsplit(" ", 1)[1])
    assert enough == 0.12
    assert len(collected(enough, 6).notes(50)) == 1


@pytest.mark.parametrize("total", [7, 11, 13, 997])
def test_the_fraction_that_the_fix_names_is_always_enough(total):
    with pytest.raises(DataError) as caught:
        collected(0.001, 3).notes(total)
    assert collected(float(str(caught.value).rsplit(" ", 1)[1]), 3).notes(total)


def test_no_good_record_is_an_error_whatever_is_allowed():
    with pytest.raises(DataError, match="none of the 3 rows can be used"):
        collected(0.99, 3).notes(3)


def test_what_cannot_be_predicted_is_collected_and_no_error():
    bad = BadInputs(["a.csv"])
    with pytest.raises(DataError, match=r"a.csv: is empty"), bad.reading("a.csv"):
        raise DataError("a.csv: is empty")
    bad.good = 2
    bad.add("a.csv:3", "is not UTF-8", before=1)
    with bad.reading("a.csv"):
        raise DataError("a.csv:9: a quote is never closed")
    assert bad.found == [(3, "a.csv:3", "is not UTF-8"), (2, "a.csv", "a.csv:9: a quote is never closed")]
    assert bad.notes(total=3) == []

"""Records that are gone through again: kept while small, read again otherwise, and never others."""

import itertools

import pytest

from jaxprop.data.again import Again
from jaxprop.errors import DataError


@pytest.mark.parametrize(("limit", "reads"), [(100, 1), (6, 1), (5, 3), (0, 3)])
def test_records_are_read_again_only_where_they_are_large(limit, reads):
    calls = []

    def read():
        calls.append(1)
        return iter(["ab", "cd", "ef"])

    again = Again(read, len, "a.txt", limit=limit)
    assert [list(again) for _ in range(3)] == [["ab", "cd", "ef"]] * 3
    assert len(calls) == reads


def test_files_that_change_meanwhile_are_an_error():
    sizes = itertools.count(3)
    again = Again(lambda: iter(["ab"] * next(sizes)), len, "a.txt", limit=0)
    list(again)
    with pytest.raises(DataError, match=r"a\.txt has changed"):
        list(again)


def test_a_pass_that_is_broken_off_is_not_remembered():
    again = Again(lambda: iter(["a", "b"]), len, "a.txt")
    assert next(iter(again)) == "a"
    assert list(again) == ["a", "b"]

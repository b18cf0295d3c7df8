"""Texts of standard input are read as the run's own were: plain lines, JSONL or CSV."""

import pytest

from jaxprop.data.bad import BadInputs
from jaxprop.data.piped_texts import Form, piped_texts

FORM = Form("review")


def told(form):
    """The texts of each block by their lines, and the lines that are bad."""
    for reading in piped_texts(form):
        bad = BadInputs()
        found = {record.where.removeprefix("stdin:"): record.values[0] for record in reading(bad)}
        yield found, {one.name.removeprefix("stdin:"): one.why for one in bad.found}


def test_objects_of_json_and_plain_lines(pipe):
    found = told(FORM)
    pipe.write(b'{"review": "good", "n": 1}\nplain {"review": "text"}\n')
    assert next(found) == ({"1": "good", "2": 'plain {"review": "text"}'}, {})
    pipe.write(b'\n{"review": "fine"\n{"text": "other"}\n\xff\n')
    texts, bad = next(found)
    assert texts == {"5": None}  # which is told as a text that is missing
    assert bad["4"].startswith("is not JSON")
    assert bad["6"] == "is not UTF-8 (byte 0xff)"


def test_a_run_of_plain_lines_takes_plain_lines(pipe):
    pipe.write(b'{"review": "good"}\nreview,n\n')
    pipe.close()
    assert list(told(None)) == [({"1": '{"review": "good"}', "2": "review,n"}, {})]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_with_the_column_as_it_comes(pipe, delimiter):
    found = told(FORM)
    pipe.write(delimiter.join(["\ufeffn", "review"]).encode() + b"\n")
    pipe.write(delimiter.join(["1", "good"]).encode() + b"\n2\n")
    held = [next(found)]
    while not held[-1][0]:  # the header may come alone
        held.append(next(found))
    assert held[-1] == ({"2": "good"}, {"3": "has 1 value, but the header has 2 columns"})


def test_a_value_of_csv_may_have_several_lines(pipe):
    found = told(FORM)
    pipe.write(b'review,n\n"one\n')
    pipe.write(b'two",1\n"three,2\n')
    pipe.close()
    held = list(found)
    texts = {line: text for of, _ in held for line, text in of.items()}
    bad = [line for _, of in held for line in of]
    assert (texts, bad) == ({"2": "one\ntwo"}, ["4"])


def test_what_has_no_such_column_is_text(pipe):
    pipe.write(b"good, bad\nfine\n")
    pipe.close()
    assert list(told(FORM)) == [({"1": "good, bad", "2": "fine"}, {})]


def test_nothing_is_no_text(pipe):
    pipe.write(b"\n  \n")
    pipe.close()
    assert list(told(FORM)) == []

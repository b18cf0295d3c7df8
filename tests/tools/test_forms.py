"""The table of layers' forms: each is tested against its plain form, and has a gain that was measured."""

import re
from pathlib import Path

import pytest

from jaxprop.tools.forms import FORMS, WITHOUT, forms_in_use

FACTS = {"cpu": False, "convolutions": False, "fused_attention": False, "cudnn_lstm": False}
BENCHMARKS = Path(__file__).parents[2] / "scripts" / "BENCHMARKS.md"


def test_without_what_they_need_forms_are_plain():
    rows = forms_in_use(FACTS)
    assert {row["layer"] for row in rows if not row["active"]} == {form.layer for form in FORMS if form.needs}
    assert all(row["why"] == (WITHOUT[row["needs"]] if row["needs"] else "yes") for row in rows)


@pytest.mark.parametrize("fact", FACTS)
def test_each_fact_turns_a_form_on(fact):
    before, after = forms_in_use(FACTS), forms_in_use(FACTS | {fact: True})
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert changed
    assert all(row["needs"] == fact and row["active"] for row in changed)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.layer)
def test_its_gain_is_one_that_was_measured(form):
    rows = re.findall(r"^\| (.+?) \|.*\| (\d\.?\d* to \d+\.?\d*|\d+\.\d+) \|", BENCHMARKS.read_text(), re.MULTILINE)
    assert (form.layer, form.gain) in rows

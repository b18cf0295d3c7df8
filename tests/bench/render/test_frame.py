"""The frame of every page."""

import base64
import hashlib
import re

import pytest

from jaxprop.bench.render.frame import frame, style, table_html, write_page
from jaxprop.bench.render.tables import Table
from jaxprop.errors import UsageError
from tests.bench.documents import EVIL


def test_the_policy_allows_its_own_style_and_nothing_else():
    text = frame("t", ["<p>body</p>"])
    css = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in text
    assert "http:" not in text
    assert "https:" not in text


def test_every_colour_is_defined_for_light_and_dark():
    css = style()
    for i in range(8):
        assert css.count(f"--line-{i}: #") == 2
    assert not re.search(r"LIGHT|DARK|COLOURS", css)
    assert set(re.findall(r"var\((--[\w-]+)\)", css)) <= set(re.findall(r"(--[\w-]+): ", css))


def test_texts_are_escaped():
    assert "<img" not in frame(EVIL, [table_html(Table("", [EVIL], [[EVIL]]))])


def test_a_page_that_cannot_be_written(tmp_path):
    write_page(tmp_path / "a.html", "text", "--html")
    assert (tmp_path / "a.html").read_text() == "text"
    with pytest.raises(UsageError, match=r"none/a.html cannot be written \(.*\); name another file with --html$"):
        write_page(tmp_path / "none" / "a.html", "text", "--html")

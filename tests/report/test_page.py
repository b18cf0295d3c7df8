"""The page's text: everything in it, nothing that could run but its own scripts."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from jaxprop.errors import UsageError
from jaxprop.report.page import SCRIPTS, STYLES, asset, encode, render, target, write
from jaxprop.report.payload import payload
from jaxprop.report.read import Reader
from tests.report.runs import EVIL, evil_run, make_run


class Elements(HTMLParser):
    """Collects elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.found and self.found[-1][0] in ("script", "style") and data.strip():
            self.texts.append((*self.found[-1], data))


def page_of(folder, name, live=False):
    return render(payload([Reader(folder).read()], [name]), live)


def test_names_and_messages_never_become_markup(tmp_path):
    text = page_of(evil_run(tmp_path / "a"), EVIL)
    page = Elements(text)
    assert EVIL not in text
    assert "onerror" not in [name for _, attributes in page.found for name in attributes]
    assert {tag for tag, _ in page.found} == {
        "html", "head", "meta", "title", "style", "body", "main", "noscript", "div", "script",
    }  # fmt: skip
    ((_, _, data),) = [found for found in page.texts if found[1].get("id") == "data"]
    assert json.loads(data)["runs"][0]["name"] == EVIL


def test_only_its_own_scripts_and_styles_are_allowed(tmp_path):
    page = Elements(page_of(make_run(tmp_path / "a"), "a"))
    (policy,) = [
        attributes["content"] for tag, attributes in page.found if tag == "meta" and "http-equiv" in attributes
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["connect-src"], rules["base-uri"]) == ("'none'", "'none'", "'none'")
    assert "unsafe" not in policy
    for tag, names in (("script", SCRIPTS), ("style", STYLES)):
        texts = [text for found, attributes, text in page.texts if found == tag and not attributes]
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]
        assert rules[f"{tag}-src"].split() == hashes
        assert len(hashes) == len(names)


def test_a_live_page_may_ask_its_own_server(tmp_path):
    folder = make_run(tmp_path / "a")
    assert "connect-src 'self';" in page_of(folder, "a", live=True)
    assert 'data-mode="live"' in page_of(folder, "a", live=True)
    assert 'data-mode="still"' in page_of(folder, "a")


@pytest.mark.parametrize("name", [*SCRIPTS, *STYLES])
def test_assets_stay_inside_their_elements(name):
    text = asset(name)
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE)
    assert "\r" not in text


@pytest.mark.parametrize("name", [name for name in SCRIPTS if "/" not in name])
def test_own_scripts_make_no_markup_from_text(name):
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", asset(name))


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = Elements(page_of(make_run(tmp_path / "a"), "a"))
    assert not [attributes for _, attributes in page.found if {"src", "href"} & set(attributes)]
    assert not [name for name in (*SCRIPTS[1:], *STYLES) if re.search(r"url\(|@import|https?://", asset(name))]


@pytest.mark.parametrize("value", ["</script>", "<!--", "\u2028\u2029", "&lt;", "\ud800", "é"])
def test_json_in_a_script_element_reads_back(value):
    text = encode({"a": value})
    assert json.loads(text) == {"a": value}
    assert text.isascii()
    assert not set("<>&") & set(text)


def test_a_number_that_is_not_finite_is_a_fault_of_ours():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"a": float("nan")})


def test_the_licence_of_what_is_not_ours():
    assert "Leon Sorokin" in asset("uplot/LICENSE")
    assert "v1.6.32" in asset("uplot/uPlot.iife.min.js")[:80]


# -- the file -------------------------------------------------------------------------------------


def test_where_it_goes(tmp_path):
    assert target(None, tmp_path) == tmp_path / "report.html"
    assert target(tmp_path, tmp_path / "run") == tmp_path / "report.html"
    assert target(tmp_path / "x.HTM", tmp_path) == tmp_path / "x.HTM"
    with pytest.raises(UsageError, match=r"metrics\.jsonl: expected a file that ends in \.html"):
        target(tmp_path / "metrics.jsonl", tmp_path)


def test_it_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    write(path, "old")
    write(path, "new \ud800")
    assert path.read_text() == "new ?"
    with pytest.raises(UsageError, match=r"none/a\.html cannot be written \(No such file or directory\); name another"):
        write(tmp_path / "none" / "a.html", "x")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match=r"folder\.html cannot be written"):
        write(tmp_path / "folder.html", "x")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder.html", "report.html"]

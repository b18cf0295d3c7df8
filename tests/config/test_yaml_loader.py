import math

import pytest

from jaxprop.config.yaml_loader import parse, parse_value, scalar
from jaxprop.errors import ConfigError

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
SCALARS = {
    "": None, "~": None, "null": None, "NULL": None, "nULL": "nULL",
    "true": True, "False": False, "TRUE": True, "no": "no", "on": "on", "yes": "yes", "y": "y", "off": "off",
    "0": 0, "-7": -7, "+7": 7, "010": 10, "0o10": 8, "0x1F": 31, "1_000": "1_000", "0b1": "0b1", "- 1": "- 1",
    "1e-3": 1e-3, "1E5": 1e5, "1.": 1.0, ".5": 0.5, "-.5e1": -5.0, "1e": "1e", "e5": "e5", ".": ".", "1.2.3": "1.2.3",
    "12:30:45": "12:30:45", "2001-01-01": "2001-01-01", ".inf": math.inf, "-.INF": -math.inf,
    "inf": "inf", "nan": "nan",
    "1" * 5000: "1" * 5000, "\u0663": "\u0663", "7\n": "7\n",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=lambda x: repr(x)[:20])
def test_unquoted_scalars_are_those_of_yaml_1_2(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_scalars(text):
    assert math.isnan(scalar(text))


def test_values_are_plain_python_with_the_line_of_each():
    tree = parse("a: 1e-3\nb:\n  - no\n  - c: '7'\n    d: |\n      5\n", "f.yaml")
    assert tree.value == {"a": 1e-3, "b": ["no", {"c": "7", "d": "5\n"}]}
    assert tree.origins == {
        "": "f.yaml:1", "a": "f.yaml:1", "b": "f.yaml:2", "b.0": "f.yaml:3", "b.1": "f.yaml:4", "b.1.c": "f.yaml:4",
        "b.1.d": "f.yaml:5",
    }  # fmt: skip


def test_number_keys_are_kept_for_the_sections_to_refuse():
    assert parse("{1: x, '1': y}", "f").value == {1: "x", "1": "y"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: !!python/name:os.system\n", "f:2: the tag '!!python/name:os.system' is not allowed"),
        ("a: !!python/object/apply:os.system ['true']\n", "f:1: the tag '!!python/object/apply:os.system'"),
        ("a: !!int '3'\n", "f:1: the tag '!!int' is not allowed"),
        ("a: !mine 3\n", "f:1: the tag '!mine' is not allowed"),
        ("a: ! 3\n", "f:1: the tag '!' is not allowed"),
        ("!!map {a: 1}\n", "f:1: the tag '!!map' is not allowed"),
        ("a: 1\nb: 2\na: 3\n", "f:3: a: written twice (first on line 1); remove one"),
        ("m:\n  a: 1\n  a: 3\n", "f:3: m.a: written twice (first on line 2)"),
        ("a: {b: 1, b: 2}\n", "f:1: a.b: written twice"),
        (BOMB, "f:2: the alias '*a0' is not allowed in a config; write the value out"),
        ("a: &x [1, 2]\nb: *x", "f:2: the alias '*x' is not allowed in a config"),
        ("a: &x [*x]\n", "f:1: the alias '*x' is not allowed in a config"),
        ("a: *nothing\n", "f:1: the alias '*nothing' is not allowed in a config"),
        ("a: [" + "1, " * 20_000 + "]", "f:1: a config has at most 20,000 values"),
        (f"a: {{{'k' * 1000}: {{{'l' * 1000}: 1}}}}", "f:1: a key and those around it have more than 2,000 characters"),
        ("a: 1\n---\nb: 2\n", "f:2: a config is one YAML document"),
        ("x: {a: 1}\ny:\n  <<: {b: 1}\n", "f:3: y: merge keys ('<<') are not supported"),
        ("a: [1, 2\nb: 3\n", "f:2: not valid YAML"),
        ("a:\n\t- 1\n", "f:2: YAML is indented with spaces; replace the tab"),
        ("a: b: c\n", "f:1: not valid YAML: mapping values are not allowed here"),
        ("a: 'x\n", "not valid YAML"),
        ("true: 1\n", "f:1: a key must be text, got true"),
        ("1.5: 1\n", "f:1: a key must be text, got 1.5"),
        ("a:\n  [1, 2]: 3\n", "f:2: a: a key must be text, got a list or mapping"),
        ("a: \x07\n", "f:1: the control character '\\x07' is not allowed in YAML"),
        ("[" * 1200, "f:1: lists or mappings are nested more than 64 deep"),
        ("%YAML 9.9\n---\na: 1\n", "f:1: not valid YAML"),
    ],
)
def test_what_a_config_may_not_hold(text, sentence):
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    assert sentence in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


def test_all_duplicates_at_once():
    with pytest.raises(ConfigError) as caught:
        parse("a: 1\na: 2\nb: {c: 1, c: 2}\n", "f")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-4", 3e-4), ("", None), ("[64, 64]", [64, 64]), ("{a: no}", {"a": "no"}), ("'7'", "7"), ("a b", "a b")],
)
def test_values_of_overrides(text, value):
    tree = parse_value(text, "override")
    assert tree.value == value
    assert set(tree.origins.values()) == {"override"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("run #1.npz", "run #1.npz"),
        ("#1.npz", "#1.npz"),
        ("a#b", "a#b"),
        ("'a #b'", "a #b"),
        ("0.1 # c", "0.1 # c"),  # no number, which whoever reads it will say
        ("[a#b, c]", ["a#b", "c"]),
    ],
)
def test_a_hash_in_an_override_is_part_of_the_text(text, value):
    assert parse_value(text, "override").value == value


@pytest.mark.parametrize("text", ["[1, 2] # c", "{a: 1} #c", "'a' #c"])
def test_a_comment_after_a_structured_override_is_refused(text):
    with pytest.raises(ConfigError, match=r"^override: '# ?c' is a comment in YAML; leave it out"):
        parse_value(text, "override")


@pytest.mark.parametrize("text", ["a: run #1.npz", "a: {b: run #1.npz\n}", "a:\n- run #1/b"])
def test_a_comment_that_looks_like_a_part_of_a_path_is_refused(text):
    with pytest.raises(ConfigError, match=r"#1.+ is a comment in YAML; quote the value, 'run #1.+', or write a space"):
        parse(text, "c.yaml")


@pytest.mark.parametrize(
    "text", ["a: b # see x.y", "a: b #best", "a: b #see x.y", "a: 'b' #x.y", "#x.y\na: b", "a: b\n#x.y"]
)
def test_other_comments_are_comments(text):
    assert parse(text, "c.yaml").value == {"a": "b"}

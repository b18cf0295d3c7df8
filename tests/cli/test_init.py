import json
from pathlib import Path

import pytest

from jaxprop.config.load import load


@pytest.mark.parametrize(
    ("arguments", "file", "task"),
    [
        (["digits"], "digits.yaml", "classify"),
        (["digits", "mine.yaml"], "mine.yaml", "classify"),
        (["digits", "new/folder/mine.yaml"], "new/folder/mine.yaml", "classify"),
        (["digits", "."], "digits.yaml", "classify"),
        (["--task", "language"], "lm.yaml", "language"),
        (["--task", "language", "mine.yaml"], "mine.yaml", "language"),
    ],
)
def test_a_copy_that_loads_and_keeps_its_comments(jaxprop, package, arguments, file, task):
    ran = jaxprop("init", *arguments)
    assert (ran.code, ran.out) == (0, f"wrote {file}; next: jaxprop train {file}\n")
    assert load(file).config.task.name == task
    lines = Path(file).read_text().splitlines()
    assert lines[0] == f"# yaml-language-server: $schema={package}/schema.json"
    assert lines[1:] == (package / ("lm.yaml" if task == "language" else "digits.yaml")).read_text().splitlines()[1:]


def test_nothing_is_overwritten_unless_forced(jaxprop, tmp_path):
    file = tmp_path / "work" / "digits.yaml"
    file.write_text("precious")
    ran = jaxprop("init", "digits")
    assert (ran.code, ran.err) == (2, "error: digits.yaml exists; give another path, or --force to overwrite it\n")
    assert file.read_text() == "precious"
    assert jaxprop("init", "digits", "--force").code == 0
    assert file.read_text() != "precious"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "error: name a packaged config: jaxprop init digits|lm\n"),
        (["digit"], "error: unknown packaged config 'digit'; did you mean 'digits'? (known: digits, lm)\n"),
        (["--task", "lang"], "error: unknown task of a packaged config 'lang'; did you mean 'language'?"),
        (["digits", "x.yaml", "--task", "language"], "error: give NAME or --task, not both\n"),
        (["digits", "/proc/none/x.yaml"], "error: /proc/none/x.yaml: cannot be written: "),
    ],
)
def test_what_cannot_be_copied(jaxprop, arguments, sentence):
    ran = jaxprop("init", *arguments)
    assert ran.code == 2
    assert ran.err.startswith(sentence)


def test_json(jaxprop):
    ran = jaxprop("init", "--task", "language", "new/mine.yaml", "--json")
    path = str(Path("new/mine.yaml").absolute())
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {"command": "init", "run": None, "config": "lm", "path": path}

"""Files and modules of the user: run once, from where they are named, and one sentence for what goes wrong."""

import sys

import pytest

from jaxprop.code.modules import load_module, module_named, named_in, place_of, told
from jaxprop.config.schema.custom import Custom
from jaxprop.errors import UsageError


def section(target):
    return Custom.model_validate({"class": str(target)})


def loaded(path, name="Net"):
    chosen = section(f"{path}:{name}")
    return named_in(load_module(chosen)[0], chosen)


def test_a_file_is_run_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("COUNT", "")
    file = tmp_path / "net.py"
    text = "import os\nos.environ['COUNT'] += 'x'\nclass Net: {}\n"
    file.write_text(text.format("value = 1"))
    first, again = loaded(file), loaded(file)
    assert first is again
    file.write_text(text.format("value = 2"))
    assert loaded(file).value == 2
    import os

    assert os.environ["COUNT"] == "xx"


def test_it_imports_what_lies_beside_it_even_late(tmp_path):
    (tmp_path / "beside_it.py").write_text("WIDTH = 3\n")
    (tmp_path / "later_on.py").write_text("DEPTH = 4\n")
    file = tmp_path / "net.py"
    file.write_text(
        "from beside_it import WIDTH\nclass Net:\n  @staticmethod\n  def depth():\n    import later_on\n"
        "    return later_on.DEPTH\n  width = WIDTH\n"
    )
    net = loaded(file)
    assert (net.width, net.depth()) == (3, 4)
    assert sys.path[-1] == str(tmp_path)


def test_two_files_of_one_name_and_an_installed_package_do_not_meet(tmp_path):
    import yaml

    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "yaml.py").write_text(f"from __future__ import annotations\nclass Net: value = {value}\n")
    assert [loaded(tmp_path / folder / "yaml.py").value for folder in "ab"] == [1, 2]
    assert sys.modules["yaml"] is yaml


def test_dataclasses_find_their_module(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "@dataclass\nclass Net:\n  width: int\n  kind: ClassVar[str] = 'a'\n"
    )
    assert loaded(file)(3).width == 3


BROKEN = {
    "missing": (None, r"there is no file .*net\.py; did you mean 'nets\.py'\?"),
    "syntax": ("class Net\n", r"net\.py is not Python: .* on line 1"),
    "null byte": ("x = 1\0\n", r"net\.py is not Python"),
    "raises": (
        "x = 1\ny = x / 0\n",
        r"net\.py raised ZeroDivisionError on line 2 of net\.py: division by zero when it",
    ),
    "raises below": (
        "import nets\nnets.fail()\n",
        r"net\.py raised RuntimeError on line 3 of nets\.py: two lines when it was imported",
    ),
    "needs a package": ("import nowhere_at_all\n", r"No module named .* pip install nowhere_at_all, or put"),
    "exits": ("raise SystemExit(3)\n", r'net\.py exits when it is imported; put that under if __name__ == "__main__"'),
    "no such name": ("class Nett: pass\n", r"net\.py has no 'Net'; did you mean 'Nett'\?"),
    "not callable": ("Net = 3\n", r"expected net\.py:Net to be a class or a function, got int"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_sentence_for_each_way_to_be_broken(tmp_path, case):
    text, sentence = BROKEN[case]
    (tmp_path / "nets.py").write_text("\ndef fail():\n  raise RuntimeError('two\\nlines')\n")
    if text is not None:
        (tmp_path / "net.py").write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        loaded(tmp_path / "net.py")
    assert "\n" not in str(caught.value)


def test_a_folder(tmp_path):
    (tmp_path / "net.py").mkdir()
    with pytest.raises(UsageError, match=r"net\.py is a folder"):
        loaded(tmp_path / "net.py")


def test_ctrl_c_during_an_import_is_no_mistake_of_the_file(tmp_path):
    (tmp_path / "net.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        loaded(tmp_path / "net.py")


def test_modules_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text("class Net: value = 5\n")
    (tmp_path / "mine" / "bad.py").write_text("1 / 0\n")
    (tmp_path / "mine" / "needs.py").write_text("import nowhere_at_all\n")
    chosen = section("mine.nets:Net")
    module, digest = load_module(chosen)
    assert named_in(module, chosen).value == 5
    assert len(digest) == 64
    with pytest.raises(UsageError, match=r"there is no module 'mine.nests'"):
        module_named("mine.nests")
    with pytest.raises(UsageError, match="raised ZeroDivisionError: division by zero when it was imported"):
        module_named("mine.bad")
    with pytest.raises(UsageError, match=r"mine.needs cannot be imported: No module named 'nowhere_at_all'"):
        module_named("mine.needs")


def test_a_module_of_python_itself_has_no_digest():
    assert load_module(section("itertools:count"))[1] is None


def test_where_an_error_was_raised(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("def Net():\n  raise ValueError('a  b')\n")
    with pytest.raises(ValueError, match="a  b") as caught:
        loaded(file)()
    assert place_of(caught.value) == "line 2 of net.py"
    assert told(caught.value) == "ValueError on line 2 of net.py: a b"
    assert told(ValueError()) == "ValueError: no message"

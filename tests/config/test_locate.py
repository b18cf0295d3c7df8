import os
from pathlib import Path

import pytest

from jaxprop.config import locate as module
from jaxprop.config.locate import MAX_BYTES, locate, packaged, read, schema_comment
from jaxprop.errors import ConfigError


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """A folder of packaged configs, and a working directory."""
    package, work = tmp_path / "package", tmp_path / "work"
    (work / "runs" / "one").mkdir(parents=True)
    package.mkdir()
    (package / "lessons").mkdir()
    for path in (
        package / "digits_cnn.yaml",
        package / "lm.yaml",
        package / "lessons/rates.yaml",
        work / "mine.yaml",
        work / "runs/one/config.yaml",
    ):
        path.write_text("a: 1\n")
    monkeypatch.setattr(module, "packaged_folder", lambda: package)
    monkeypatch.chdir(work)
    return package, work


def test_names_and_paths(folders):
    package, work = folders
    assert list(packaged()) == ["digits_cnn", "lessons/rates", "lm"]
    assert locate("lessons/rates") == package / "lessons" / "rates.yaml"
    assert locate("digits_cnn") == package / "digits_cnn.yaml"
    assert locate("mine.yaml").resolve() == work / "mine.yaml"
    assert locate(work / "mine.yaml") == work / "mine.yaml"
    assert locate("../mine.yaml", work / "runs").resolve() == work / "mine.yaml"
    (work / "plain").write_text("a: 1\n")
    assert locate("plain").resolve() == work / "plain"


def test_a_run_is_given_by_its_folder_or_its_name(folders):
    package, work = folders
    stored = Path("runs/one/config.yaml")
    assert [locate(name) for name in ("one", "runs/one", "runs/one/", "runs/one/config.yaml")] == [stored] * 4
    assert locate(work / "runs" / "one") == work / stored
    (work / "one").mkdir()  # a folder of that name without a config, such as its data
    assert locate("one") == stored
    (work / "runs" / "lm").mkdir()
    (work / "runs" / "lm" / "config.yaml").write_text("a: 1\n")
    assert locate("lm") == package / "lm.yaml"  # a packaged config of the same name goes first


def test_a_base_is_a_file_and_no_run(folders):
    with pytest.raises(ConfigError, match=r"runs/one: is a directory; did you mean '.*runs/one/config.yaml'"):
        locate("runs/one", beside=folders[1])
    with pytest.raises(ConfigError, match="one: no such config"):
        locate("one", beside=folders[1])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("digits_cn", "digits_cn: no such config; did you mean 'digits_cnn'?"),
        ("mine", "mine: no such config; did you mean 'mine.yaml'?"),
        ("mime.yaml", "mime.yaml: no such config; did you mean 'mine.yaml'?"),
        ("configs/digits_cnn.yaml", "no such config; did you mean the packaged config 'digits_cnn'?"),
        ("runs/one/confg.yaml", "did you mean 'runs/one/config.yaml'?"),
        ("nothing/like/it.yaml", "no such config (packaged: digits_cnn, lessons/rates, lm)"),
        ("runs", "runs: is a directory; give a YAML file"),
        ("", "the config's name is empty"),
        ("x" * 300 + ".yaml", "cannot be looked up: File name too long"),
        ("mine.yaml/x.yaml", "no such config"),
        ("\0.yaml", "no such config"),
    ],
)
def test_nothing_there(name, sentence):
    with pytest.raises(ConfigError) as caught:
        locate(name)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"task: caf\xe9\n", "byte 9 is not UTF-8"),
        ("a: 1".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"\x93NUMPY\x01", "byte 0 is not UTF-8"),
        (b"#" * (MAX_BYTES + 1), "larger than 1000 kB"),
    ],
)
def test_files_that_are_no_configs(content, sentence, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_unreadable(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path):
    (tmp_path / "locked.yaml").write_text("a: 1")
    (tmp_path / "locked.yaml").chmod(0)
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        read(tmp_path / "locked.yaml")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(tmp_path / "bom.yaml") == "a: 1\n"


def test_schema_comment_is_relative_beside_the_schema_only(folders):
    package, work = folders
    (package / "schema.json").write_text("{}")
    assert schema_comment(package) == "# yaml-language-server: $schema=schema.json"
    assert schema_comment(work) == f"# yaml-language-server: $schema={package}/schema.json"

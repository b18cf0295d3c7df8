"""`jaxprop validate`, and every kind of bad file it may be given."""

import pytest


@pytest.mark.parametrize("config", ["digits", "../package/digits.yaml"])
def test_a_valid_config(jaxprop, config):
    ran = jaxprop("validate", config, "optimizer.lr=3e-4")
    assert ran.code == 0
    assert ran.out.startswith("OK ")
    assert ran.out.endswith("digits.yaml: classify digits with mlp, sgd, 1 epochs\n")
    assert ran.err == ""


BAD = {
    "unknown key": (b"optimzer: {}\n", "bad.yaml:1: optimzer: unknown key; did you mean 'optimizer'?"),
    "empty": (b"", "bad.yaml: the file is empty"),
    "tag": (b"task: !!python/name:os.system\n", "bad.yaml:1: the tag '!!python/name:os.system' is not allowed"),
    "not UTF-8": (b"task: \xff\n", "bad.yaml: byte 6 is not UTF-8"),
    "cycle": (b"base: bad.yaml\n", "files inherit from each other in a circle: bad.yaml -> bad.yaml"),
    "duplicate": (b"run: {}\nrun: {}\n", "bad.yaml:2: run: written twice (first on line 1)"),
    "list": (b"- 1\n", "bad.yaml:1: expected the sections"),
    "syntax": (b"run: [\n", "bad.yaml:2: not valid YAML"),
    "size": (b"base: digits\ndata: {batch_size: 0}\n", "bad.yaml:2: data.batch_size: expected a number above 0, got 0"),
    "type": (b"base: digits\nrun: {seed: '7'}\n", "bad.yaml:2: run.seed: expected a whole number, got '7'"),
    "contradiction": (b"base: digits\nrun: {steps: 1, epochs: 1}\n", "both steps and epochs are given; remove one"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD)
def test_bad_files(jaxprop, tmp_path, content, sentence):
    (tmp_path / "work" / "bad.yaml").write_bytes(content)
    ran = jaxprop("validate", "bad.yaml")
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("error: ")
    assert sentence in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("digit", "error: digit: no such config; did you mean 'digits'?\n"),
        ("nothing/here.yaml", "error: nothing/here.yaml: no such config (packaged: digits, lm)\n"),
        (".", "error: .: is a directory; give a YAML file\n"),
    ],
)
def test_nothing_to_validate(jaxprop, config, sentence):
    ran = jaxprop("validate", config)
    assert (ran.code, ran.err) == (2, sentence)


def test_all_problems_at_once(jaxprop):
    ran = jaxprop("validate", "digits", "run.seed=x", "optimizer.lrr=1")
    assert ran.err == (
        "error: 2 problems in the configuration\n"
        "  override 'optimizer.lrr=1': optimizer.lrr: unknown key; did you mean 'lr'?\n"
        "  override 'run.seed=x': run.seed: expected a whole number, got 'x'\n"
    )


def test_code_of_ones_own_is_looked_at_as_in_training(jaxprop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def make(width=8):\n    return width\n")
    (tmp_path / "own.yaml").write_text(
        "task: {name: classify}\ndata: {name: digits}\nmodel: {class: 'net.py:make', width: 4}\n"
        "optimizer: {name: adam, lr: 0.1}\nrun: {epochs: 1}\n"
    )
    assert jaxprop("validate", "own.yaml").code == 0
    ran = jaxprop("validate", "own.yaml", "model.widht=3")
    assert ran.code == 2
    assert "widht" in ran.err
    assert "did you mean 'width'" in ran.err


def test_what_another_name_leaves_out_is_told(jaxprop):
    with open("own.yaml", "w", encoding="utf-8") as file:
        file.write("base: ../package/digits.yaml\noptimizer: {name: sgd, lr: 0.1, momentum: 0.9}\n")
    ran = jaxprop("validate", "own.yaml", "optimizer.lr=1e-3")
    assert (ran.code, ran.out.count("note:")) == (0, 0)
    ran = jaxprop("validate", "own.yaml", "optimizer.name=adam")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(
        "note: optimizer.name: adam has no momentum, so that of own.yaml:2 (0.9) is left out\nOK "
    )

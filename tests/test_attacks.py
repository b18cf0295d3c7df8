"""What a stranger's file may try, one row an attack, and what has to come of it: see SECURITY.md.

The attacks on one reader or writer alone stand beside the tests of that module: links and pipes in
`untrusted/test_files.py` and `sinks/test_files.py`, the page in `report/test_browser.py`, its server in
`report/test_serve.py`, YAML in `config/test_yaml_loader.py`, a user's code in `code/test_load.py`.
"""

import contextlib
import gzip
import io
import json
import os
import shutil
import socket
import struct
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from jaxprop import data
from jaxprop.checkpoint import manifest
from jaxprop.cli import main
from jaxprop.config.build import build
from jaxprop.config.load import load
from jaxprop.errors import ConfigError, DataError, JaxpropError, RunFolderError
from jaxprop.report.read import Reader
from jaxprop.run.blackbox import read_box
from jaxprop.run.folder import is_of_fit, read_summary
from jaxprop.run.initial import Weights, read_weights, renamed
from jaxprop.run.opened import open_run
from jaxprop.run.prepared import read as read_prepared
from jaxprop.run.train import train
from jaxprop.untrusted.patterns import fullmatch
from tests.attacks import clean, command, refused, within_bounds

CONFIG = """\
task: {name: classify}
data: {name: arrays, train: data.npz, validation: 0.25, batch_size: 8, prefetch: 0}
model: {name: mlp, hidden: [4]}
optimizer: {name: sgd, lr: 0.1}
run: {steps: 4, eval_every: 4, log_every: 2}
parallel: {devices: 1}
"""
HOSTILE = "</script><img src=x onerror=alert(1)>\x1b[2J\x1b]0;owned\x07\u202e\x9b31m\nerror: none\r"
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data, a configuration and a run of it."""
    folder = tmp_path_factory.mktemp("attacked")
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(48, 5)).astype(np.float32)
    np.savez(folder / "data.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype(np.int32))
    (folder / "small.yaml").write_text(CONFIG)
    before = os.getcwd()
    os.chdir(folder)
    try:
        train(load("small.yaml").config, folder / "runs" / "a", quiet=True)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it, as the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(here):
    return here / "runs" / "a"


def said(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# -- nothing is read or written outside of the folder ----------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "summary.json", "prepared.json", "metrics.jsonl", "layers.jsonl", "alerts.jsonl", "checkpoints",
     "checkpoints/4", "checkpoints/4/run", "checkpoints/4/state", "checkpoints/4/state/manifest.ocdbt", "blackbox"],
)  # fmt: skip
@pytest.mark.parametrize("act", ["eval", "train"])
def test_a_link_in_a_run_is_neither_read_nor_written_through(run, tmp_path, name, act):
    mine, path = tmp_path / "mine", run / name
    if path.exists():
        shutil.move(path, mine)
    else:
        mine.mkdir()
    path.symlink_to(mine)
    before = contents(tmp_path / "mine")
    with pytest.raises(JaxpropError, match=r"is a link, and nothing in a run's folder is read or written through one|"
                                           r"is not a run's folder|no such run"):  # fmt: skip
        train(load("small.yaml", ["run.steps=8"]).config, run, quiet=True) if act == "train" else open_run(run)
    assert contents(tmp_path / "mine") == before
    assert path.is_symlink()


def contents(path):
    if path.is_file():
        return path.read_bytes()
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


def test_a_run_behind_a_link_that_the_user_names_is_used(run, tmp_path):
    (tmp_path / "named").symlink_to(run)
    assert open_run(tmp_path / "named").step == 4


@pytest.mark.parametrize("base", ["../outside.yaml", "{outside}", "link.yaml"])
def test_a_base_outside_of_the_folder_is_not_read(here, tmp_path, base):
    outside = tmp_path / "outside.yaml"
    outside.write_text(CONFIG)
    (here / "link.yaml").symlink_to(outside)
    (here / "over.yaml").write_text(f"base: {base.format(outside=outside)}\n")
    with pytest.raises(ConfigError, match=r"over.yaml:1: base: .* lies outside of the config's folder and of the work"):
        load("over.yaml")


def test_files_that_inherit_from_each_other_without_end(here):
    (here / "0.yaml").write_text(CONFIG)
    for i in range(1, 40):
        (here / f"{i}.yaml").write_text(f"base: {i - 1}.yaml\n")
    with pytest.raises(ConfigError, match=r"base: more than 16 files inherit from each other"):
        load("39.yaml")


# -- no code out of a folder -----------------------------------------------------------------------

MODULES = (
    "jax", "jaxlib", "yaml", "numpy", "typer", "typing", "json", "logging", "sitecustomize",
    "usercustomize", "multiprocessing", "regex",
)  # fmt: skip
# Python itself imports these to find what `-m` names, before anything of jaxprop is run.
OF_PYTHON = ("importlib", "runpy", "pkgutil", "contextlib", "jaxprop")


WAYS = {
    "command": (Path(sys.executable).with_name("jaxprop"),),
    "-m": (sys.executable, "-m", "jaxprop"),
    "-P -m": (sys.executable, "-P", "-m", "jaxprop"),
}


def planted(folder, modules=MODULES):
    """Plants modules that leave a mark when they are run."""
    for name in modules:
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'marked')!r}, 'a').write('{name} ')\nraise SystemExit(9)\n"
        )


@pytest.mark.parametrize("arguments", [["--version"], ["validate", "config.yaml"], ["runs", ".."], ["doctor"]])
@pytest.mark.parametrize("way", WAYS)
def test_modules_in_the_working_directory_are_not_run(run, arguments, way):
    planted(run, MODULES + (OF_PYTHON if way != "-m" else ()))
    ended = command(*arguments, cwd=run, program=WAYS[way])
    assert not (run / "marked").exists(), (run / "marked").read_text()
    assert ended.code in (0, 1, 2), ended


def test_processes_that_are_started_do_not_run_them_either(run):
    planted(run)
    program = "import sys; sys.argv[1:] = ['--version']; from jaxprop.cli import main; main()\n" \
              "import subprocess; sys.exit(subprocess.call([sys.executable, '-c', 'import yaml']))"  # fmt: skip
    (run / "start.txt").write_text(program)
    ended = command(cwd=run, program=(sys.executable, "-P", "-c", program))
    assert ended.code == 0, ended
    assert not (run / "marked").exists()


@pytest.mark.parametrize("command", ["eval", "train", "predict", "export", "explain"])
def test_code_that_a_stored_configuration_names_is_not_run(run, capsys, command):
    text = (run / "config.yaml").read_text()
    (run / "net.py").write_text(f"open({str(run / 'marked')!r}, 'w').write('x')\n")
    (run / "config.yaml").write_text(text[: text.index("model:")] + "model: {class: 'net.py:Net'}\n"
                                     + text[text.index("optimizer:") :])  # fmt: skip
    stored = list(run.glob("checkpoints/*/manifest.json"))
    assert stored
    for path in stored:  # with a digest that fits, as an attacker can make one
        held = manifest.read(path.parent)
        held["config"]["model"] = {"class": "net.py:Net"}
        manifest.write(path, held)
    given = {"train": [run / "config.yaml"], "predict": [run, "data.npz"], "explain": [run / "config.yaml"]}
    code, _, err = said(capsys, command, *given.get(command, [run]))
    assert code in (1, 2), err
    assert not (run / "marked").exists()


def test_a_pickle_is_never_opened(here):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {here / 'marked'}",)

    np.save(here / "harm.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    shutil.copy(here / "harm.npy", here / "harm.npz")
    np.savez(here / "objects.npz", inputs=np.array([Harm()], dtype=object), labels=np.zeros(1))
    for name in ("harm.npy", "harm.npz", "objects.npz"):
        with pytest.raises(JaxpropError):
            data.open_sources(load("small.yaml", [f"data.train={name}"]).config.data, "classify")
    assert not (here / "marked").exists()


# -- work is bounded by what was asked -------------------------------------------------------------


def test_layers_that_are_all_different(run):
    with open(run / "layers.jsonl", "w") as file:
        for i in range(60_000):
            file.write(json.dumps({"step": i + 1, "layer": f"layer{i}", "grad_norm": 1.0, "grad_rms": 1.0}) + "\n")
    ended = command("report", run)
    assert ended.code == 0, ended
    assert "layers.jsonl, of 60,000 layers at 60,000 steps, are more than can be drawn and are left out" in ended.out
    within_bounds(ended)


def test_values_that_are_all_different(run):
    with open(run / "metrics.jsonl", "w") as file:
        for i in range(20_000):
            file.write(json.dumps({"step": i + 1, "split": "train", "loss": 1.0, f"value{i}": 1.0}) + "\n")
    ended = command("report", run)
    assert ended.code == 0, ended
    within_bounds(ended)


@pytest.mark.parametrize("name", ["metrics.jsonl", "layers.jsonl", "alerts.jsonl"])
@pytest.mark.parametrize("act", ["report", "runs"])
def test_a_line_of_a_gigabyte(run, name, act):
    (run / "summary.json").unlink()
    with open(run / name, "ab") as file:
        file.write(b'{"step": 9, "x": "')
        file.seek(2**30, os.SEEK_CUR)  # zeros, and none of them on the disk
        file.write(b'"}\n')
    ended = command(act, run)
    assert ended.code == 0, ended
    within_bounds(ended)


SMALL_FILES = {
    "summary.json": lambda run: read_summary(run),
    "prepared.json": lambda run: read_prepared(run),
    "panels.json": lambda run: Reader(run).read(),
    "lr_find.json": lambda run: Reader(run).read(),
    "config.yaml": lambda run: Reader(run).read(),
}
CONTENTS = {
    "deep": lambda path: path.write_text(DEEP),
    "deep mapping": lambda path: path.write_text('{"a":' * 100_000),
    "a long number": lambda path: path.write_text("9" * 5_000_000),
    "many values": lambda path: path.write_text("[" + "[]," * 10_000_000 + "[]]"),
    "large": lambda path: os.truncate(path, 2**31),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00{"),
}


@pytest.mark.parametrize("name", SMALL_FILES)
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.timeout(60)
def test_a_small_file_of_a_run_that_is_not_one(run, name, content):
    path = run / name
    path.touch()
    CONTENTS[content](path)
    with contextlib.suppress(JaxpropError):
        SMALL_FILES[name](run)  # reads the run without it, or says what is wrong
    is_of_fit(run)


@pytest.mark.parametrize("content", ["a pipe", "deep", "large", "a link to a device", "not UTF-8"])
@pytest.mark.parametrize("act", ["validate", "train", "info"])
@pytest.mark.timeout(60)
def test_a_configuration_that_is_none(here, capsys, content, act):
    CONTENTS[content](here / "small.yaml")
    code, _, err = said(capsys, act, "small.yaml")
    assert code == 2, err
    assert err.startswith("error: small.yaml:"), err


def test_a_socket_in_place_of_a_configuration(here, capsys):
    with socket.socket(socket.AF_UNIX) as held:
        held.bind("s.yaml")
        code, _, err = said(capsys, "validate", "s.yaml")
    assert (code, err) == (2, "error: s.yaml: cannot be read: No such device or address\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &a [x]\nb: &b [*a, *a]\n", ":2: the alias '*a' is not allowed in a config; write the value out"),
        ("x: " + "[" * 500_000, ":1: lists or mappings are nested more than 64 deep"),
        ("x: [" + "1," * 400_000 + "1]", ":1: a config has at most 20,000 values"),
        ("- " * 450_000, ":1: lists or mappings are nested more than 64 deep"),
        ("model:\n  name: mlp\n" + "".join(f"  k{i}: 1\n" for i in range(9000)), "and "),
        ("x: y #" + "/" * 900_000, ":1: #"),
        ("a: b " + "#/" * 450_000, ":1: #/#/"),
    ],
    ids=["alias", "depth", "values", "dashes", "unknown keys", "comment", "comments"],
)
def test_yaml_made_to_take_long(here, text, sentence):
    Path("long.yaml").write_text(text)
    ended = command("validate", "long.yaml")
    refused(ended, sentence, code=2)
    assert len(ended.err) < 1_000_000


SLOW = "(.|.|.|.)+[!-#]"


@pytest.mark.parametrize(
    "key", [f"optimizer.groups=[{{match: '{SLOW}', lr_scale: 2}}]", f"optimizer.decay_mask=['{SLOW}']"]
)
def test_a_pattern_that_backtracks_for_ever(here, key):
    ended = command("train", "small.yaml", key, "optimizer.name=adamw", "--run", "new")
    refused(ended, "takes too long to match", code=2)


LONG = "a" * 200 + "b"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "match",
    [partial(renamed, Weights({LONG: 1}, {}, "x"), {"(a|aa)+$": "x"}), partial(fullmatch, "(a|aa|x)+$", LONG)],
    ids=["map", "the others"],
)
def test_a_pattern_of_initial_weights_that_backtracks_for_ever(match):
    with pytest.raises(ConfigError, match="takes too long to match"):
        match()


def zipped(path, name, write, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open(name, "w", force_zip64=True) as member:
        write(member)


def zeros(member, count):
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (count // 16, 16)})
    for _ in range(count * 4 // 2**22):
        member.write(bytes(2**22))


def test_an_archive_that_expands(here):
    """A file of a megabyte that stands for a gigabyte."""
    zipped("bomb.npz", "inputs.npy", lambda member: zeros(member, 2**28))
    with zipfile.ZipFile("bomb.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        held = io.BytesIO()
        np.save(held, np.zeros(2**24, np.int32))
        archive.writestr("labels.npy", held.getvalue())
    assert Path("bomb.npz").stat().st_size < 2**24
    ended = command("train", "small.yaml", "data.train=bomb.npz", "--run", "new")
    refused(ended, "bomb.npz:inputs: expands to 1 GiB, more than is unpacked into memory")


def test_a_gzipped_idx_file_that_expands(here):
    Path("mnist").mkdir()
    for name, axes in (("train-images-idx3-ubyte.gz", (2**20, 32, 32)), ("train-labels-idx1-ubyte.gz", (2**20,))):
        with gzip.open(Path("mnist", name), "wb") as file:
            file.write(bytes([0, 0, 8, len(axes)]) + b"".join(struct.pack(">I", axis) for axis in axes))
            file.write(bytes(2**20))
    section = build({**load("small.yaml", ["data={name: images, train: mnist}"]).config.model_dump(by_alias=True)}).data
    with pytest.raises(DataError, match=r"says that it expands to 1 GiB, more than 100 times its size; unpack it"):
        data.open_sources(section, "classify")


def test_one_label_of_a_million(here):
    labels = np.zeros(48, np.int64)
    labels[[3, 7]] = 1, 1_000_000
    np.savez("far.npz", inputs=np.zeros((48, 5), np.float32), labels=labels)
    with pytest.raises(DataError, match=r"labels\[7\] is 1000000, so that there would be 1,000,001 classes, 3 of them"):
        data.open_sources(load("small.yaml", ["data.train=far.npz"]).config.data, "classify")


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device", "a folder"])
@pytest.mark.parametrize(
    "section",
    ["{name: arrays, train: X.npz}", "{name: arrays, train_inputs: X.npy, train_labels: X.npy}",
     "{name: table, train: X.csv, target: a}", "{name: table, train: X.parquet, target: a}",
     "{name: text, train: X.txt, tokenizer: char}", "{name: text_labels, train: X.jsonl, text: a, label: b}",
     "{name: images, train: X}", "{name: huggingface, train: X.arrow, inputs: a, label: b}"],
)  # fmt: skip
@pytest.mark.timeout(30)
def test_data_that_are_no_file(here, section, kind):
    name = section.split("X")[1].split(",")[0].split("}")[0]
    path, held = here / f"X{name}", socket.socket(socket.AF_UNIX)
    {"a pipe": lambda: os.mkfifo(path), "a socket": lambda: held.bind(f"X{name}"),
     "a device": lambda: path.symlink_to("/dev/zero"), "a folder": path.mkdir}[kind]()  # fmt: skip
    with contextlib.closing(held), pytest.raises(JaxpropError):
        opened(f"data={section}")


def opened(*overrides):
    return data.open_sources(load("small.yaml", overrides).config.data, "classify")


@pytest.mark.parametrize("kind", ["a pipe", "a long header", "a header beyond the file", "empty", "colliding keys"])
@pytest.mark.timeout(30)
def test_weights_that_are_none(here, kind):
    from safetensors.numpy import save_file

    path = here / "x.safetensors"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "colliding keys":
        save_file({"a.b": np.zeros(1), "a/b": np.ones(1)}, path)
    else:
        headers = {"a long header": 2**27, "a header beyond the file": 2**20, "empty": 0}
        path.write_bytes(struct.pack("<Q", headers[kind]) + b"{}" * (kind != "empty"))
        if kind == "a long header":
            os.truncate(path, 2**28)
    with pytest.raises(JaxpropError, match=r"is not a regular file|its header has|has a/b also as a\.b"):
        read_weights(str(path))


@pytest.mark.parametrize("name", ["box.json", "state.safetensors", "batch.safetensors"])
@pytest.mark.parametrize("content", ["a pipe", "a link to a device", "deep", "large"])
@pytest.mark.timeout(30)
def test_a_black_box_that_is_none(here, name, content):
    folder = here / "runs" / "a" / "blackbox" / "3"
    folder.mkdir(parents=True)
    for one in ("box.json", "state.safetensors", "batch.safetensors", "config.yaml"):
        (folder / one).write_text('{"format": 1}' if one == "box.json" else "{}")
    CONTENTS[content](folder / name)
    with pytest.raises(RunFolderError):
        read_box(folder)


# -- the terminal and the page ---------------------------------------------------------------------


def hostile(run):
    """Gives everything in a run's folder names that a terminal or a page would act on."""
    for name in ("metrics.jsonl", "layers.jsonl", "alerts.jsonl"):
        (run / name).write_text("")
    names = {"step": 1, "split": "train", "loss": 1.0, HOSTILE: 0.5}
    (run / "metrics.jsonl").write_text(json.dumps(names) + "\n" + json.dumps({**names, "split": "eval"}) + "\n")
    layer = {"step": 1, "layer": HOSTILE, "grad_norm": 1.0, "grad_rms": 1.0}
    (run / "layers.jsonl").write_text(json.dumps(layer) + "\n")
    alert = {
        "step": 1,
        "kind": HOSTILE,
        "layer": HOSTILE,
        "severity": "act",
        "message": HOSTILE,
        "value": 1,
        "threshold": 1,
    }
    (run / "alerts.jsonl").write_text(json.dumps(alert) + "\n")
    summary = {
        "status": HOSTILE,
        "step": 1,
        "metrics": {HOSTILE: 1.0},
        "stopped": HOSTILE,
        "best": {HOSTILE: 1, "step": 1},
    }
    (run / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("act", ["report", "report --quiet", "runs", "eval", "train", "explain", "replay", "validate"])
def test_names_reach_the_terminal_without_control_characters(run, capsys, act):
    hostile(run)
    odd = run.with_name("b\x1b[2J\nerror: none\u202e")
    run.rename(odd)
    act, *options = act.split()
    target = odd / "config.yaml" if act in ("train", "explain", "validate") else odd.parent if act == "runs" else odd
    _, out, err = said(capsys, act, target, *options)
    clean(out)
    clean(err)
    assert not any(line.startswith("error: none") for line in (out + err).splitlines())


@pytest.mark.parametrize(
    "text",
    [
        "{'k\\u001b[2J\\nerror: none': 1}",
        'model: {name: "\\e[2J\\nerror: none"}',
        'task: {name: classify, "\\u009b\\n": 2}',
    ],
)
def test_keys_and_values_of_a_configuration_reach_the_terminal_as_text(here, capsys, text):
    Path("odd.yaml").write_text(text.replace("'", '"'))
    code, out, err = said(capsys, "validate", "odd.yaml")
    assert code == 2
    clean(out + err)
    assert not any(line.startswith("error: none") for line in err.splitlines())


def test_the_page_of_a_hostile_run_holds_no_markup_of_its(run, capsys):
    hostile(run)
    assert said(capsys, "report", run, "--quiet")[0] == 0
    page = (run / "report.html").read_text()
    assert "<img" not in page
    assert page.count("</script>") == page.count("<script")
    assert "default-src 'none'" in page


# -- who may read ----------------------------------------------------------------------------------


def test_what_holds_data_or_code_is_the_users_alone(run):
    assert run.stat().st_mode & 0o777 == 0o700

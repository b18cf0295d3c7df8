"""Arguments as the commands' functions receive them."""

from pathlib import Path

import pytest

from jaxprop.cli import app, commands

TRAIN = {"config": "c.yaml", "overrides": (), "run": None, "fresh": False, "json": False}
EVAL = {"run_or_config": "runs/a", "overrides": (), "run": None, "best": False, "json": False}
REPORT = {"runs": [Path("a")], "out": None, "serve": False, "port": None, "html": True}
LESSON = {"name": None, "run": None, "seeds": 3, "fresh": False, "json": False}
INIT = {"name": None, "path": None, "task": None, "force": False}

TABLE = [
    ("train c.yaml", "train", TRAIN),
    (
        "train c.yaml optimizer.lr=1 --run x data.batch_size=2",
        "train",
        TRAIN | {"overrides": ("optimizer.lr=1", "data.batch_size=2"), "run": Path("x")},
    ),
    ("train --json --fresh a.b=1 c.yaml", "train", TRAIN | {"overrides": ("a.b=1",), "fresh": True, "json": True}),
    ("train runs/lr=1/config.yaml a=-1", "train", TRAIN | {"config": "runs/lr=1/config.yaml", "overrides": ("a=-1",)}),
    ("eval runs/a --best --json data.x=1", "eval", EVAL | {"best": True, "json": True, "overrides": ("data.x=1",)}),
    ("eval runs/a --run other", "eval", EVAL | {"run": Path("other")}),
    ("report a", "report", REPORT),
    ("report a b --out x.html", "report", REPORT | {"runs": [Path("a"), Path("b")], "out": Path("x.html")}),
    ("report --serve --port 0 a", "report", REPORT | {"serve": True, "port": 0}),
    ("report a --no-html", "report", REPORT | {"html": False}),
    ("info c.yaml a=1", "info", {"config": "c.yaml", "overrides": ("a=1",)}),
    (
        "gradcheck a.b:c --json --entries 3",
        "gradcheck",
        {"target": "a.b:c", "overrides": (), "examples": 4, "entries": 3, "json": True},
    ),
    (
        "gradcheck c.yaml a=1",
        "gradcheck",
        {"target": "c.yaml", "overrides": ("a=1",), "examples": 4, "entries": 4, "json": False},
    ),
    (
        "explain c.yaml a=1 --layer-limit 5",
        "explain",
        {"config": "c.yaml", "overrides": ("a=1",), "layer_limit": 5, "json": False},
    ),
    (
        "lr-find c.yaml --run x a=1",
        "lr-find",
        {"config": "c.yaml", "overrides": ("a=1",), "run": Path("x"), "json": False},
    ),
    ("doctor --json", "doctor", {"json": True}),
    ("replay runs/a", "replay", {"run": Path("runs/a"), "step": None, "json": False}),
    ("replay runs/a --step 7 --json", "replay", {"run": Path("runs/a"), "step": 7, "json": True}),
    ("lesson", "lesson", LESSON),
    (
        "lesson rates --seeds 1 --run x --fresh",
        "lesson",
        LESSON | {"name": "rates", "seeds": 1, "run": Path("x"), "fresh": True},
    ),
    ("validate c.yaml", "validate", {"config": "c.yaml", "overrides": ()}),
    ("init", "init", INIT),
    ("init a b.yaml --force", "init", INIT | {"name": "a", "path": Path("b.yaml"), "force": True}),
    ("init --task language", "init", INIT | {"task": "language"}),
    ("schema", "schema", {}),
    ("configs", "configs", {}),
]


@pytest.mark.parametrize(("line", "command", "arguments"), TABLE, ids=[row[0] for row in TABLE])
def test_arguments(jaxprop, monkeypatch, line, command, arguments):
    calls = []

    class Module:
        def __init__(self, name):
            self.name = name

        def __getattr__(self, function):
            def call(**given):
                calls.append((f"{self.name}:{function}", given))
                return 3

            return call

    monkeypatch.setattr(app.importlib, "import_module", Module)
    assert jaxprop(*line.split()).code == 3
    assert calls == [(app.COMMANDS[command], arguments)]


def test_every_command_is_in_the_table():
    names = {command.name or command.callback.__name__ for command in commands.app.registered_commands}
    assert names == set(app.COMMANDS)

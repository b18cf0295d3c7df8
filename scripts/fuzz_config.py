"""Reads damaged and nonsensical configurations: each is valid or refused with its file, line and key, quickly.

    python scripts/fuzz_config.py --trials 100000

Each trial changes a shipped configuration at random, as text or as a tree, with values that the JSON Schema names and
with values of wrong types, sizes and characters, and adds overrides; the same seed makes the same trials. A trial fails
if anything but `ConfigError` is raised, if a problem does not say where it is or holds a control character, if it takes
more than a second, or if it leaves the process more than 256 MB larger.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from jaxprop.config.load import load
from jaxprop.config.locate import packaged
from jaxprop.config.schema_json import json_schema
from jaxprop.errors import EXIT_USAGE, ConfigError

SECONDS, MEGABYTES = 1.0, 256
ODD = (
    "", " ", "~", "~nobody/x", "no", "0x1G", "1e999", "-0", "१२", "\u202eabc", "\x00", "\x1b[31m", "\x85", "\ud800",
    "a\nb", "é" * 300, "x" * 5000, "../" * 40 + "etc/passwd", "/dev/zero", "/dev/stdin", "(a|aa)+$", "(" * 300,
    "[" * 200, "{{}}", "%s%n", "name", "class", "base", "null", ".nan", "run #1/b", "9" * 4000, "*a", "&a",
    "!!python/name:os.system", "<<", "champion:x@9", "a.b.c", "0", "digits", "x.py:y", "x.npz",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.0, -0.0, 1e-320, 1e308, float("nan"), float("inf"),
    [], {}, [[]], [None], {"name": None}, {"name": "adam"}, {"class": "x.py:y"}, {1: 2}, {"": ""}, [1, "a", {}],
)  # fmt: skip
PIECES = (
    "\t", "\x00", "\r", "\u2028", "\ufeff", ": ", "- ", "? ", "| ", ">-\n", "#x/y", " #", "'", '"', "[", "]", "{", "}",
    ",", "*a", "&a ", "!!int ", "!x ", "%YAML 9.9\n", "---\n", "...\n", "<<: ", "@", "`", "\\", "1e", ".inf", "~",
    "[" * 2000, "{a: " * 500, "- " * 800, "a: " * 300, "9" * 5000, "x" * 20_000, "[1, " * 60 + "1" + "]" * 60,
)  # fmt: skip


class Trial(NamedTuple):
    """One configuration: the text of its file, and overrides."""

    text: bytes
    overrides: list[str]


class Maker:
    """Makes trials, each from its own seed."""

    def __init__(self) -> None:
        self.texts = [path.read_text(encoding="utf-8") for path in packaged().values()]
        self.trees = [yaml.safe_load(text) for text in self.texts]
        schema = json_schema()
        sections = [schema, *schema["$defs"].values()]
        self.keys = sorted({key for one in sections for key in one.get("properties", {})})
        self.words = sorted({word for one in sections for word in _words(one)})

    def trial(self, seed: int) -> Trial:
        """Returns the trial of a seed."""
        draw = random.Random(seed)
        kind = draw.random()
        if kind < 0.35:
            text = self._damaged(draw)
        elif kind < 0.9:
            text = self._written(draw, self._changed(draw))
        else:
            text = draw.choice(self.texts)
        overrides = [self._override(draw) for _ in range(draw.choice((0, 0, 0, 1, 1, 3)) or (kind >= 0.9))]
        return Trial(text.encode("utf-8", "surrogatepass" if draw.random() < 0.1 else "replace"), overrides)

    def value(self, draw: random.Random, depth: int = 0) -> Any:
        kind = draw.random()
        if kind < 0.35:
            return copy.deepcopy(draw.choice(VALUES))
        if kind < 0.55:
            return draw.choice(ODD)
        if kind < 0.7:
            return draw.choice(self.words)
        if kind < 0.8:
            return draw.choice((draw.randint(-10, 1000), draw.uniform(-2, 2), 10.0 ** draw.randint(-30, 30)))
        if kind < 0.82:
            return _nested(draw.choice((3, 60, 70, 300)))
        if depth > 2:
            return copy.deepcopy(draw.choice(VALUES))
        if kind < 0.9:
            return [self.value(draw, depth + 1) for _ in range(draw.choice((0, 1, 3, 40)))]
        return {draw.choice(self.keys): self.value(draw, depth + 1) for _ in range(draw.choice((1, 2, 5)))}

    def _changed(self, draw: random.Random) -> Any:
        tree = json.loads(json.dumps(draw.choice(self.trees)))
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            place = tree
            while isinstance(place, dict | list) and place and draw.random() < 0.75:
                inner = place[draw.choice(list(place))] if isinstance(place, dict) else draw.choice(place)
                if not isinstance(inner, dict | list) or not inner:
                    break
                place = inner
            if isinstance(place, list):
                place[draw.randrange(len(place))] = self.value(draw)
                continue
            act, known = draw.random(), list(place)
            if act < 0.5 and known:
                place[draw.choice(known)] = self.value(draw)
            elif act < 0.8:
                place[draw.choice(self.keys)] = self.value(draw)
            elif act < 0.9 and known:
                place.pop(draw.choice(known))
            else:
                place[draw.choice(ODD)] = self.value(draw)
        return tree

    def _written(self, draw: random.Random, tree: Any) -> str:
        if draw.random() < 0.5:
            return json.dumps(tree, ensure_ascii=draw.random() < 0.5)
        try:
            return yaml.dump(tree, Dumper=_Dumper, allow_unicode=True, sort_keys=False)
        except (RecursionError, UnicodeError, yaml.YAMLError):
            return json.dumps(tree)

    def _damaged(self, draw: random.Random) -> str:
        text = draw.choice(self.texts)
        for _ in range(draw.choice((1, 1, 2, 5, 20))):
            at = draw.randrange(len(text) + 1)
            to = min(len(text), at + draw.choice((0, 0, 1, 5, 40)))
            given = draw.choice((draw.choice(PIECES), draw.choice(ODD), "", chr(draw.randrange(0x20, 0x2FF))))
            if draw.random() < 0.1:
                other = draw.choice(self.texts)
                given = other[draw.randrange(len(other)) :]
            text = text[:at] + given + text[to:]
        return text

    def _override(self, draw: random.Random) -> str:
        key = ".".join(draw.choice(self.keys) for _ in range(draw.choice((1, 2, 2, 2, 3, 100))))
        if draw.random() < 0.6:
            tree = draw.choice(self.trees)
            section = draw.choice(list(tree))
            inner = tree[section]
            key = f"{section}.{draw.choice(list(inner) or ['x'])}" if isinstance(inner, dict) else section
        value = self.value(draw)
        shown = value if isinstance(value, str) else json.dumps(value)
        return draw.choice((f"{key}={shown}",) * 8 + (key, f"{shown}={key}", f"{key}.0={shown}"))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # what is there twice is written twice
        return data is not self


def _words(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        own = {word for word in [*schema.get("enum", ()), schema.get("const")] if isinstance(word, str)}
        return own.union(*(_words(inner) for inner in schema.values()))
    return set().union(*map(_words, schema)) if isinstance(schema, list) else set()


def _nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


def failure(trial: Trial, file: Path) -> tuple[str, str | None]:
    """Reads a trial; returns how it ended, `valid` or `refused`, and what is wrong with that, or None."""
    file.write_bytes(trial.text)
    before, began = _resident(), time.process_time()
    try:
        load(file, trial.overrides)
        ended, problem = "valid", None
    except ConfigError as error:
        ended, problem = "refused", _wrong(error, file)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        ended, problem = "crashed", f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
    taken, grown = time.process_time() - began, (_resident() - before) / 1e6
    if problem is None and taken > SECONDS:
        problem = f"took {taken:.2f} s"
    if problem is None and grown > MEGABYTES:
        problem = f"grew by {grown:.0f} MB"
    LARGEST.update(seconds=max(LARGEST["seconds"], taken), megabytes=max(LARGEST["megabytes"], grown))
    return ended, problem


LARGEST = {"seconds": 0.0, "megabytes": 0.0}


def _wrong(error: ConfigError, file: Path) -> str | None:
    if error.exit_code != EXIT_USAGE or not error.problems:
        return f"exit code {error.exit_code}, {len(error.problems)} problems"
    for problem in error.problems:
        if not problem.isprintable():
            return f"a control character: {problem!r}"
        if not re.match(rf"{re.escape(str(file))}: |[^\n]*\.yaml:\d+: |override |and \d+ more problems", problem):
            return f"does not say where: {problem!r}"
    return None


def _resident() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> int:
    """Runs the trials and prints what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    maker, ends, problems, began = Maker(), Counter[str](), Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        os.chdir(folder)
        for seed in range(arguments.first, arguments.first + arguments.trials):
            ended, problem = failure(maker.trial(seed), file)
            ends[ended] += 1
            if problem is not None:
                kind = re.sub(r"\d+", "N", problem)[:80]
                problems[kind] += 1
                if problems[kind] <= 3:
                    print(f"seed {seed}: {problem}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{arguments.trials:,} trials in {time.monotonic() - began:.0f} s: {ends['valid']:,} valid, "
        f"{ends['refused']:,} refused, {ends['crashed']:,} crashed, {sum(problems.values()):,} problems; longest "
        f"{LARGEST['seconds']:.2f} s of CPU, largest growth {LARGEST['megabytes']:.0f} MB, peak {peak:.0f} MB"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

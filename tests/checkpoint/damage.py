"""Damage to checkpoints by a seed, and what a restore makes of it; for the tests and `scripts/faults_checkpoint.py`."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxprop.checkpoint import Checkpoints, Restored
from jaxprop.errors import CheckpointError

KINDS = ("bit flipped", "block zeroed", "cut short", "removed")
CAUGHT, HARMLESS, SILENT = "caught", "harmless", "silent"
OLDER, NEWER = 800, 900
_BLOCK = 512


class Trial(NamedTuple):
    """One damage: where and how, and what became of it.

    Args:
      kind: one of `KINDS`.
      file: the kind of file it was done to, as `kind_of` names them.
      outcome: caught, the restore told of it and went on from the older step; harmless, it gave the same bits;
        silent, it gave other bits without a word.
      told: what was said.
    """

    kind: str
    file: str
    outcome: str
    told: str


def kind_of(file: Path) -> str:
    """Returns the kind of a file of a checkpoint, by its path in it.

    Example:
      >>> kind_of(Path("state/d/0123abc")), kind_of(Path("manifest.json"))
      ('state/d/*', 'manifest.json')
    """
    parts = ["*" if set(part) <= set("0123456789abcdef") else part for part in file.parts]
    return "/".join(part for part in parts if part != "ocdbt.process_0")


def trial(folder: Path, expected: object, seed: int) -> Trial:
    """Damages the newest of two checkpoints, restores, and puts back what was there.

    Args:
      folder: with the checkpoints of `OLDER` and `NEWER`, of which nothing else is changed.
      expected: the state that was saved at `NEWER`.
      seed: decides the file and the damage. By file, so that small ones get their share.
    """
    draw, newest = random.Random(seed), folder / str(NEWER)
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    file, kind = draw.choice(files), draw.choice(KINDS)
    whole = file.read_bytes()
    told: list[str] = []
    try:
        _damage(file, whole, kind, draw)
        checkpoints = Checkpoints(folder)
        checkpoints.tell = told.append
        try:
            restored = checkpoints.restore(expected)
        except CheckpointError as error:  # nothing is restored, which is no silence either
            told.append(str(error))
            restored = None
        checkpoints.close()
        outcome = _outcome(restored, expected, told)
    finally:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(whole)
    return Trial(kind, kind_of(file.relative_to(newest)), outcome, "; ".join(told))


def _damage(file: Path, whole: bytes, kind: str, draw: random.Random) -> None:
    if kind == "removed":
        file.unlink()
        return
    content = bytearray(whole)
    if kind == "bit flipped" and content:
        bit = draw.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    if kind == "block zeroed":
        begin = draw.randrange(max(1, len(content)))
        content[begin : begin + _BLOCK] = bytes(len(content[begin : begin + _BLOCK]))
    if kind == "cut short":
        del content[draw.randrange(max(1, len(content))) :]
    file.write_bytes(content)


def _outcome(restored: Restored | None, expected: object, told: list[str]) -> str:
    if restored is not None and restored.step == NEWER:
        return HARMLESS if _same_bits(restored.state, expected) and not told else SILENT
    return CAUGHT if restored is not None and any("is damaged: " in text for text in told) else SILENT


def _same_bits(ours: object, theirs: object) -> bool:
    return all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(_plain(ours)), jax.tree.leaves(_plain(theirs)), strict=True)
    )


def _plain(state: object) -> object:
    def plain(leaf):
        return jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return jax.tree.map(plain, state)


def counted(trials: list[Trial]) -> Counter[tuple[str, str, str]]:
    """How many trials of each file and kind of damage came to each outcome."""
    return Counter((one.file, one.kind, one.outcome) for one in trials)

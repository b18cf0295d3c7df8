"""Damage to checkpoints by a seed, and what a restore makes of it; for the tests and `scripts/faults_checkpoint.py`."""

from __future__ import annotations

import random
import shutil
import tempfile
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
_HEXADECIMAL = set("0123456789abcdef")


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
      >>> kind_of(Path("state/d/0123456789abcdef0123456789abcdef")), kind_of(Path("manifest.json"))
      ('state/d/*', 'manifest.json')
    """
    return "/".join("*" if len(part) == 32 and set(part) <= _HEXADECIMAL else part for part in file.parts)


def trial(folder: Path, expected: object, seed: int) -> Trial:
    """Damages the newest of two checkpoints in a copy of their own, and restores.

    The copy has a path that was not read before, since TensorStore keeps what it has read from a path.

    Args:
      folder: with the checkpoints of `OLDER` and `NEWER`.
      expected: the state that was saved at `NEWER`.
      seed: decides the file and the damage. Odd ones choose among the files, even ones among their bytes.
    """
    draw, told = random.Random(seed), []
    with tempfile.TemporaryDirectory() as place:
        copied = Path(shutil.copytree(folder, Path(place) / "checkpoints"))
        newest = copied / str(NEWER)
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        (file,) = draw.choices(files, None if seed % 2 else [path.stat().st_size for path in files])
        kind = draw.choice(KINDS)
        damage(file, kind, draw)
        with Checkpoints(copied) as checkpoints:
            checkpoints.tell = told.append
            try:
                restored = checkpoints.restore(expected)
            except CheckpointError as error:  # nothing is restored, which is no silence either
                told.append(str(error))
                restored = None
        outcome = _outcome(restored, expected, told)
    return Trial(kind, kind_of(file.relative_to(newest)), outcome, "; ".join(told))


def damage(file: Path, kind: str, draw: random.Random) -> None:
    """Changes, cuts or removes a file.

    Args:
      file: it.
      kind: one of `KINDS`.
      draw: decides the place.
    """
    if kind == "removed":
        file.unlink()
        return
    content = bytearray(file.read_bytes())
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

"""Digests of the user's own code: stored with a run, and compared when it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

from jaxprop.code.modules import load_module
from jaxprop.config.custom import custom_sections, replace_sections
from jaxprop.config.schema.config import Config
from jaxprop.config.tree import dotted

LARGEST = 1_000_000  # bytes of a text that is stored


def with_digests(config: Config) -> Config:
    """Returns a configuration whose sections hold the digests of the code that they have loaded.

    Args:
      config: one whose code has been checked, by `check_code`.
    """
    sections = {
        path: section.model_copy(update={"class_sha256": load_module(section)[1]})
        for path, section in custom_sections(config).items()
    }
    return replace_sections(config, sections)


def differences(before: Config, after: Config) -> Iterator[str]:
    """Yields a sentence for each file whose contents have changed.

    Args:
      before, after: configurations with digests; a section without one is not compared.
    """
    then, told = custom_sections(before), set()
    for path, section in custom_sections(after).items():
        old = then[path].class_sha256 if path in then else None
        new, source = section.class_sha256, section.target.source
        if old is None or new is None or old == new or then[path].target.source != source or source in told:
            continue
        told.add(source)
        yield (
            f"{source} ({dotted(path)}.class) has changed since the run stored its digest: "
            f"{old[:12]} then, {new[:12]} now"
        )


def record(config: Config) -> dict[str, Any]:
    """Returns what a run's `code.json` holds: each file with its digest and its text, which nothing ever runs.

    Args:
      config: with digests.
    """
    files: dict[str, Any] = {}
    for path, section in custom_sections(config).items():
        target = section.target
        held = files.setdefault(target.where, {"sha256": section.class_sha256, "used_for": {}})
        held["used_for"][dotted(path)] = target.name
        if target.is_file:
            held["text"] = _text(File(target.where))
    return files


def _text(file: File) -> str | None:
    try:
        read = file.read_bytes()
    except OSError:
        return None
    return read.decode("utf-8", errors="replace") if len(read) <= LARGEST else None

"""`jaxprop configs`: what is packaged, and what each config says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxprop.config.locate import packaged, read
from jaxprop.errors import EXIT_DONE


def configs() -> int:
    """Prints every packaged config's name and the comment it opens with: its command, time and result."""
    for name, path in packaged().items():
        print("\n  ".join([name, *opening(path)]))
    return EXIT_DONE


def opening(path: Path) -> Iterator[str]:
    """Returns the lines of the comment a config opens with, without the one for editors."""
    for line in read(path).splitlines():
        if not line.startswith("#"):
            return
        if "yaml-language-server" not in line:
            yield line.lstrip("#").strip()

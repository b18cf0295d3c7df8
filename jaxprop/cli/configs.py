"""`jaxprop configs`: the packaged configs, each with the comment that it starts with."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprop.errors import EXIT_DONE


def configs() -> int:
    """List the packaged configs."""
    from jaxprop.config.locate import packaged, read

    for name, path in packaged().items():
        print("\n  ".join([name, *opening(read(path))]))
    return EXIT_DONE


def opening(text: str) -> Iterator[str]:
    """Returns the comment at the start of a config (its command, time and result), without the line for editors.

    Example:
      >>> list(opening("# yaml-language-server: ...\\n# jaxprop train digits_mlp\\ntask: {name: classify}"))
      ['jaxprop train digits_mlp']
    """
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        if "yaml-language-server" not in line:
            yield line.lstrip("#").strip()

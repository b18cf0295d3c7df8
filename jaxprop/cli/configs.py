"""`jaxprop configs`: the packaged configs, each with the comment that it starts with."""

from __future__ import annotations

from collections.abc import Iterator

from jaxprop.cli.arguments import JsonOption
from jaxprop.cli.output import print_result
from jaxprop.errors import EXIT_DONE


def configs(json: JsonOption = False) -> int:
    """List the packaged configs."""
    from jaxprop.config.locate import packaged, read

    found = {name: (path, list(opening(read(path)))) for name, path in packaged().items()}
    if json:
        listed = [{"name": name, "path": str(path), "about": about} for name, (path, about) in found.items()]
        print_result("configs", None, {"configs": listed}, indent=2)
        return EXIT_DONE
    for name, (_, about) in found.items():
        print("\n  ".join([name, *about]))
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

"""Nested values that remember the file and line of each value, so that errors can name them."""

from __future__ import annotations

from typing import Any, NamedTuple

Path = tuple[str | int, ...]


def dotted(path: Path) -> str:
    """Returns a path as it is written on the command line.

    Example:
      >>> dotted(("optimizer", "groups", 0, "match"))
      'optimizer.groups.0.match'
    """
    return ".".join(str(part) for part in path)


class Problem(NamedTuple):
    """The path of a contradiction in a configuration, and the sentence that says how to resolve it."""

    path: Path
    what: str


class Tree(NamedTuple):
    """A value read from a file or from overrides.

    Args:
      value: nested dicts, lists and scalars.
      origins: dotted path -> where that value was written, `file:line` or `override 'key=value'`.
    """

    value: Any
    origins: dict[str, str]

    def origin(self, path: Path) -> str:
        """Returns where the value at a path was written; if it is absent, that of a value inside or around it.

        Example:
          >>> Tree({"run": {"seed": 1}}, {"": "a.yaml:1", "run.seed": "a.yaml:2"}).origin(("run",))
          'a.yaml:2'
        """
        name = dotted(path)
        if name in self.origins:
            return self.origins[name]
        for other, origin in self.origins.items():
            if path and other.startswith(name + "."):
                return origin
        return self.origin(path[:-1]) if path else ""

    def problem(self, path: Path, what: str) -> str:
        """Returns one line of a `ConfigError`: the origin, the dotted path, and what is wrong."""
        return ": ".join(part for part in (self.origin(path), dotted(path), what) if part)

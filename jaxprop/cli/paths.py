"""Paths of many parameters in few words: layers that are alike but for their numbers are told once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def in_few(paths: Iterable[str]) -> list[str]:
    """Returns paths with those that differ in one number alone as one, which has a range of numbers in its place.

    Args:
      paths: with `/` between their parts.

    Example:
      >>> in_few(["blocks/0/qkv/kernel", "blocks/1/qkv/kernel", "blocks/3/qkv/kernel", "head/kernel"])
      ['blocks/0-1,3/qkv/kernel', 'head/kernel']
    """
    found = [tuple(path.split("/")) for path in paths]
    for place in range(max(map(len, found), default=0)):
        alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for parts in found:
            numbered = len(parts) > place and parts[place].isdecimal()
            alike.setdefault((*parts[:place], "", *parts[place + 1 :]) if numbered else parts, []).append(parts)
        found = [parts[0] if len(parts) == 1 else _joined(parts, place) for parts in alike.values()]
    return ["/".join(parts) for parts in found]


def _joined(found: Sequence[tuple[str, ...]], place: int) -> tuple[str, ...]:
    first = found[0]
    return (*first[:place], _ranges(sorted(int(parts[place]) for parts in found)), *first[place + 1 :])


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers, with each row of them by its ends."""
    rows: list[list[int]] = []
    for number in numbers:
        if rows and number == rows[-1][-1] + 1:
            rows[-1][1:] = [number]
        else:
            rows.append([number])
    return ",".join("-".join(map(str, row)) for row in rows)

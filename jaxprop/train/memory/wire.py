"""Reads protocol buffers without their schema, as far as XLA's buffer assignment needs it. Pure.

XLA hands out its programs as serialized messages, and no Python package carries the classes that go with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(message: bytes | memoryview) -> Iterator[tuple[int, Any]]:
    """Yields the fields of one message, in their order: an integer, or the bytes of a string or an inner message.

    Args:
      message: serialized.

    Raises:
      ValueError: the bytes are no message, or end early.

    Example:
      >>> [(number, value) for number, value in fields(b"\\x08\\x96\\x01")]
      [(1, 150)]

    Reference: https://protobuf.dev/programming-guides/encoding/
    """
    data, at = memoryview(message), 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"expected a protocol buffer, got a field of kind {kind}")
        if at + length > len(data):
            raise ValueError("expected a protocol buffer, got one that ends early")
        yield number, data[at : at + length]
        at += length


def numbers(value: int | memoryview) -> list[int]:
    """Returns one occurrence of a repeated integer, which may be packed.

    Example:
      >>> numbers(3), numbers(memoryview(b"\\x01\\x96\\x01"))
      ([3], [1, 150])
    """
    if isinstance(value, int):
        return [value]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("expected a protocol buffer, got one that ends early")

"""The decoded images of a split: in memory where they are to stay there, decoded anew where they are too many."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jaxprop.data.readers.images.decode import Form, UnreadableError, decode
from jaxprop.data.readers.images.records import Records

_CHUNK = 64  # images decoded between two looks at their statistics
_SAMPLE = 2048  # images whose statistics stand for all
_LOOKED_AT = 64  # images that say whether all are grey


class Pixels:
    """Images by index, uint8 `[N, H, W, C]`, decoded when they are first asked for.

    Args:
      records: the images.
      form: what they become; its size and channels are known.
      keep: whether those that have been decoded stay in memory.
    """

    def __init__(self, records: Records, form: Form, *, keep: bool):
        assert form.size is not None
        assert form.channels is not None
        self.keeps = keep
        self.shape = (*form.size, form.channels)
        self.failed: dict[int, str] = {}  # why images cannot be read, of those tried
        self._records, self._form = records, form
        # Zeros take no memory until something is written.
        self._kept = np.zeros((records.length, *self.shape), np.uint8) if keep else None
        self._decoded = np.zeros(records.length if keep else 0, bool)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns some images, uint8 `[B, H, W, C]`; those that cannot be read are zeros, and named in `failed`."""
        if self._kept is None:
            return np.stack(list(self._decode(rows)))
        new = np.unique(rows[~self._decoded[rows]])
        for row, pixels in zip(new.tolist(), self._decode(new), strict=True):
            self._kept[row] = pixels
            self._decoded[row] = True
        return self._kept[rows]

    def check(self, rows: np.ndarray) -> None:
        """Decodes images; those that cannot be read are then named in `failed`."""
        for start in range(0, len(rows), _CHUNK):
            self.take(rows[start : start + _CHUNK])

    def sums(self, rows: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns the number of pixels of those images that can be read, and sums of their values and squares `[C]`."""
        count, total, squares = 0, np.zeros(self.shape[-1], np.int64), np.zeros(self.shape[-1], np.int64)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            images = self.take(part)
            good = np.array([row not in self.failed for row in part.tolist()], bool)
            values = images[good].reshape(-1, self.shape[-1]).astype(np.int64)
            count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
        return count, total, squares

    def _decode(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        each = rows.tolist()
        # A worker process has others beside it, which keep the cores busy.
        if len(each) < 4 or multiprocessing.parent_process() is not None:
            return map(self._one, each)
        return _threads().map(self._one, each)

    def _one(self, row: int) -> np.ndarray:
        try:
            return decode(self._records.read(row), self._form)
        except UnreadableError as error:
            self.failed[row] = str(error)
            return np.zeros(self.shape, np.uint8)


def statistics(parts: Sequence[tuple[Pixels, np.ndarray]]) -> tuple[list[float], list[float]]:
    """Returns the mean and the standard deviation of each channel, of values in 0..1.

    They are of all the images that can be read, or of 2,048 that are evenly spaced among them.

    Args:
      parts: images of one or several sources, and which of each.
    """
    chosen = sample_of(np.arange(sum(len(rows) for _, rows in parts)))
    count, total, squares, start = 0, np.zeros((), np.int64), np.zeros((), np.int64), 0
    for pixels, rows in parts:
        here = chosen[(chosen >= start) & (chosen < start + len(rows))] - start
        more = pixels.sums(rows[here])
        count, total, squares, start = count + more[0], total + more[1], squares + more[2], start + len(rows)
    # Sums of integers are exact, so that their order, and with it the number of threads, changes nothing.
    mean = total / max(count, 1)
    variance = np.maximum(squares / max(count, 1) - mean**2, 0)
    return (mean / 255).tolist(), (np.sqrt(variance) / 255).tolist()


def sample_of(rows: np.ndarray) -> np.ndarray:
    """Returns the rows whose images stand for all: 2,048 that are evenly spaced, or all where they are fewer."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).astype(np.int64))]


def common_form(parts: Sequence[tuple[Records, np.ndarray]], wanted: Form) -> tuple[Form | None, int, int]:
    """Returns the size of the first image that can be read, and the channels of several, unless `wanted` has them.

    Up to 64 images are looked at, evenly spaced among all. They are in colour if one of them is: what grey images
    become in colour loses nothing.

    Args:
      parts: records of one or several sources, and which of each.
      wanted: what the configuration says.

    Returns:
      The form, None where no image can be read; the number of images looked at; and how many of these are grey.
    """
    ends = np.cumsum([len(rows) for _, rows in parts])
    last = int(ends[-1]) - 1
    spaced = set(np.linspace(0, last, min(last + 1, _LOOKED_AT)).astype(np.int64).tolist())
    others = (index for index in range(last + 1) if index not in spaced)  # where none of the former can be read
    found: list[tuple[int, int, int]] = []
    for index in itertools.chain(sorted(spaced), others):
        if found and (wanted.channels is not None or index not in spaced):
            break
        part = int(np.searchsorted(ends, index, side="right"))
        records, rows = parts[part]
        row = int(rows[index - int(ends[part]) + len(rows)])
        try:
            height, width, channels = decode(records.read(row), wanted._replace(size=None)).shape
        except UnreadableError:
            continue
        found.append((height, width, channels))
    if not found:
        return None, 0, 0
    grey = sum(shape[2] == 1 for shape in found)
    channels = 1 if grey == len(found) else 3
    return wanted._replace(size=wanted.size or found[0][:2], channels=channels), len(found), grey


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="jaxprop-decode")

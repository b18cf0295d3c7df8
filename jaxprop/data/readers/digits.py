"""The handwritten digits inside scikit-learn: 1,797 real images of 8 x 8 pixels, no download."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from jaxprop.data.bad import BadInputs
from jaxprop.data.fingerprint import fingerprint
from jaxprop.data.splits import stratified_split
from jaxprop.errors import DataError
from jaxprop.types import Reader, Source

_CLASSES = 10
_BRIGHTEST = 16.0
_INK = f"expected ink from 0 to {_BRIGHTEST:g}"
# The split is the same for every run: the run's seed must not move examples between train and test.
_SPLIT_SEED = 0
_TEST_FRACTION = 0.2


def open_digits() -> dict[str, Source]:
    """Opens the digits, split 80/20 with the same proportion of every class.

    Returns:
      `train` (1,437 examples) and `test` (360) of inputs float32 `[B, 8, 8, 1]` in 0..1 (ink) and
      labels int32 `[B]`.

    Raises:
      DataError: scikit-learn, which holds the images, is not installed.

    Example:
      >>> batch = open_digits()["train"].take(np.arange(2))
      >>> batch["inputs"].shape, batch["labels"].dtype.name
      ((2, 8, 8, 1), 'int32')

    Reference:
      https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits (its test set)
    """
    pixels, labels = load_digits()
    inputs = (pixels.astype(np.float32) / np.float32(_BRIGHTEST)).reshape(-1, 8, 8, 1)
    train, test = stratified_split(labels, _TEST_FRACTION, _SPLIT_SEED)
    return {"train": _source(inputs[train], labels[train]), "test": _source(inputs[test], labels[test])}


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Reads the images from the installed scikit-learn without importing it.

    Importing `sklearn.datasets` takes about two seconds, but reading the file takes ten milliseconds.

    Returns:
      Pixels float64 `[1797, 64]` in 0..16 and labels int32 `[1797]`.

    Raises:
      DataError: scikit-learn is not installed.

    Example:
      >>> pixels, labels = load_digits()
      >>> pixels.shape, labels[:5].tolist()
      ((1797, 64), [0, 1, 2, 3, 4])
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError(
            "data 'digits' is read from scikit-learn, which is not installed; install it with: pip install scikit-learn"
        )
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int32)
    from sklearn.datasets import load_digits as sklearn_digits

    bunch = sklearn_digits()
    return bunch.data, bunch.target.astype(np.int32)


def _source(inputs: np.ndarray, labels: np.ndarray) -> Source:
    return Source(
        length=labels.size,
        take=lambda indices: {"inputs": inputs[indices], "labels": labels[indices]},
        info={"classes": _CLASSES},
        fingerprint=fingerprint("digits", inputs, labels),
        labels=lambda: labels,
    )


def digits_inputs(paths: Sequence[str]) -> Source:
    """Opens images to predict, as arrays of ink from 0 to 16, which `sklearn.datasets.load_digits()` gives.

    Args:
      paths: `.npy` files, or `.npz` files with the array `inputs`, of shape `[N, 8, 8]`, `[N, 8, 8, 1]` or `[N, 64]`.

    Returns:
      Inputs float32 `[B, 8, 8, 1]` in 0..1; `info["names"]` are such as `new.npy:0`, counted from 0, and
      `info["bad"]` holds the images with other ink.

    Raises:
      DataError: the only file cannot be read, or holds no such image.
    """
    bad, images, names = BadInputs(paths), [], []
    for path in paths:
        with bad.reading(path):
            pixels = _images(path)
            values = pixels.reshape(-1, 64)
            fits = ((values >= 0) & (values <= _BRIGHTEST)).all(1)
            good = np.flatnonzero(fits)
            _check_ink(path, pixels, good)
            for row in np.flatnonzero(~fits).tolist():
                extent = f"{values[row].min():g} to {values[row].max():g}"
                bad.add(f"{path}:{row}", f"{_INK}, got {extent}", before=int(np.searchsorted(good, row)))
            bad.good += len(good)
            images.append((values[good].astype(np.float32) / np.float32(_BRIGHTEST)).reshape(-1, 8, 8, 1))
            names += [f"{path}:{row}" for row in good.tolist()]
    inputs = np.concatenate([np.zeros((0, 8, 8, 1), np.float32), *images])
    return Source(
        length=len(inputs),
        take=lambda indices: {"inputs": inputs[indices]},
        info={"names": names, "bad": bad.found},
        fingerprint=fingerprint("digits", inputs),
    )


def _images(path: str) -> np.ndarray:
    if path == "-":
        raise DataError("digits cannot be read from standard input; name a .npy or .npz file")
    try:
        read = np.load(Path(path).expanduser(), allow_pickle=False)
        pixels = np.asarray(read if isinstance(read, np.ndarray) else read["inputs"])
    except KeyError as error:
        raise DataError(f"{path}: has no array 'inputs'; write np.savez({path!r}, inputs=images)") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a .npy or .npz file of numbers ({type(error).__name__})") from error
    if pixels.shape[1:] not in ((8, 8), (8, 8, 1), (64,)) or pixels.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: expected images of shape [N, 8, 8] or [N, 64], got {pixels.dtype}{list(pixels.shape)}"
        )
    return pixels


def _check_ink(path: str, pixels: np.ndarray, good: np.ndarray) -> None:
    """Raises DataError where no image is of ink from 0 to 16, or all are as dark as those of 0 to 1 would be."""
    if not len(good) or pixels[good].max() <= 1:
        extent = f"{pixels.min():g} to {pixels.max():g}" if pixels.size else "no images"
        raise DataError(f"{path}: {_INK}, as sklearn.datasets.load_digits() gives it, got {extent}")


DIGITS = Reader(
    open=lambda _section, _task, _prepared: open_digits(),
    inputs=lambda _section, _task, _prepared, paths: digits_inputs(paths),
)

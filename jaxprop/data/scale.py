"""Inputs far from unit scale: said before training, with the line that fixes it."""

from __future__ import annotations

import numpy as np

SAMPLE = 1024  # examples that are looked at
_LARGE, _SMALL = 10.0, 0.01  # root mean squares of inputs beyond which first weights and learning rates do not fit them
_BYTE = 255.0


def scale_notes(name: str, sample: np.ndarray) -> list[str]:
    """Returns a sentence on inputs that are far from unit scale, for `info["notes"]`; an empty list if none are.

    Inputs are far from it where sqrt(mean(x^2)) is above 10 or below 0.01: of a column of inputs `[N, F]`, otherwise
    of all values, which are of one kind. Inputs that are zero everywhere are not counted.

    Args:
      name: the inputs as a message names them, such as `train.npz:inputs`.
      sample: inputs `[n, ...]` of some examples, as a model would be given them.

    Example:
      >>> scale_notes("x.npy", np.array([[1.0, 900.0], [-1.0, 1100.0]]))[0].partition(";")[0]
      'x.npy: 1 of 2 columns is far from unit scale, such as column 1 with mean 1e+03 and standard deviation 100'
      >>> scale_notes("x.npy", np.array([[1.0], [-1.0]]))
      []
    """
    values = np.asarray(sample, np.float64)
    if not values.size or not np.isfinite(values).all():
        return []
    values = values if values.ndim == 2 else values.reshape(-1, 1)
    size = np.sqrt(np.mean(values**2, axis=0))
    far = np.flatnonzero((size > _LARGE) | ((size < _SMALL) & (size > 0)))
    if not far.size:
        return []
    worst = int(far[np.argmax(np.abs(np.log(size[far])))])
    told = f"mean {values[:, worst].mean():.3g} and standard deviation {values[:, worst].std():.3g}"
    if sample.ndim != 2:
        pixels = values.min() >= 0 and _LARGE < values.max() <= _BYTE
        fix = "inputs = inputs / 255" if pixels else "inputs = (inputs - inputs.mean()) / inputs.std()"
        return [f"{name}: the values are far from unit scale, with {told}; {_WHY}: {fix}"]
    are = "columns are" if len(far) > 1 else f"{'columns' if len(size) > 1 else 'column'} is"
    which = f"{len(far)} of {len(size)} {are} far from unit scale, such as column {worst} with {told}"
    return [f"{name}: {which}; {_WHY}: inputs = (inputs - inputs.mean(0)) / inputs.std(0)"]


_WHY = (
    "training is slow or diverges on such inputs, so save them standardized, with the training data's statistics in "
    "every file"
)

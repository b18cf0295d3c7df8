"""What can go wrong with a checkpoint, as one sentence with the fix."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxprop.errors import CheckpointError


class DamagedError(CheckpointError):
    """A checkpoint is not what was saved.

    Args:
      path: of the checkpoint.
      why: what is wrong with it, such as the leaf that differs.
      fix: what to do about it.
    """

    def __init__(self, path: Path, why: str, fix: str = ""):
        super().__init__(f"the checkpoint {path} is damaged: {why}{f'; {fix}' if fix else ''}")
        self.path, self.why = path, why


def no_such_step(folder: str | Path, step: int, saved: list[int]) -> CheckpointError:
    """Returns the error for a step that was never saved, listing those that were."""
    known = ", ".join(map(str, saved)) or "none"
    return CheckpointError(f"there is no checkpoint of step {step} in {folder}; saved steps: {known}")


@contextlib.contextmanager
def reporting(step: int, folder: Path) -> Iterator[None]:
    """Turns any error while saving `step` into one `CheckpointError` that contains the fix."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint of step {step} could not be written to {folder} ({reason(error)}); "
            "make that folder writable, free space on its disk, or choose another with --run DIR"
        ) from error


def reason(error: BaseException) -> str:
    """Returns the cause of an error in a few words: the text of an operating-system code in it, or its first line.

    Example:
      >>> reason(ValueError("Error writing 5/0.0 in database at ... [os_error_code='28']"))
      'No space left on device'
    """
    text = str(error).strip()
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else text.split("\n")[0][:200] or type(error).__name__

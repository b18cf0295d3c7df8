"""Checkpoints: the whole train state, the data stream's state and the config, saved in the background and verified.

A folder of checkpoints holds

    <step>/state/            the leaves of the `TrainState`, by number (Orbax)
    <step>/manifest.json     path, shape, dtype and digest of every leaf; stream, config and metrics; versions, flags,
                             devices and cores; a digest of itself. Written when all else is on the disk
    damaged/<step>/          checkpoints that were found to differ from their digests: never deleted
    todelete/                checkpoints being deleted: they are moved here first, so that no listed step is incomplete
    .saving-<token>/<step>/  one being written; it is renamed once it is whole
"""

from jaxprop.checkpoint.checkpoints import Checkpoints, Restored
from jaxprop.checkpoint.manifest import stored_config

__all__ = ["Checkpoints", "Restored", "stored_config"]

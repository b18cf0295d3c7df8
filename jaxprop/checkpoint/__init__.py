"""Checkpoints: the whole train state, the data stream's state and the config, saved in the background.

A folder of checkpoints holds

    <step>/state/           the leaves of the `TrainState`, by number (Orbax)
    <step>/run/run.json     the manifest: path, shape and dtype of every leaf; stream, config and metrics
    todelete/               checkpoints being deleted: they are moved here first, so that no listed step is incomplete
"""

from jaxprop.checkpoint.checkpoints import Checkpoints, Restored
from jaxprop.checkpoint.files import stored_config

__all__ = ["Checkpoints", "Restored", "stored_config"]

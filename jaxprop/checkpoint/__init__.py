"""Checkpoints: the whole train state, the data stream's state and the config, saved behind the run's back.

A folder of checkpoints holds

    <step>/state/           the leaves of the `TrainState`, by number (Orbax)
    <step>/run/run.json     path, shape and dtype of every leaf; stream, config and metrics
    todelete/               checkpoints on their way out: renamed first, so that no listed step is ever half deleted
"""

from jaxprop.checkpoint.checkpoints import Checkpoints, Restored
from jaxprop.checkpoint.files import stored_config

__all__ = ["Checkpoints", "Restored", "stored_config"]

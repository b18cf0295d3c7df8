"""Multi-label classification binds and learns."""

import numpy as np


def test_learns(bound, learn):
    labels = np.random.default_rng(0).integers(0, 2, size=(40, 4))
    split = ((labels - 0.5).astype(np.float32), labels)
    config, _, task = bound("multilabel", split, split)
    assert task.spec.sizes == {"classes": 4}
    assert task.reference == {}
    learned = learn(config)
    assert set(learned.after) == {"loss", "accuracy"}
    assert learned.after["loss"] < 0.8 * learned.before["loss"]
    assert learned.after["accuracy"] > 0.8

"""A small valid configuration, as a mapping and as files."""

import pytest

SMALL = """\
task: {name: classify}
data:
  name: digits
  batch_size: 32
model:
  name: cnn
  channels: [8, 16]
  dropout: 0.1
optimizer:
  name: adamw
  lr: 1e-3
  weight_decay: 0.01
  schedule: {name: warmup_cosine, warmup_steps: 100}
  groups: [{match: "head/.*", lr_scale: 10}, {match: "embed/.*", freeze: true}]
run:
  epochs: 10
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The path of a valid config file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return "small.yaml"


@pytest.fixture
def sections():
    """The smallest valid configuration as a mapping."""
    return {
        "task": {"name": "classify"},
        "data": {"name": "digits"},
        "model": {"name": "mlp"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "run": {"epochs": 1},
    }

"""The pieces of `scripts/faultbench.py`: tiny models, planted faults, their runs, the scores and the rescues."""

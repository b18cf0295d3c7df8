"""Measures what a device can do and what a train step gets out of it. Each figure is kept with all of its samples.

`rounds` is the method, the same for every figure. `device/` and `train/` say what is measured. `document` is the file
of results, which `compare`, `history` and `render/` read.
"""

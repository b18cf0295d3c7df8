"""Strict YAML files read into frozen configurations. Nothing in this package imports jax.

`load.load` reads a file, `build.build` takes a plain mapping, and `dump.dump` writes a configuration as YAML.
This module is empty so that listing the packaged configs does not import pydantic.
"""

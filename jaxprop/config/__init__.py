"""Strict YAML files read into frozen configurations. Nothing below this package imports jax.

`load.load` reads a file, `build.build` takes a plain mapping, `dump.dump` writes one back.
This module stays empty so that listing the packaged configs does not import pydantic.
"""

"""The version, in a module of its own so that anyone may read it."""

__version__ = "0.1.0"

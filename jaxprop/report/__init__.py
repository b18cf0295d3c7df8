"""The report on a run: what went wrong and where, curves, and maps of every layer over the steps.

Reading and drawing use NumPy and the standard library; nothing here imports jax.
"""

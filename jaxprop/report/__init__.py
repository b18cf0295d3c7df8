"""A run's folder as one page: what went wrong and where, curves, and maps of every layer over the steps.

Reading and drawing are NumPy and the standard library; nothing here imports jax.
"""

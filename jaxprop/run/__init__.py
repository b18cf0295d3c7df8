"""One configuration becomes one run."""

"""`python -m jaxprop`, the same as the command `jaxprop`."""

import os
import sys

# `python -m` puts the working directory in front of everything that is installed. Where that is a run's folder, a
# `jax.py` in it would be run in place of jax. Python's own -P does the same, from its start.
if not sys.flags.safe_path and sys.path and os.path.abspath(sys.path[0]) == os.getcwd():
    sys.path.append(sys.path.pop(0))  # behind everything, for a checkout that is not installed
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) != os.getcwd():
        sys.path.pop()

from jaxprop.cli import main

if __name__ == "__main__":
    sys.exit(main())

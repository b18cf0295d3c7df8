"""`python -m jaxprop`, the same as the command `jaxprop`."""

import sys

from jaxprop.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Child processes for the tests: none is left behind, however the test ends."""

import contextlib
import subprocess


@contextlib.contextmanager
def started(command, **options):
    """A child process, with text streams, that is killed when the block ends."""
    with subprocess.Popen(command, text=True, **options) as child:
        try:
            yield child
        finally:
            child.kill()  # a child that has ended already is left alone

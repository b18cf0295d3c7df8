"""Runs Python in a process of its own that cannot import jaxprop: whoever loads an exported model has none of it."""

import json
import subprocess
import sys

BLOCK = """\
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jaxprop":
            raise ImportError("jaxprop is not installed here")

sys.meta_path.insert(0, Block())
try:
    import jaxprop
except ImportError:
    pass
else:
    raise SystemExit("the blocker does not block")
"""


def result_of(code, folder):
    """Runs code in a folder and returns the JSON that it prints last."""
    ran = subprocess.run([sys.executable, "-c", BLOCK + code], cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])

import re

import pytest

from jaxprop.checkpoint.failures import reason, reporting
from jaxprop.errors import CheckpointError


def test_errors_become_one_sentence(tmp_path):
    says = re.escape(f"step 5 could not be written to {tmp_path} (disk full);")
    with pytest.raises(CheckpointError, match=says), reporting(5, tmp_path):
        raise OSError("disk full\nand a long story")


def test_an_error_without_a_text_is_named_by_its_kind():
    assert reason(ValueError()) == "ValueError"

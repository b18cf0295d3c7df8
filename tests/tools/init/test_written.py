"""Text is quoted as YAML reads it back."""

import pytest
import yaml

from jaxprop.tools.init.written import quoted


@pytest.mark.parametrize(
    "text", ["a", "a b", "no", "1", "~", "a: b", "a #b", "é", "x/y.csv", "./x", "[a]", "'", '"', "a\nb", " a", "1e3"]
)
def test_quoted_text_is_read_back_by_yaml(text):
    assert yaml.safe_load(f"k: {quoted(text)}") == {"k": text}
    assert yaml.safe_load(f"k: [{quoted(text)}, b]") == {"k": [text, "b"]}

"""Which parameters of a model are at its edges: embeddings, the first layer and the layers that make its outputs. Pure.

Optimizers that treat matrices as linear maps of hidden features, such as Muon, leave these to another one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Modules and arrays that have these names in built-in models and, by custom, in other ones.
NAMED = re.compile(
    r"(.*/)?([^/]*embed[^/]*|w[tp]e|pos_emb|positions?|stem|patchify|cls(_token)?|(lm_|output_|mlm_)?head|logits|"
    r"classifier|readout|depthwise)(/.*)?",
    re.IGNORECASE,
)
# Layers of built-in models that have other names there.
BUILT_IN: dict[str, str] = {
    "mlp": r"layers/0/dense/.*",
    "cnn": r"blocks/0/0/conv/.*",
    "detector": r"stages/0/0/conv/.*|boxes/out/.*|classes/out/.*",
    "conformer": r"convs/0/dense/.*",
    "conv_bilstm": r"convs/0/dense/.*",
}


def edges(model: str | None = None) -> Callable[[str], bool]:
    """Returns a function that tells by its path whether a parameter is at an edge of a model.

    Args:
      model: name of a built-in model; None for any other, of which only names are known.

    Example:
      >>> at_edge = edges("mlp")
      >>> [at_edge(path) for path in ("layers/0/dense/kernel", "layers/1/dense/kernel", "head/kernel")]
      [True, False, True]
    """
    own = re.compile(BUILT_IN.get(model or "", r"(?!)"))
    return lambda path: NAMED.fullmatch(path) is not None or own.fullmatch(path) is not None

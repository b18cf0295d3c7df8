"""Sorts layers into the order of the forward pass, by their names and by the order of the taps. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

FIRST = re.compile(r"(^|[/_.])(embed\w*|wte|wpe|tokens?|positions?|pos_\w+|stem|patch\w*|inputs?)([/_.]|$)", re.I)
FINAL = re.compile(r"(^|[/_.])(final\w*|norm_out|out_norm|ln_f)([/_.]|$)", re.I)
HEAD = re.compile(r"(^|[/_.])(head|lm_head|logits|outputs?|unembed\w*|classifier)([/_.]|$)", re.I)

# Within a block: input projections come before output projections.
INWARD = re.compile(r"(^|[/_.])(qkv|query|key|value|[qkv]_proj|in_proj|up|gate|fc1|wi)([/_.]|$)", re.I)
OUTWARD = re.compile(r"(^|[/_.])(out|out_proj|o_proj|down|fc2|wo)([/_.]|$)", re.I)
BEFORE = re.compile(r"_(norm|ln|layer_norm)$", re.I)


def forward_order(layers: Sequence[str], taps: Sequence[str]) -> list[str]:
    """Sorts layers into the order of the forward pass.

    A layer whose path contains a tap's, as `layers/0/dense` contains `layers/0`, has the position of the tap. Of the
    others, embeddings come first, heads come last, and the rest follow the preceding name in natural order.

    Args:
      layers: names of layers in any order.
      taps: names of taps, in the order of the forward pass.

    Example:
      >>> forward_order(["head", "layers/0", "layers/10", "layers/2"], [])
      ['layers/0', 'layers/2', 'layers/10', 'head']
      >>> forward_order(["a/dense", "b/dense"], ["b", "a"])
      ['b/dense', 'a/dense']
    """
    place = {tap: i for i, tap in enumerate(taps)}
    after_all = max(len(taps), 1)
    before_head = after_all - (1.5 if taps and HEAD.search(taps[-1]) else 0.5)
    at: dict[str, float] = {}
    previous = 0.0
    for name in sorted(layers, key=_natural):
        tap = _tap_of(name, place)
        normed = place.get(BEFORE.sub("", name))
        if normed is not None and name not in place:
            at[name] = previous = normed - 0.25  # `attn_norm` feeds `attn`
        elif tap is not None:
            at[name] = float(tap)
            previous = previous if HEAD.search(name) else at[name]
        elif FIRST.search(name):
            at[name] = -1.0
        elif HEAD.search(name):
            at[name] = after_all
        else:
            at[name] = before_head if FINAL.search(name) else previous
    return sorted(layers, key=lambda name: (at[name], _inner(name), _natural(name)))


def _tap_of(name: str, place: dict[str, int]) -> int | None:
    """The position of the tap at this layer or around it, or else of the first one inside it."""
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        found = place.get("/".join(parts[:end]))
        if found is not None:
            return found
    return min((i for tap, i in place.items() if tap.startswith(f"{name}/")), default=None)


def _inner(name: str) -> int:
    return 0 if INWARD.search(name) else 2 if OUTWARD.search(name) else 1


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

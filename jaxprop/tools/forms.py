"""The forms that layers take in place of the plain ones, with what was measured of them. Loads no jax.

Each has a test that compares value and gradient with the plain form. The gains are those that `scripts/bench_layers.py`
has measured, the least and the most over its sizes, forward and backward; scripts/BENCHMARKS.md names the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

CPU = "on a CPU"


class Form(NamedTuple):
    """One form of a layer.

    Args:
      layer: what it is of.
      form: what is done.
      plain: in place of what.
      needs: a fact about the device without which the plain form is taken; empty for none.
      gain: how many times as fast, forward and backward, where it was measured.
    """

    layer: str
    form: str
    plain: str
    needs: Literal["", "cpu", "convolutions", "fused_attention", "cudnn_lstm"]
    gain: str


FORMS = (
    Form("convolution", "by Eigen, on all cores", "by YNNPACK, as XLA comes", "convolutions", "1.2 to 9.2"),
    Form(
        "dense over [B, T, D]", "a product of two matrices [N, D]", "a product with two leading axes", "", "1.1 to 1.4"
    ),
    Form("max pooling", "the maximum of slices", "reduce_window", "", "10 to 19"),
    Form("LSTM, Elman, wide GRU", "the kernel's gradient as one product", "added up in each step", "", "1.2 to 1.5"),
    Form(
        "LSTM over 8 or more sequences",
        "states as columns, one array for all gates",
        "h U in a scan",
        "cpu",
        "1.1 to 1.9",
    ),
    Form(
        "LSTM of 1024 units, float32, no mask",
        "cuDNN's loop",
        "h U in a scan",
        "cudnn_lstm",
        "1.7",
    ),
    Form("depthwise convolution", "a sum of shifted products", "a convolution in groups", "", "3.6 to 7.5"),
    Form("causal attention", "in four stretches, from 128 tokens on", "all of the masked matrix", "cpu", "1.3 to 1.8"),
    Form("causal attention in 16 bits", "cuDNN's flash attention", "two products", "fused_attention", "4.7"),
)
WITHOUT = {
    "cpu": f"no: only {CPU}",
    "convolutions": f"no: only {CPU} whose compiler takes xla_cpu_experimental_ynn_fusion_type",
    "fused_attention": "no: only on an NVIDIA GPU with cuDNN",
    "cudnn_lstm": "no: only on an NVIDIA GPU with cuDNN",
}


def forms_in_use(facts: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Returns what layers do on a device: for each form whether it is `active`, and why not where it is not.

    Args:
      facts: of the device, by what forms need.

    Example:
      >>> rows = forms_in_use({"cpu": True, "convolutions": True, "fused_attention": False})
      >>> [row["layer"] for row in rows if not row["active"]]
      ['LSTM of 1024 units, float32, no mask', 'causal attention in 16 bits']
    """
    found = []
    for form in FORMS:
        active = not form.needs or facts.get(form.needs, False)
        why = "yes" if active else WITHOUT[form.needs]
        found.append({**form._asdict(), "active": active, "why": why})
    return found

"""What a token costs `jaxprop generate`, by the length of the text before it.

For each length of a prompt, tokens are written with what was read kept (`cache`), and by reading the whole text again
for each of them (`anew`), both compiled, in alternation. Reported are the medians in milliseconds a token.

    python scripts/bench_generate.py [--tokens N] [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprop.config.schema import model as schema
from jaxprop.models import make_model
from jaxprop.models.decoding import make_decoder
from jaxprop.types import Spec

VOCABULARY, CONTEXT = 256, 2048
LENGTHS = (16, 128, 512, 1024, 1900)
MODELS: dict[str, Any] = {
    "transformer, 6 layers of 256": schema.Transformer(name="transformer", layers=6, width=256, heads=8),
    "LSTM, 2 layers of 512": schema.Rnn(name="rnn", cell="lstm", width=512, layers=2),
}


def milliseconds(call: Callable[[], Any], times: int) -> float:
    """Time of one call, of the mean of some."""
    started = time.perf_counter()
    for _ in range(times):
        out = call()
    jax.block_until_ready(out)
    return 1e3 * (time.perf_counter() - started) / times


def measure(section: Any, length: int, tokens: int, rounds: int) -> list[float]:
    """Medians of a token with what was read kept, and of one that reads all anew."""
    spec = Spec({"inputs": jax.ShapeDtypeStruct((CONTEXT,), jnp.int32)}, {"vocabulary": VOCABULARY})
    model, decoder = make_model(section, spec), make_decoder(section, spec)
    text = jax.random.randint(jax.random.key(1), (1, length), 0, VOCABULARY)
    params, extras = jax.jit(model.init)(jax.random.key(0), {"inputs": text})
    held = decoder.room(params, extras, 1, CONTEXT)
    _, held = jax.jit(decoder.extend)(params, extras, text, held, jnp.int32(0))
    extend = jax.jit(decoder.extend, donate_argnums=(3,))
    whole = jax.jit(lambda params, text: model.apply(params, extras, {"inputs": text}, key=None, train=False)[0][:, -1])
    state = {"held": held, "at": length}

    def kept() -> Any:
        logits, state["held"] = extend(params, extras, text[:, :1], state["held"], jnp.int32(state["at"]))
        return logits

    kept(), whole(params, text)  # compiled before they are timed
    found: dict[str, list[float]] = {"cache": [], "anew": []}
    for _ in range(rounds):
        state["at"] = length
        found["cache"].append(milliseconds(kept, tokens))
        found["anew"].append(milliseconds(lambda: whole(params, text), max(1, tokens // 8)))
    return [statistics.median(times) for times in found.values()]


def main() -> None:
    """Measures all models and lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=64, help="written in one round")
    parser.add_argument("--rounds", type=int, default=7, help="of which the median is reported")
    options = parser.parse_args()
    print("| model | text before the token | cache, ms a token | anew, ms a token |\n|---|---:|---:|---:|")
    for name, section in MODELS.items():
        for length in LENGTHS:
            cache, anew = measure(section, length, options.tokens, options.rounds)
            print(f"| {name} | {length} | {cache:.2f} | {anew:.2f} |", flush=True)


if __name__ == "__main__":
    main()

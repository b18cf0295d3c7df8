"""`jaxprop generate`: writes text with a trained language model."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from jaxprop.cli.arguments import CodeOption, JsonOption, RunArgument
from jaxprop.cli.output import print_result
from jaxprop.errors import EXIT_DONE


def generate(
    run: RunArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="text to go on from; - reads standard input")] = "",
    tokens: Annotated[int, typer.Option("--tokens", "-n", metavar="N", min=1, help="number of tokens to write")] = 200,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", min=0, help="0 takes the likeliest token, 1 draws as learned")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option("--top-k", metavar="K", min=1, help="draw among the K likeliest")] = None,
    top_p: Annotated[
        float,
        typer.Option(
            "--top-p", metavar="P", min=0, max=1, help="draw among the likeliest of together this probability"
        ),
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="the same seed writes the same text")] = 0,
    newest: Annotated[bool, typer.Option("--newest", help="use the newest checkpoint instead of the best")] = False,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Write text with a trained language model."""
    from jaxprop.data.tokenizers import restore
    from jaxprop.run.loaded import load
    from jaxprop.tools.generate import Sampling, write

    loaded = load(run, which="newest" if newest else None, code=code or ())
    prompt = sys.stdin.read() if prompt == "-" else prompt
    tokenizer = restore(loaded.opened.prepared.prepared.get("tokenizer"))
    sampling = Sampling(temperature, top_k, top_p)
    started, pieces = time.perf_counter(), []
    show: Callable[[str], None] = (lambda _: None) if json else _show
    shown = prompt  # once there is a token, so that a refusal prints nothing
    for piece in write(loaded, prompt, tokens, sampling=sampling, seed=seed, tokenizer=tokenizer):
        pieces.append(piece)
        show(shown + piece)
        shown = ""
    show("\n")
    if json:
        seconds = time.perf_counter() - started
        values = {"step": loaded.opened.step, "prompt": prompt, "text": "".join(pieces), "tokens": tokens}
        print_result("generate", loaded.folder, {**values, "seed": seed, "seconds": seconds})
    return EXIT_DONE


def _show(text: str) -> None:
    """Prints a piece at once; control characters, with which a text could drive the terminal, are made visible."""
    print(
        "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text), end="", flush=True
    )

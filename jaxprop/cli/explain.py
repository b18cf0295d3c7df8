"""`jaxprop explain`: shows backpropagation in one training step."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxprop.cli.arguments import CodeOption, ConfigArgument, JsonOption, OverridesArgument, split_config
from jaxprop.cli.output import print_result, run_of
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME


def explain(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    layer_limit: Annotated[int, typer.Option("--layer-limit", min=1, help="largest number of rows in a table")] = 30,
    code: CodeOption = None,
    json: JsonOption = False,
) -> int:
    """Show one training step, layer by layer: forward, loss, backward, update.

    The figures are compared with those of the train step; the exit code is 1 if they differ by more than rounding.
    """
    config, changes = split_config(config, overrides)
    from jaxprop.config.load import load

    loaded = load(config, changes, code or ())
    # Imported late, so that a mistake in the file is reported before jax has loaded.
    from jaxprop.tools.explain import explain as take_apart
    from jaxprop.train.explanation import text

    found = take_apart(loaded.config)
    if json:
        print_result("explain", run_of(loaded.path), found._asdict())
    else:
        print(text(found, layer_limit))
    return EXIT_DONE if found.ok else EXIT_RUNTIME

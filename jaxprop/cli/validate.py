"""`jaxprop validate`: checks a config without importing jax, unless code of the user's own does."""

from __future__ import annotations

from jaxprop.cli.arguments import ConfigArgument, JsonOption, OverridesArgument, split_config
from jaxprop.cli.output import print_result, say
from jaxprop.errors import EXIT_DONE


def validate(config: ConfigArgument, overrides: OverridesArgument = None, json: JsonOption = False) -> int:
    """Check a config without importing jax, and list all mistakes."""
    config, changes = split_config(config, overrides)
    from jaxprop.config.custom import custom_sections
    from jaxprop.config.dump import to_builtins
    from jaxprop.config.load import load

    loaded = load(config, changes)  # raises an error with all problems
    found = loaded.config
    own = custom_sections(found).values()
    if own and all(section.permitted for section in own):
        from jaxprop.code.load import check_code

        check_code(found)
    if json:
        values = {"path": str(loaded.path.absolute()), "name": loaded.name, "config": to_builtins(found)}
        print_result("validate", None, values, indent=2)
        return EXIT_DONE
    length = f"{found.run.epochs} epochs" if found.run.epochs else f"{found.run.steps} steps"
    what = f"{found.task.name} {found.data.name} with {found.model.name}, {found.optimizer.name}, {length}"
    for line in loaded.left_out:
        say(f"note: {line}")
    say(f"OK {loaded.path}: {what}")
    return EXIT_DONE

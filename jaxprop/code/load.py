"""Loads the code that a configuration names, and makes it callable with the arguments of its section."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxprop.code.modules import load_module, named_in, told
from jaxprop.code.signature import Parameter, Signature, Wrong, check_arguments, signature_of
from jaxprop.config.custom import custom_sections, refusal
from jaxprop.config.schema.config import Config
from jaxprop.config.schema.custom import Custom
from jaxprop.config.schema.data import CustomData, DataSection
from jaxprop.config.schema.groups import CustomGroupOptimizer
from jaxprop.config.schema.model import CustomModel
from jaxprop.config.schema.optimizer import CustomOptimizer
from jaxprop.config.schema.task import CustomLoss, CustomMetric
from jaxprop.config.schema.teacher import CustomTeacher
from jaxprop.config.tree import Path, Tree
from jaxprop.errors import ConfigError, JaxpropError, UsageError
from jaxprop.types import Metric

SIZES = ("classes", "targets", "vocabulary")
RATES = ("learning_rate", "lr")
# What jaxprop gives by name to code whose signature has the name, by the kind of the section.
SUPPLIED: dict[type[Custom], tuple[str, ...]] = {
    CustomModel: ("rngs", "key", "spec", "input_shape", *SIZES),
    CustomLoss: SIZES,
    CustomMetric: SIZES,
    CustomTeacher: SIZES,
    CustomData: ("task", "prepared", *DataSection.model_fields),
    CustomOptimizer: RATES,
    CustomGroupOptimizer: RATES,
}


class Code(NamedTuple):
    """A class or function of the user's, with the arguments of its section.

    Args:
      path: of the section, such as `("model",)`.
      section: that names it.
      target: the class or function.
      signature: what it takes.
      arguments: what the section gives.
      sha256: digest of the file; None for a module without one.
    """

    path: Path
    section: Custom
    target: Any
    signature: Signature
    arguments: Mapping[str, Any]
    sha256: str | None

    def takes(self, name: str) -> bool:
        """Whether the signature has an argument of a name."""
        return name in self.signature.parameters

    def __call__(self, **supplied: Any) -> Any:
        """Calls it with the arguments of the section, and those of `supplied` that its signature has.

        Raises:
          ConfigError: it raises an error, or an argument is missing; the message names the line.
        """
        values = {name: value for name, value in supplied.items() if self.takes(name)} | dict(self.arguments)
        missing = [name for name in self.signature.required if name not in values]
        if missing:
            had = ", ".join(name for name in supplied if name in SIZES) or "no sizes"
            raise self.wrong(f"{self.section.name} takes {missing[0]}, but the data have {had}", missing[0])
        positional = [p.name for p in self.signature.parameters.values() if p.kind is Parameter.POSITIONAL_ONLY]
        return self._told(self.target, *[values.pop(name) for name in positional if name in values], **values)

    def of_outputs(self, **supplied: Any) -> Any:
        """Returns the function of `(outputs, batch)` that a loss or a metric is, or a `Metric`.

        A function whose second parameter is called `batch` is that function, with the arguments of the section. Any
        other function or class is called with them, and returns it.

        Raises:
          ConfigError: it returns something else.
        """
        if isinstance(self.target, Metric):
            return self.target
        if is_of_outputs(self.target):
            values = {name: value for name, value in supplied.items() if self.takes(name)} | dict(self.arguments)
            return lambda outputs, batch: self._told(self.target, outputs, batch, **values)
        made = self(**supplied)
        if not callable(made):
            raise self.wrong(
                f"expected {self.section.name} to take (outputs, batch, ...), or to return a function of (outputs, "
                f"batch); it returned {type(made).__name__}"
            )
        return made

    def wrong(self, what: str, key: str = "class") -> ConfigError:
        """Returns the error for what is wrong with the code, or with one of its arguments."""
        return ConfigError(_problem(self.path, self.section, key, what))

    def _told(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except JaxpropError:
            raise
        except Exception as error:
            raise self.wrong(f"{self.section.name} raised {told(error)}") from error


def is_of_outputs(function: Any) -> bool:
    """Whether a function takes `(outputs, batch, ...)`: its second parameter is called `batch`.

    Example:
      >>> is_of_outputs(lambda logits, batch, gamma=2.0: logits), is_of_outputs(lambda gamma: gamma)
      (True, False)
    """
    return not isinstance(function, type) and list(signature_of(function).parameters)[1:2] == ["batch"]


def check_code(config: Config) -> None:
    """Loads all code that a configuration names and checks its arguments, so that all mistakes are told together.

    Raises:
      ConfigError: code cannot be loaded, or its arguments do not fit; one line for each problem.
      UsageError: a run names it, and the user has not repeated it.
    """
    problems = []
    for path, section in custom_sections(config).items():
        try:
            load_code(section, path)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def load_code(section: Custom, path: Path) -> Code:
    """Loads the code that a section names.

    Args:
      section: of the configuration.
      path: of the section, for messages.

    Raises:
      ConfigError: there is no such file or name, it raises an error, or its signature does not fit the section's keys.
      UsageError: a run names it, and the user has not repeated it.
    """
    if not section.permitted:
        raise UsageError(refusal(path, section))
    try:
        module, sha256 = load_module(section)
        target = named_in(module, section)
    except UsageError as error:
        raise ConfigError(_problem(path, section, "class", str(error))) from error.__cause__
    signature, supplied = signature_of(target), list(SUPPLIED[type(section)])
    if isinstance(section, CustomLoss | CustomMetric) and is_of_outputs(target):
        named = dict(list(signature.parameters.items())[2:])
        signature = signature._replace(parameters=named)
    arguments, wrong = check_arguments(signature, section.arguments(), supplied, other=_keys(section))
    if isinstance(section, CustomOptimizer | CustomGroupOptimizer):
        wrong += _rate_problems(section, signature)
    if wrong:
        raise ConfigError([_problem(path, section, one.key, one.what) for one in wrong])
    return Code(path, section, target, signature, arguments, sha256)


def _keys(section: Custom) -> list[str]:
    """The keys of a section that are jaxprop's own."""
    return [key for key in type(section).model_fields if key != "class_sha256"]


def _rate_problems(section: CustomOptimizer | CustomGroupOptimizer, signature: Signature) -> list[Wrong]:
    """The learning rate is jaxprop's key, whatever the function calls it."""
    named = [name for name in RATES if name in signature.parameters]
    if "learning_rate" in section.arguments():
        return [Wrong("learning_rate", "unknown key; did you mean 'lr'?")]
    if section.lr is not None and not named and signature.known:
        return [Wrong("lr", f"{section.name} takes no learning_rate; give it that argument, or remove lr")]
    if section.lr is None and any(name in signature.required for name in named):
        return [Wrong("lr", "required key is missing")]
    return []


def _problem(path: Path, section: Custom, key: str, what: str) -> str:
    return Tree({}, dict(section.origins)).problem((*path, *key.split(".")), what)

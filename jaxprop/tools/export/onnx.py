"""Predictions as an ONNX model, converted by `jax2onnx` and compared with the run's own before they are written."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxprop.errors import MissingExtraError, UsageError
from jaxprop.run.loaded import LoadedRun
from jaxprop.tools.export.format import Made, inputs_of, notes_of, prediction_function, shapes_of

FILE = "model.onnx"
# Its requirements would put an older Orbax in place of the installed one, and the conversion needs none of it.
INSTALL = "onnx onnxruntime onnx-ir && pip install --no-deps jax2onnx"
PRECISION = "float32"  # what every runtime of ONNX computes; few have bfloat16 for all operations
TOLERANCE = 1e-3  # of a probability or a value relative to the largest; float32 summed in another order
LOADING = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
names = [output.name for output in session.get_outputs()]
print(dict(zip(names, session.run(None, {{{arguments}}}))))
"""


def make_onnx(run: LoadedRun, batch_size: int | None = None) -> Made:
    """Returns a run's predictions as the content of an ONNX file, for any number of examples.

    Args:
      run: the run.
      batch_size: number of examples that the model takes; None for any.

    Raises:
      MissingExtraError: `jax2onnx` is not installed.
      UsageError: it cannot convert the model, what it makes of it predicts something else, or the run multiplies in
        8 bits.

    Reference:
      https://github.com/enpasos/jax2onnx
    """
    quantize = run.opened.config.precision.quantize
    if quantize is not None:
        raise UsageError(
            f"the export to ONNX computes in {PRECISION}, and this run multiplies in 8 bits (precision.quantize: "
            f"{quantize.name}); use --format stablehlo, whose program multiplies in 8 bits too"
        )
    try:
        with _without_foreign_words():
            from jax2onnx import to_onnx
    except ImportError as error:
        raise MissingExtraError("jax2onnx", "the export to ONNX", INSTALL) from error
    predict = prediction_function(run, PRECISION)
    example = inputs_of(run, predict)
    flat, structure = jax.tree.flatten(example)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), example)
    inputs, outputs = shapes_of(one), shapes_of(jax.eval_shape(predict, one))

    def positional(*arrays: Any) -> tuple[Any, ...]:
        found = predict(jax.tree.unflatten(structure, arrays))
        return tuple(found[name] for name in outputs)

    size: Any = "batch" if batch_size is None else batch_size
    wanted = [jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype) for leaf in flat]
    try:
        with _without_foreign_words():
            model = to_onnx(positional, wanted, input_names=list(inputs), output_names=list(outputs))
    except Exception as error:
        why = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise UsageError(
            f"jax2onnx cannot convert this model ({why}); use --format stablehlo, which takes every model"
        ) from error
    content = model.SerializeToString()
    _compare(content, positional, flat, list(inputs), list(outputs), batch_size)
    arguments = ", ".join(
        f'"{name}": np.zeros({(batch_size or 1, *shape[1:])}, np.{dtype})' for name, (shape, dtype) in inputs.items()
    )
    notes = (*notes_of(run), "It computes in float32.")
    return Made(FILE, content, LOADING.format(arguments=arguments), inputs, outputs, notes)


@contextlib.contextmanager
def _without_foreign_words() -> Iterator[None]:
    """Keeps what jax2onnx and its packages print, log and warn of off the terminal: nobody here can change it.

    With `--verbose`, which sets the level of the logger `jaxprop` to DEBUG, all of it is shown.
    """
    if logging.getLogger("jaxprop").isEnabledFor(logging.DEBUG):
        yield
        return
    before, nowhere = logging.root.manager.disable, io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)  # handlers that were made earlier hold the terminal itself
        try:
            yield
        finally:
            logging.disable(before)


def _compare(
    content: bytes,
    predict: Any,
    example: Sequence[Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    size: int | None,
) -> None:
    """Raises UsageError where the converted model does not predict what the run does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for length in [size] if size else [1, 3]:
        arrays = [
            rng.normal(size=(length, *x.shape)).astype(x.dtype)
            if np.issubdtype(x.dtype, np.floating)
            else np.ones((length, *x.shape), x.dtype)
            for x in example
        ]
        own = predict(*arrays)
        found = session.run(list(outputs), dict(zip(inputs, arrays, strict=True)))
        for name, ours, theirs in zip(outputs, map(np.asarray, own), found, strict=True):
            wide = ours.astype(np.float64)
            if theirs.shape != ours.shape or np.max(abs(wide - theirs), initial=0) > TOLERANCE * max(
                1, abs(wide).max()
            ):
                raise UsageError(
                    f"what jax2onnx makes of this model predicts another {name} for {length} examples; use --format "
                    "stablehlo"
                )

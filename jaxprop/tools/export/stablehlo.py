"""Predictions as one serialized program: StableHLO with the weights built in, for any number of examples."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import jax

from jaxprop.errors import JaxpropError, MissingExtraError, UsageError
from jaxprop.run.loaded import LoadedRun
from jaxprop.tools.export.format import Made, inputs_of, notes_of, prediction_function, shapes_of

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
LOADING = """\
import numpy as np
from jax import export

predict = export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call
print(predict({{{arguments}}}))
"""


def make_stablehlo(run: LoadedRun, batch_size: int | None = None) -> Made:
    """Returns a run's predictions as the content of a file that `jax.export.deserialize` reads.

    Args:
      run: the run.
      batch_size: number of examples that the program takes; None for any.

    Raises:
      MissingExtraError: `flatbuffers` is not installed.
      UsageError: the model's code needs to know the number of examples.

    Reference:
      https://docs.jax.dev/en/latest/export/export.html
    """
    from jax import export

    if find_spec("flatbuffers") is None:
        raise MissingExtraError("flatbuffers", "the export to StableHLO")
    predict = prediction_function(run)
    inputs = inputs_of(run, predict)
    size: Any = export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), inputs)
    exported, notes = _exported(predict, batch, batch_size)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), inputs)
    shapes = shapes_of(one)
    arguments = ", ".join(
        f'"{name}": np.zeros({(batch_size or 1, *shape[1:])}, np.{dtype})' for name, (shape, dtype) in shapes.items()
    )
    loading = LOADING.format(arguments=arguments)
    outputs = shapes_of(jax.eval_shape(predict, one))
    return Made(FILE, bytes(exported.serialize()), loading, shapes, outputs, (*notes_of(run), *notes))


def _exported(predict: Any, batch: Any, batch_size: int | None) -> tuple[Any, tuple[str, ...]]:
    from jax import export

    try:
        return export.export(jax.jit(predict), platforms=PLATFORMS)(batch), _platforms(PLATFORMS)
    except JaxpropError:
        raise
    except Exception as error:
        first = error
    # A model whose code chooses by the platform, as for an attention kernel, has one that it was made for.
    here = export.default_export_platform()
    try:
        return export.export(jax.jit(predict), platforms=[here])(batch), _platforms((here,))
    except Exception:
        why = str(first).strip().split("\n")[0]
        if batch_size is None:
            raise UsageError(
                f"the model cannot be exported for any number of examples ({why}); give one with --batch-size N"
            ) from first
        raise UsageError(f"the model cannot be exported to StableHLO ({why}); use --format safetensors") from first


def _platforms(names: tuple[str, ...]) -> tuple[str, ...]:
    return (f"The program runs on {', '.join(names)}.",)

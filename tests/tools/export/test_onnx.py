"""Predictions as an ONNX model: the same numbers, without jaxprop and jax; refusals in one sentence."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jaxprop.errors import MissingExtraError, UsageError
from jaxprop.tools.export import export_run
from tests.tools.export.alone import result_of
from tests.tools.export.models import CASES, run_of

LOAD = """\
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
names = [output.name for output in session.get_outputs()]
x = np.load("x.npy")
found = [dict(zip(names, [y.tolist() for y in session.run(None, {"inputs": x[:n]})])) for n in (7, 1, 3)]
assert "jax" not in sys.modules
print(json.dumps(found))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_the_same_predictions_for_other_numbers_of_examples_without_jaxprop(case, tmp_path):
    pytest.importorskip("jax2onnx")
    run, x = run_of(case, tmp_path)
    export_run(run, "onnx", tmp_path / "out")
    np.save(tmp_path / "out" / "x.npy", x)
    for size, alone in zip((7, 1, 3), result_of(LOAD, tmp_path / "out"), strict=True):
        own = run.predict(x[:size])
        assert set(own) == set(alone)
        for name, values in own.items():
            assert np.allclose(values, np.asarray(alone[name]), atol=1e-2 if case == "bfloat16" else 1e-5), name


def install(monkeypatch, to_onnx):
    monkeypatch.setitem(sys.modules, "jax2onnx", None if to_onnx is None else SimpleNamespace(to_onnx=to_onnx))


def test_without_its_package_the_command_says_what_to_install(tmp_path, monkeypatch):
    run, _ = run_of("mlp", tmp_path)
    install(monkeypatch, None)
    with pytest.raises(MissingExtraError, match="pip install --no-deps jax2onnx") as caught:
        export_run(run, "onnx", tmp_path / "out")
    assert "pip install jax2onnx" not in str(caught.value)


def test_what_cannot_be_converted_is_one_sentence(tmp_path, monkeypatch):
    run, _ = run_of("mlp", tmp_path)

    def fails(*_, **__):
        raise NotImplementedError("no plugin for primitive 'foo'\nmore")

    install(monkeypatch, fails)
    with pytest.raises(UsageError, match=r"convert this model \(no plugin for primitive 'foo'\); use") as caught:
        export_run(run, "onnx", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_that_predicts_something_else_is_not_written(tmp_path, monkeypatch):
    to_onnx = pytest.importorskip("jax2onnx").to_onnx
    run, _ = run_of("mlp", tmp_path)

    def doubled(predict, inputs, **given):
        return to_onnx(lambda x: tuple(y + y for y in predict(x)), inputs, **given)

    install(monkeypatch, doubled)
    with pytest.raises(UsageError, match="what jax2onnx makes of this model predicts another"):
        export_run(run, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def chatty(monkeypatch):
    """A converter that warns, logs and prints before it fails."""

    def to_onnx(*_, **__):
        logging.getLogger("onnx_ir").warning("a word of onnx_ir")
        print("a word of stderr", file=sys.stderr)
        print("a word of stdout")
        raise NotImplementedError("no plugin")

    install(monkeypatch, to_onnx)


@pytest.mark.parametrize("verbose", [False, True])
def test_what_other_packages_say_is_kept_for_verbose(tmp_path, monkeypatch, capsys, caplog, verbose):
    run, _ = run_of("mlp", tmp_path)
    chatty(monkeypatch)
    level = logging.getLogger("jaxprop").level
    logging.getLogger("jaxprop").setLevel(logging.DEBUG if verbose else level)
    capsys.readouterr()
    try:
        with pytest.raises(UsageError, match="no plugin"):
            export_run(run, "onnx", tmp_path / "out")
    finally:
        logging.getLogger("jaxprop").setLevel(level)
    said = capsys.readouterr()
    assert ("a word of stdout" in said.out, "a word of stderr" in said.err) == (verbose, verbose)
    assert ("a word of onnx_ir" in caplog.text) is verbose
    assert logging.root.manager.disable == 0

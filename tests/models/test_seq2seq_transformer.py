"""Encoder and decoder: padding, causality, what is attended to, and lengths that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxprop.config.schema import model as schema
from jaxprop.errors import ConfigError, ShapeError
from jaxprop.models.seq2seq_transformer import Seq2SeqTransformer
from jaxprop.types import Spec
from tests.models.pairs import LENGTHS, SPEC, S, T, V, alone, batch_of_pairs, made

KINDS = ("rope", "learned", "modern")


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_result(kind):
    model, params, extras = made(kind)
    apply = jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])
    batch = batch_of_pairs()
    together = apply(batch)
    assert together.shape == (len(LENGTHS), T, V)
    for row, (_, target) in enumerate(LENGTHS):
        np.testing.assert_allclose(together[row, :target], apply(alone(batch, row))[0], rtol=2e-4, atol=2e-5)
    # whatever the padding of the source holds, tokens outside the vocabulary too
    other = {**batch, "inputs": np.where(batch["input_mask"] > 0, batch["inputs"], 99).astype(np.int32)}
    np.testing.assert_array_equal(apply(other), together)
    unmasked = {name: value for name, value in batch.items() if name != "input_mask"}
    assert np.abs(apply(unmasked)[1] - together[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_sees_all_of_the_source_and_its_own_past(kind):
    model, params, extras = made(kind)
    apply = jax.jit(lambda batch: model.apply(params, extras, batch, key=None, train=False)[0])
    batch = batch_of_pairs()
    outputs = apply(batch)
    later = batch["targets"].copy()
    later[0, 4:] = 1 + later[0, 4:] % (V - 1)
    moved = apply({**batch, "targets": later})
    np.testing.assert_allclose(moved[0, :4], outputs[0, :4], atol=1e-5)
    assert np.abs(moved[0, 4:] - outputs[0, 4:]).max() > 1e-3
    last = batch["inputs"].copy()
    last[0, -1] = 1 + last[0, -1] % (V - 1)
    assert np.abs(apply({**batch, "inputs": last})[0, 0] - outputs[0, 0]).max() > 1e-4


def test_tied_embeddings_have_no_head():
    def heads(**options):
        config = schema.Seq2SeqTransformer(name="seq2seq_transformer", layers=1, width=8, heads=2, **options)
        return nnx.eval_shape(lambda: Seq2SeqTransformer(config, SPEC, rngs=nnx.Rngs(0))).head

    assert heads() is None
    assert heads(tie_embeddings=False).kernel.shape == (8, V)


def test_texts_longer_than_the_positions():
    config = schema.Seq2SeqTransformer(name="seq2seq_transformer", layers=1, width=8, heads=2, positions="learned")
    tokens = [jnp.zeros((1, n), jnp.int32) for n in (S + 1, T)]
    with pytest.raises(ShapeError, match=r"at most 8 tokens, .* got 9; use positions: rope"):
        nnx.eval_shape(lambda: Seq2SeqTransformer(config, SPEC, rngs=nnx.Rngs(0))(*tokens))


def test_what_does_not_fit():
    config = schema.Seq2SeqTransformer(name="seq2seq_transformer", layers=1, width=9, heads=2)
    with pytest.raises(ConfigError, match="write width: 12"):
        Seq2SeqTransformer(config, SPEC, rngs=nnx.Rngs(0))
    one = Spec({"inputs": SPEC.batch["inputs"]}, SPEC.sizes)
    with pytest.raises(ShapeError, match=r"expected pairs of texts: integer inputs \[S\] and targets \[T\], .*inputs"):
        Seq2SeqTransformer(config, one, rngs=nnx.Rngs(0))

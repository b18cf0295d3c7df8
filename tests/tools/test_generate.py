"""Generating: what is drawn, that the same seed writes the same, and texts that outgrow the context."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprop.config.build import build
from jaxprop.errors import UsageError
from jaxprop.run.loaded import load
from jaxprop.run.train import train
from jaxprop.tools.generate import Sampling, Writer, _pieces, sample

BASE = {
    "task": {"name": "language"},
    "data": {"name": "random", "shape": [16], "vocabulary": 11, "examples": 32, "batch_size": 8},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "parallel": {"devices": 1},
    "health": {"layers": False},
    "run": {"steps": 2},
}
MODELS = {
    "transformer": {"name": "transformer", "layers": 1, "width": 16, "heads": 2},
    "learned": {"name": "transformer", "layers": 1, "width": 16, "heads": 2, "positions": "learned"},
    "rnn": {"name": "rnn", "width": 8},
}


@pytest.fixture(scope="module", params=MODELS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate") / request.param
    train(build({**BASE, "model": MODELS[request.param]}), folder, quiet=True)
    return load(folder)


def likeliest(run, text, count):
    """Greedy decoding by the whole model, reading everything for each token."""
    text = list(text)
    for _ in range(count):
        batch = {"inputs": np.array([text], np.int32)}
        logits, _ = run.model.apply(run.params, run.extras, batch, key=None, train=False)
        text.append(int(logits[0, -1].argmax()))
    return text


@pytest.mark.parametrize("prompt", [[3], [1, 2, 3, 4, 5]])
def test_the_likeliest_tokens_are_those_of_the_whole_model(run, prompt):
    written = list(Writer(run, Sampling(temperature=0)).tokens(np.array(prompt), 10, seed=0))
    assert prompt + written == likeliest(run, prompt, 10)


def test_a_text_that_outgrows_the_context_goes_on_from_its_end(run):
    written = [3, *Writer(run, Sampling(temperature=0)).tokens(np.array([3]), 40, seed=0)]
    assert len(written) == 41
    # Up to the 17th token all is read; then the last 8 tokens, which grow again until they are 16.
    assert written[:17] == likeliest(run, [3], 16)
    assert written[17:25] == likeliest(run, written[9:17], 8)[8:]


def test_the_same_seed_writes_the_same(run):
    writer = Writer(run, Sampling(temperature=1.0))
    first, again, other = (list(writer.tokens(np.array([1]), 12, seed)) for seed in (4, 4, 5))
    assert first == again != other


def test_a_prompt_beyond_the_context(run):
    with pytest.raises(UsageError, match="the prompt has 17 tokens, and the model was trained with a context of 16"):
        next(Writer(run, Sampling()).tokens(np.zeros(17, int), 1, seed=0))


def test_a_run_of_another_task(tmp_path):
    config = {**BASE, "task": {"name": "classify"}, "model": {"name": "mlp", "hidden": [4]}}
    train(build(config), tmp_path / "run", quiet=True)
    with pytest.raises(UsageError, match="trained for the task classify, which writes no text; use jaxprop predict"):
        Writer(load(tmp_path / "run"), Sampling())


LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))


def shares(sampling, draws=4000):
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = jax.vmap(lambda key: sample(LOGITS, key, sampling)[0])(keys)
    return np.bincount(drawn, minlength=4) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(top_k=9), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(top_p=0.7), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.4), [1, 0, 0, 0]),
        (Sampling(top_p=0.0), [1, 0, 0, 0]),
        (Sampling(temperature=0), [1, 0, 0, 0]),
        (Sampling(temperature=0.5), np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365),
    ],
)
def test_tokens_are_drawn_in_proportion(sampling, expected):
    np.testing.assert_allclose(shares(sampling), expected, atol=0.03)


def test_a_character_of_several_tokens_comes_whole():
    decode = SimpleNamespace(decode=lambda tokens: bytes(tokens).decode("utf-8", "replace")).decode
    assert list(_pieces(iter("aé€".encode()), decode, [])) == ["a", "é", "€"]
    assert "".join(_pieces(iter([0xE2, 0x82]), decode, b"x")) == "\ufffd"


def tokenizer_of(kind):
    """Metaspace, as of Llama: a space is part of the word after it. WordPiece, as of BERT: ## goes on a word."""
    tokenizers = pytest.importorskip("tokenizers")
    model, trainer, split, decoder = {
        "metaspace": ("BPE", "BpeTrainer", "Metaspace", "Metaspace"),
        "word_piece": ("WordPiece", "WordPieceTrainer", "Whitespace", "WordPiece"),
    }[kind]
    made = tokenizers.Tokenizer(getattr(tokenizers.models, model)(unk_token="?"))
    made.pre_tokenizer = getattr(tokenizers.pre_tokenizers, split)()
    made.decoder = getattr(tokenizers.decoders, decoder)()
    how = getattr(tokenizers.trainers, trainer)(vocab_size=60, special_tokens=["?"], show_progress=False)
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, how)
    return made


@pytest.mark.parametrize("kind", ["metaspace", "word_piece"])
@pytest.mark.parametrize("given", [0, 1, 4])
def test_pieces_together_are_the_text(kind, given):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode("the quick brown foxes jump over the lazy dogs").ids
    prompt = tokens[:given]
    written = "".join(_pieces(iter(tokens[given:]), tokenizer.decode, prompt))
    assert tokenizer.decode(prompt) + written == tokenizer.decode(tokens)
    assert written.count(" ") >= 5

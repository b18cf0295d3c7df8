"""Translation: a text for each text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprop.config.schema.config import Config
from jaxprop.config.schema.lora import Lora
from jaxprop.config.widths import base_of
from jaxprop.core.examples import row_weights
from jaxprop.core.overrides import cast_params, computing
from jaxprop.core.precision import Policy
from jaxprop.data.tokenizers import Tokenizer, restore
from jaxprop.errors import DataError
from jaxprop.metrics.translation import (
    bleu_order,
    figures_of_counts,
    need_sacrebleu,
    translation_counts,
    translation_figures,
)
from jaxprop.models import no_outputs
from jaxprop.models.decoding import Writer, make_writer
from jaxprop.models.lora import merged
from jaxprop.models.search import Written, beam_search, greedy, repeated
from jaxprop.tasks.language import predict
from jaxprop.tasks.panels import attention_of_worst, worst_translations
from jaxprop.tasks.task import Answer, Task, bind
from jaxprop.tasks.words import number
from jaxprop.train.objective import without_padding
from jaxprop.types import Batch, Metric, Objective, PyTree, Rows, Source, Sums

__all__ = ["predict", "translate", "write"]


def translate(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds softmax cross-entropy a token, and the figures of greedy translations: BLEU, chrF and exact matches.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on, as of `jaxprop.data.readers.pairs`; `info` holds `vocabulary`, and
        `begin` and `end`, the tokens at the ends of a text.

    Returns:
      The task; its reference is the score of empty translations.

    Raises:
      DataError: the data are no pairs of texts.
      MissingExtraError: there is a split to evaluate on, and sacrebleu is not installed.
    """
    train = sources["train"]
    model, objective, spec = bind(config, train)
    if model.apply is no_outputs:
        return Task(model, objective, spec, predict=predict)
    missing = [name for name in ("begin", "end") if name not in train.info]
    missing += [name for name in ("inputs", "targets", "labels") if name not in spec.batch]
    if missing:
        raise DataError(
            f"the task translate needs pairs of texts, and these data lack {', '.join(missing)}; use data.name: pairs, "
            "or return sources with the same arrays, and with begin and end in info"
        )
    if set(sources) - {"train"}:
        need_sacrebleu()
    begin, end = int(train.info["begin"]), int(train.info["end"])
    without = model if config.lora is None else bind(config.model_copy(update={"lora": None}), train)[0]
    writer = make_writer(config.model, spec, without, config.precision.quantize, base_of(config))
    length = spec.batch["labels"].shape[0]
    writes = write if config.lora is None else partial(_merged_first, config.lora)
    answer = partial(writes, writer, length=length, begin=begin, end=end)
    tokenizer = restore(train.prepared.get("tokenizer"))
    shown = partial(_text, tokenizer)
    return Task(
        model,
        _with_translations(objective, answer, tokenizer, end),
        spec,
        predict=predict,
        reference={"empty_bleu": 0.0},
        panels=(partial(worst_translations, text=shown), partial(attention_of_worst, text=shown)),
        answer=answer,
        describe=partial(_described, tokenizer),
    )


def _merged_first(
    section: Lora, writer: Writer, params: PyTree, extras: PyTree, batch: Batch, *, length: int, begin: int, end: int,
    beams: int = 1, detail: bool = False,
) -> dict[str, jax.Array]:  # fmt: skip
    """As `write`, with the parameters of a model with adapters: they are added up once for all tokens."""
    summed = merged(params, section)
    return write(writer, summed, extras, batch, length=length, begin=begin, end=end, beams=beams, detail=detail)


def write(
    writer: Writer,
    params: PyTree,
    extras: PyTree,
    batch: Batch,
    *,
    length: int,
    begin: int,
    end: int,
    beams: int = 1,
    detail: bool = False,
) -> dict[str, jax.Array]:
    """Writes the translation of each source of a batch. Pure.

    Args:
      writer: the model.
      params, extras: of the model, in the dtype that it computes in.
      batch: `inputs` `[B, S]` and their `input_mask`; targets and labels are not read.
      length: T, largest number of tokens of a translation.
      begin: the token before the first.
      end: the token after the last.
      beams: of a beam search with the length penalty of `jaxprop.models.search`; 1 takes the likeliest token each time.
      detail: also return what a picture of the translation needs.

    Returns:
      `tokens` int32 `[B, T]`, `end` from the end on, and their `probability` `[B]`. With `detail`, the `inputs` and
      `input_mask`, and where the model says so `attention` `[B, T, S]`: how much each token attends to each of the
      source.
    """
    size = jnp.shape(batch["inputs"])[0]  # not len, which a program for any number of examples has not
    source, held = writer.read(params, extras, batch, length)
    if beams > 1:
        source, held = repeated(source, beams), repeated(held, beams)

    def step(last: jax.Array, held: PyTree, at: jax.Array) -> tuple[jax.Array, PyTree]:
        logits, held = writer.extend(params, extras, last[:, None], source, held, at)
        return logits[:, 0], held

    sizes: dict[str, int] = {"size": size, "length": length, "begin": begin, "end": end}
    if beams > 1:
        found = beam_search(step, held, beams=beams, **sizes)
        written = Written(found.tokens[:, 0], found.log_probability[:, 0])
    else:
        written = greedy(step, held, **sizes)
    told = {"tokens": written.tokens, "probability": jnp.exp(written.log_probability)}
    if not detail:
        return told
    inputs = jnp.asarray(batch["inputs"])
    mask = batch.get("input_mask")
    told |= {"inputs": inputs, "input_mask": jnp.ones(inputs.shape, jnp.float32) if mask is None else mask}
    if writer.attend is None:
        return told
    first = jnp.full((size, 1), begin, jnp.int32)
    before = jnp.concatenate([first, written.tokens[:, :-1]], 1)
    return told | {"attention": writer.attend(params, extras, {**batch, "targets": before})}


def _with_translations(objective: Objective, answer: Answer, tokenizer: Tokenizer, end: int) -> Objective:
    """The objective, which in evaluation writes greedily as well; what was written is compared on the host."""

    def sums(params: PyTree, extras: PyTree, batch: Batch, policy: Policy) -> Sums:
        measured = objective.sums(params, extras, batch, policy)
        seen = without_padding(batch)
        with computing(policy):
            written = answer(cast_params(params, policy), extras, seen)["tokens"]
        held = seen["mask"] if seen.get("mask") is not None else jnp.ones(seen["labels"].shape, jnp.float32)
        rows = {"written": written, "labels": jnp.where(held != 0, seen["labels"], end)}
        return {**measured, "translations": Rows(rows, row_weights(seen))}

    def texts(rows: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
        written, wanted = ([_text(tokenizer, row) for row in rows[name]] for name in ("written", "labels"))
        return written, wanted

    def weighted(rows: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], dict[str, float]]:
        translations, references = texts(rows)
        each, order = translation_counts(translations, references), bleu_order(references)
        return lambda weights: figures_of_counts({name: weights @ found for name, found in each.items()}, order)

    translations = Metric(_measured_by_sums, lambda rows: translation_figures(*texts(rows)), weighted)
    metrics = {**objective.metrics, "translations": translations}
    return objective._replace(sums=sums, metrics=metrics)


def _measured_by_sums(*_: Any) -> Any:
    raise AssertionError("translations are written with the parameters, which a metric is not given")


def _text(tokenizer: Tokenizer, tokens: np.ndarray) -> str:
    """The text of tokens up to the one for the end."""
    ends = np.flatnonzero(np.asarray(tokens) == tokenizer.end)
    return tokenizer.decode([int(token) for token in tokens[: ends[0] if len(ends) else None]])


def _described(
    tokenizer: Tokenizer, found: Mapping[str, np.ndarray], i: int, info: Mapping[str, Any]
) -> dict[str, Any]:
    del info
    return {"translation": _text(tokenizer, found["tokens"][i]), "probability": number(found["probability"][i])}

"""Language modelling: the next token of each position."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxprop.config.schema.config import Config
from jaxprop.losses.softmax import softmax_cross_entropy
from jaxprop.metrics.accuracy import accuracy
from jaxprop.tasks.task import Task, bind
from jaxprop.types import Source


def language(config: Config, sources: Mapping[str, Source]) -> Task:
    """Binds softmax cross-entropy a token, perplexity, and accuracy.

    Args:
      config: the run's configuration.
      sources: `train`, and `test` to evaluate on; `info["vocabulary"]` is the number of tokens.

    Returns:
      The task; its reference is the loss of a unigram model, counted on train and measured on test.
    """
    train = sources["train"]
    bound = bind(config, train, softmax_cross_entropy, {"accuracy": accuracy})
    unigram = train.info.get("unigram_nats")
    return Task(*bound, derived=_perplexity, reference={} if unigram is None else {"unigram_loss": unigram})


def _perplexity(measured: Mapping[str, float]) -> dict[str, float]:
    # exp overflows above 709 nats, where an untrained model may well be
    loss = measured["loss"]
    return {"perplexity": math.exp(loss) if loss < 700 else math.inf}

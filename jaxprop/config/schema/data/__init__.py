"""The section `data`: a data source and how it is batched, a file for each kind of data. Imports no jax."""

from __future__ import annotations

from typing import Annotated

from jaxprop.config.schema.custom import Chosen
from jaxprop.config.schema.data.audio import AudioSection, Espeak, Speech, Tones
from jaxprop.config.schema.data.base import NO_PATHS, PATHS, DataSection, FileSection
from jaxprop.config.schema.data.images import Coco, Digits, DigitScenes, Images, ImageSection
from jaxprop.config.schema.data.mixed import BuiltIn, CustomData, HuggingFace, Mixture, OneSource, Random, WeightsAfter
from jaxprop.config.schema.data.tables import BUNDLED, Arrays, Table
from jaxprop.config.schema.data.text import (
    NumberWords,
    Pairs,
    Reviews,
    StdlibText,
    TextFiles,
    TokenSection,
    TrainedTokenizer,
)

__all__ = [
    "BUNDLED", "NO_PATHS", "PATHS", "Arrays", "AudioSection", "Coco", "CustomData", "Data", "DataSection",
    "DigitScenes", "Digits", "Espeak", "FileSection", "HuggingFace", "ImageSection", "Images", "Mixture",
    "NumberWords", "OneSource", "Pairs", "Random", "Reviews", "Speech", "StdlibText", "Table", "TextFiles",
    "TokenSection", "Tones", "TrainedTokenizer", "WeightsAfter",
]  # fmt: skip

Data = Annotated[BuiltIn | Mixture | CustomData, Chosen()]

"""The corpora that can be trained on, by name: a corpus is one file here, and one line below.

A name may stand for text of a language model, and for the same kind of text in translation.
"""

from tfmoe.data_pipelines.corpora.corpus import Corpus, LanguageCorpus, ParallelCorpus
from tfmoe.data_pipelines.corpora.embedded_text import EmbeddedText
from tfmoe.data_pipelines.corpora.embedded_translation import EmbeddedTranslation
from tfmoe.data_pipelines.corpora.files_of_records import (
    JsonLinesText,
    ParallelJsonLines,
    ParallelParquet,
    ParquetText,
)
from tfmoe.data_pipelines.corpora.grammars import Grammars
from tfmoe.data_pipelines.corpora.huggingface import HuggingFaceText, ParallelHuggingFace
from tfmoe.data_pipelines.corpora.lm1b import Lm1b
from tfmoe.data_pipelines.corpora.parallel import Parallel
from tfmoe.data_pipelines.corpora.text import Text
from tfmoe.data_pipelines.corpora.tfds import ParallelTfds, TfdsText
from tfmoe.data_pipelines.corpora.wmt14 import Wmt14

CORPORA: dict[str, dict[str, type[Corpus]]] = {
    "language": {
        "text": Text,
        "json_lines": JsonLinesText,
        "parquet": ParquetText,
        "huggingface": HuggingFaceText,
        "tfds": TfdsText,
        "lm1b": Lm1b,
        "embedded_text": EmbeddedText,
        "grammars": Grammars,
    },
    "parallel": {
        "parallel": Parallel,
        "json_lines": ParallelJsonLines,
        "parquet": ParallelParquet,
        "huggingface": ParallelHuggingFace,
        "tfds": ParallelTfds,
        "wmt14": Wmt14,
        "embedded_translation": EmbeddedTranslation,
    },
}

__all__ = ["CORPORA", "Corpus", "LanguageCorpus", "ParallelCorpus"]

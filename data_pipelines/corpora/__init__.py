"""The corpora that can be trained on, by name: a corpus is one file here, and one line below."""

from tfmoe.data_pipelines.corpora.corpus import Corpus, LanguageCorpus, ParallelCorpus
from tfmoe.data_pipelines.corpora.embedded_text import EmbeddedText
from tfmoe.data_pipelines.corpora.embedded_translation import EmbeddedTranslation
from tfmoe.data_pipelines.corpora.grammars import Grammars
from tfmoe.data_pipelines.corpora.lm1b import Lm1b
from tfmoe.data_pipelines.corpora.parallel import Parallel
from tfmoe.data_pipelines.corpora.text import Text
from tfmoe.data_pipelines.corpora.wmt14 import Wmt14

CORPORA: dict[str, type[Corpus]] = {
    "text": Text,
    "lm1b": Lm1b,
    "embedded_text": EmbeddedText,
    "grammars": Grammars,
    "parallel": Parallel,
    "wmt14": Wmt14,
    "embedded_translation": EmbeddedTranslation,
}

__all__ = ["CORPORA", "Corpus", "LanguageCorpus", "ParallelCorpus"]

"""The section `data`. The keys of a corpus are the settings of its class in
`tfmoe.data_pipelines.corpora`, and are documented there; beside them stands how its text is used.
"""

from typing import Annotated

from pydantic import Field

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import CORPUS_FIELDS, MOST, AtLeastOne, ShuffleBuffer, Steps
from tfmoe.config.sections import construct, section_of
from tfmoe.data_pipelines.corpora import CORPORA


class Vocabulary(Section):
    """The words that have an id of their own.

    Keys:
        size: the most ids, `<S> </S> <UNK>` included; null for every word of the training text.
        min_count: words that occur less often in the training text are left out.
        file: a vocabulary to use instead of the training text's words; one word a line, `</S> <S>
            <UNK>` first.
    """

    size: Annotated[int, Field(ge=4, le=MOST)] | None = None
    min_count: AtLeastOne = 1
    file: str | None = None


class Subwords(Section):
    """The subword vocabulary that all languages share, a SentencePiece model.

    Keys:
        size: the most ids, those of `</s> <s> <unk>` and of target languages included; null for
            that of `file`.
        character_coverage: share of the text's characters, by frequency, that get a piece, at least
            0.98.
        file: a model to use instead of one trained on the training text, `vocabulary.model` of
            another run.
    """

    size: Annotated[int, Field(ge=5, le=MOST)] | None = 32_000
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 1.0
    file: str | None = None


def _keys_of_use(vocabulary, batch_tokens):
    return {
        "vocabulary": (type(vocabulary), vocabulary),
        # Positions in a batch, padding included, of source and target together; of all devices.
        "batch_tokens": (AtLeastOne, batch_tokens),
        # The most steps in a row: longer sentences continue in the next one, and pairs with more
        # subwords than this on a side are not trained on.
        "max_length": (Steps, 100),
        # Rows or pairs held for shuffling.
        "shuffle_buffer": (ShuffleBuffer, 100_000),
    }


# How a text is used, by the kind of the corpus.
KEYS_OF_USE = {
    "language": _keys_of_use(Vocabulary(), 8192),
    "parallel": _keys_of_use(Subwords(), 16_000),
}
DATA_SECTIONS = {
    name: section_of(corpus, name, fields=CORPUS_FIELDS, more=KEYS_OF_USE[corpus.kind])
    for name, corpus in CORPORA.items()
}
Data = one_of(*DATA_SECTIONS.values())


def corpus_of(data):
    """Returns the `tfmoe.data_pipelines.corpora.Corpus` of a `data` section.

    Raises:
        SectionError: if its settings do not go together.
    """
    return construct(data)

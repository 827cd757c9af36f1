"""The section `data`. The keys of a corpus are the fields of its class in
`tfmoe.data_pipelines.corpora`, documented there. The keys that all corpora have are documented
here.
"""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import CORPUS_FIELDS, MAX_INT, PositiveInt, ShuffleBuffer, Steps
from tfmoe.config.sections import construct, section_of
from tfmoe.data_pipelines.corpora import CORPORA


class Vocabulary(Section):
    """The words that have an id.

    Keys:
        size: maximum number of ids, including `<S> </S> <UNK>`; null for all words of the training
            text.
        min_count: words that occur less often in the training text have no id.
        file: a vocabulary file to use instead of counting the training text: one word per line,
            `</S> <S> <UNK>` first.
    """

    size: Annotated[int, Field(ge=4, le=MAX_INT)] | None = None
    min_count: PositiveInt = 1
    file: str | None = None


class Subwords(Section):
    """The subword vocabulary that all languages share, a SentencePiece model.

    Keys:
        size: maximum number of ids, including `</s> <s> <unk>` and one per target language; null
            for the size of `file`.
        character_coverage: fraction of the text's characters that get a piece, most frequent
            characters first; at least 0.98.
        file: a model to use instead of training one on the training text, such as
            `vocabulary.model` of another run.
    """

    size: Annotated[int, Field(ge=5, le=MAX_INT)] | None = 32_000
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 1.0
    file: str | None = None


# Keys of every corpus, by kind of corpus: `{key: (type, default, meaning)}`.
COMMON_KEYS = {
    "language": {
        "vocabulary": (
            Vocabulary,
            Vocabulary(),
            "the words that have an id, a mapping with the keys size, min_count and file.",
        ),
        "batch_tokens": (
            PositiveInt,
            8192,
            "positions of a batch, padding included, over all devices.",
        ),
        "max_length": (
            Steps,
            100,
            "maximum number of steps of a row; a longer sentence continues in the next row.",
        ),
        "shuffle_buffer": (
            ShuffleBuffer,
            100_000,
            "without effect: the whole text is shuffled. Accepted for earlier configs.",
        ),
    },
    "parallel": {
        "vocabulary": (
            Subwords,
            Subwords(),
            "the subword vocabulary, a mapping with the keys size, character_coverage and file.",
        ),
        "batch_tokens": (
            PositiveInt,
            16_000,
            "positions of a batch, source and target together, padding included, over all devices.",
        ),
        "max_length": (
            Steps,
            100,
            "maximum number of subwords per side; longer pairs are not trained on.",
        ),
        "shuffle_buffer": (
            ShuffleBuffer,
            100_000,
            "without effect: the whole text is shuffled. Accepted for earlier configs.",
        ),
    },
}
# `{kind: {name: section}}`. Sections of both kinds may share a name.
DATA_SECTIONS = {
    kind: {
        name: section_of(corpus, name, fields=CORPUS_FIELDS, more=COMMON_KEYS[kind])
        for name, corpus in corpora.items()
    }
    for kind, corpora in CORPORA.items()
}
if TYPE_CHECKING:  # the union is only known at run time
    Data = Any
else:
    Data = one_of(
        *(section for sections in DATA_SECTIONS.values() for section in sections.values())
    )


def corpus_of(data):
    """Returns the `tfmoe.data_pipelines.corpora.Corpus` of a `data` section.

    Raises:
        SectionError: if its settings are invalid together.
    """
    return construct(data)

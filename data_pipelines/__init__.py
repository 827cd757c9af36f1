"""From text to batches: files, vocabularies, tokenisation, corpora. Knows nothing of models."""

from data_pipelines.batching import (
    batches_per_pass,
    bucket_boundaries,
    language_model_batches,
    sentence_lengths,
)
from data_pipelines.embedded_text import available_words, write_embedded_text
from data_pipelines.embedded_translation import write_embedded_translation
from data_pipelines.grammars import Grammars, write_grammars
from data_pipelines.lm1b import check_test_counts, lm1b_splits
from data_pipelines.parallel import (
    ParallelFiles,
    ParallelSurvey,
    count_longer,
    find_parallel,
    sentence_pairs,
    survey_parallel,
    wmt14_files,
)
from data_pipelines.parallel_batching import (
    pair_lengths,
    parallel_batches,
    parallel_batches_per_pass,
)
from data_pipelines.parallel_sentences import LANGUAGES as EMBEDDED_LANGUAGES
from data_pipelines.splits import Splits
from data_pipelines.subwords import Subwords
from data_pipelines.text import Survey, TextError, find_files, read_lines, survey, text_splits
from data_pipelines.tokenization import tokenize
from data_pipelines.vocabulary import END, START, UNKNOWN, Vocabulary

__all__ = [
    "EMBEDDED_LANGUAGES",
    "END",
    "START",
    "UNKNOWN",
    "Grammars",
    "ParallelFiles",
    "ParallelSurvey",
    "Splits",
    "Subwords",
    "Survey",
    "TextError",
    "Vocabulary",
    "available_words",
    "batches_per_pass",
    "bucket_boundaries",
    "check_test_counts",
    "count_longer",
    "find_files",
    "find_parallel",
    "language_model_batches",
    "lm1b_splits",
    "pair_lengths",
    "parallel_batches",
    "parallel_batches_per_pass",
    "read_lines",
    "sentence_lengths",
    "sentence_pairs",
    "survey",
    "survey_parallel",
    "text_splits",
    "tokenize",
    "wmt14_files",
    "write_embedded_text",
    "write_embedded_translation",
    "write_grammars",
]

"""From text to batches: files, vocabularies, tokenisation, corpora. Knows nothing of models."""

from tfmoe.data_pipelines.bucketing import bucket_boundaries
from tfmoe.data_pipelines.pair_batches import (
    pair_lengths,
    parallel_batches,
    parallel_batches_per_pass,
)
from tfmoe.data_pipelines.parallel_files import (
    ParallelFiles,
    by_direction,
    find_parallel,
    without_reversed,
)
from tfmoe.data_pipelines.parallel_text import (
    ParallelSurvey,
    count_longer,
    sentence_pairs,
    survey_parallel,
)
from tfmoe.data_pipelines.prepared.batches import TrainingBatches
from tfmoe.data_pipelines.prepared.pairs import (
    PreparedPairs,
    pair_training_batches,
    prepare_pairs,
)
from tfmoe.data_pipelines.prepared.sentences import sentence_training_batches
from tfmoe.data_pipelines.prepared.words import PreparedText, prepare_text
from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.sentence_batches import batches_per_pass, language_model_batches
from tfmoe.data_pipelines.splits import Splits
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.data_pipelines.text import Survey, find_files, survey
from tfmoe.data_pipelines.tokenization import tokenize
from tfmoe.data_pipelines.vocabulary import END, START, UNKNOWN, Vocabulary

__all__ = [
    "END",
    "START",
    "UNKNOWN",
    "ParallelFiles",
    "ParallelSurvey",
    "PreparedPairs",
    "PreparedText",
    "Splits",
    "Subwords",
    "Survey",
    "TextError",
    "TrainingBatches",
    "Vocabulary",
    "batches_per_pass",
    "bucket_boundaries",
    "by_direction",
    "count_longer",
    "find_files",
    "find_parallel",
    "language_model_batches",
    "pair_lengths",
    "pair_training_batches",
    "parallel_batches",
    "parallel_batches_per_pass",
    "prepare_pairs",
    "prepare_text",
    "sentence_pairs",
    "sentence_training_batches",
    "survey",
    "survey_parallel",
    "tokenize",
    "without_reversed",
]

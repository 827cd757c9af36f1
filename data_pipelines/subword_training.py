"""Training of SentencePiece models."""

import io
import pathlib
import random
import re
import string
import tempfile

from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.vocabulary import END, START, UNKNOWN
from tfmoe.extras import optional

sentencepiece = optional("sentencepiece")
model_files = optional("sentencepiece.sentencepiece_model_pb2")

SPECIAL_PIECES = ("</s>", "<s>", "<unk>")
UNKNOWN_SURFACE = "\u2047"  # ⁇
# `▁` to a space, which decoding makes of it anyway: a model without any rule says so on standard
# error whenever it is used.
NORMALIZATION = "2581\t20\n"
TRAINING_THREADS = 8  # a constant: the model depends on the number of threads


def train_model(sentences, size, languages, character_coverage, max_sentences, seed):
    """Trains a unigram model; the arguments are those of `Subwords.train`.

    Paper: its pieces are wordpieces (Schuster & Nakajima 2012), for which no program was released
    then; here they are those of a unigram model, as SentencePiece trains it.

    Returns:
        The bytes of the SentencePiece model.
    """
    languages = _checked_languages(languages)
    _check_sizes(size, len(SPECIAL_PIECES) + len(languages) + 1, character_coverage, max_sentences)
    drawn = _draw(sentences, max_sentences, seed)
    if not drawn:
        raise TextError("there is no sentence to train subwords on")
    model = io.BytesIO()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rules = pathlib.Path(folder, "rules.tsv")
            rules.write_text(NORMALIZATION, encoding="utf-8", newline="\n")
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(drawn),
                model_writer=model,
                model_type="unigram",
                vocab_size=size,
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                normalization_rule_tsv=str(rules),
                control_symbols=[f"<2{language}>" for language in languages],
                **_ids(),
                num_threads=TRAINING_THREADS,
                minloglevel=2,
            )
    except RuntimeError as error:
        raise _explained(str(error), size) from error
    proto = model_files.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")  # the name of a temporary file
    return proto.SerializeToString(deterministic=True)


def _ids():
    """SentencePiece's options for the special pieces."""
    return {
        "eos_id": END,
        "bos_id": START,
        "unk_id": UNKNOWN,
        "pad_id": -1,
        "eos_piece": SPECIAL_PIECES[END],
        "bos_piece": SPECIAL_PIECES[START],
        "unk_piece": SPECIAL_PIECES[UNKNOWN],
        "unk_surface": UNKNOWN_SURFACE,
    }


def _check_sizes(size, least, character_coverage, max_sentences):
    if size < least:
        raise ValueError(f"size must be at least {least}, got {size}")
    if not 0.98 <= character_coverage <= 1:
        raise ValueError(
            f"character_coverage must be at least 0.98 and at most 1, got {character_coverage}"
        )
    if max_sentences < 1:
        raise ValueError(f"max_sentences must be at least 1, got {max_sentences}")


def _explained(message, size):
    """Returns the error that SentencePiece's message means."""
    required = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if required:
        return ValueError(
            f"size must be at least {required[1]}, for the special pieces and for each character of"
            f" the text, got {size}; or lower character_coverage"
        )
    if "all_chars_count" in message:
        return TextError("the text has no characters but ▁, which stands for a space in subwords")
    if "sentences_.empty()" in message:
        return TextError("all sentences to train subwords on are too long")
    return ValueError(f"SentencePiece could not train on this text: {message}")


def _checked_languages(languages):
    if isinstance(languages, str):
        raise ValueError(f"languages must be a list of names, got the string {languages!r}")
    languages = list(languages)
    for index, language in enumerate(languages):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", language):
            raise ValueError(
                f"a language's name must have only ASCII letters, digits, - and _; got {language!r}"
            )
        if language in languages[:index]:
            raise ValueError(f"the language {language!r} is named twice")
    return languages


def _draw(sentences, count, seed):
    """Returns `count` of the sentences, each with the same probability; all if there are fewer.
    Blank ones do not count.
    """
    drawn, generator = [], random.Random(seed)
    usable = (sentence for sentence in sentences if sentence.strip(string.whitespace))
    for index, sentence in enumerate(usable):
        if index < count:
            drawn.append(sentence)
            continue
        slot = int(generator.random() * (index + 1))
        if slot < count:
            drawn[slot] = sentence
    return drawn

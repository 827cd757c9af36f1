"""BLEU and chrF of translations."""

from sacrebleu.metrics import BLEU, CHRF

# Chosen so that no further package is needed: sacreBLEU's own choices for Japanese and Korean ask
# for MeCab. Japanese is written without spaces, so it is counted by characters. Korean has spaces,
# and "13a" counts what stands between them, as for every other language.
TOKENIZERS = {"ja": "char", "zh": "zh"}
DEFAULT_TOKENIZER = "13a"


def bleu(translations, references, target_language=None):
    """sacreBLEU and chrF with their default settings, one reference per sentence.

    Args:
        translations, references: lists of plain text (not tokenised), one string per sentence.
        target_language: such as `"de"` or `"zh-CN"`; `"ja"` and `"zh"` have tokenizers of their
            own, all others and `None` have "13a".

    Returns:
        Dictionary of `bleu` and `chrf`, from 0 to 100, `signature` and `chrf_signature`, which
        name the settings and the version, and `sentences`, their number.

    Raises:
        ValueError: if there are no sentences, or not as many references as translations.

    BLEU by characters (Japanese) is higher than BLEU by words: compare it only with its like.
    """
    translations, references = _checked(translations, references)
    language = (target_language or "").replace("_", "-").split("-")[0].lower()
    words = BLEU(tokenize=TOKENIZERS.get(language, DEFAULT_TOKENIZER))
    characters = CHRF()
    return {
        "bleu": words.corpus_score(translations, [references]).score,
        "signature": str(words.get_signature()),
        "chrf": characters.corpus_score(translations, [references]).score,
        "chrf_signature": str(characters.get_signature()),
        "sentences": len(translations),
    }


def multi_bleu(translations, references):
    """The paper's figure: BLEU of Moses' `multi-bleu.perl`.

    Args:
        translations, references: lists of text that the Moses tokenizer has split, with spaces
            between tokens. Nothing is split further, and case counts.

    Returns:
        BLEU from 0 to 100. As in the script nothing is smoothed: 0 where no four tokens in a row
        are right.

    Raises:
        ValueError: if there are no sentences, or not as many references as translations.
    """
    translations, references = _checked(translations, references)
    tokens = BLEU(tokenize="none", smooth_method="none", force=True)
    return tokens.corpus_score(translations, [references]).score


def _checked(translations, references):
    translations, references = list(translations), list(references)
    if not translations or len(translations) != len(references):
        raise ValueError(
            "translations and references must be equally many and at least 1, got"
            f" {len(translations)} translations and {len(references)} references"
        )
    return translations, references

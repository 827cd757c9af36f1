"""BLEU and chrF of translations."""

import re
import reprlib
from collections.abc import Iterable

from tfmoe.extras import optional

locales, metrics = optional("babel.core"), optional("sacrebleu.metrics")

# Scripts without spaces between words, for which "13a" would count whole phrases as words.
# sacreBLEU's "zh" splits Chinese characters only; "char" splits all characters. Its word tokenizers
# need more packages (MeCab for Japanese and Korean). Korean has spaces, so it uses "13a" like every
# other script.
TOKENIZERS = {
    **dict.fromkeys(["Hani", "Hans", "Hant"], "zh"),
    **dict.fromkeys(["Hira", "Hrkt", "Jpan", "Kana"], "char"),
    **dict.fromkeys(["Khmr", "Laoo", "Mymr", "Thai"], "char"),
}
DEFAULT_TOKENIZER = "13a"


def bleu(translations, references, target_language=None):
    """sacreBLEU's BLEU and chrF with default settings, one reference per sentence.

    BLEU on characters (Japanese) is higher than BLEU on words; do not compare the two.

    Args:
        translations: list of plain text (not tokenised), one string per sentence.
        references: the same for the references.
        target_language: language code that chooses the tokenizer, see `tokenizer_of`.

    Returns:
        Dictionary: `bleu` and `chrf`, from 0 to 100; `signature` and `chrf_signature`, sacreBLEU's
        settings (`tok` is the tokenizer) and version; `sentences`, the number of sentences.

    Raises:
        TypeError: unless both are lists of strings.
        ValueError: if there are no sentences, or the lists differ in length.
    """
    translations, references = _checked(translations, references)
    words = metrics.BLEU(tokenize=tokenizer_of(target_language))
    characters = metrics.CHRF()
    return {
        "bleu": words.corpus_score(translations, [references]).score,
        "signature": str(words.get_signature()),
        "chrf": characters.corpus_score(translations, [references]).score,
        "chrf_signature": str(characters.get_signature()),
        "sentences": len(translations),
    }


def tokenizer_of(language):
    """The name of sacreBLEU's tokenizer for a language, chosen by the language's script.

    Args:
        language: an ISO 639-1 or 639-3 code, optionally with script and region, in BCP 47 or POSIX
            notation: `"zh"`, `"zho_Hans"`, `"yue"`, `"zh-TW"`, `"ja-Latn"`. Case is ignored. A code
            without a script gets CLDR's most likely one. `None` and unknown codes get the default
            tokenizer.
    """
    language, *subtags = re.split("[-_.@]", language or "")
    language = language.lower()
    language = locales.get_global("language_aliases").get(language, language)
    likely = locales.get_global("likely_subtags").get(language, "").split("_")[1:]
    scripts = [tag.title() for tag in [*subtags, *likely] if re.fullmatch("[A-Za-z]{4}", tag)]
    return TOKENIZERS.get(next(iter(scripts), None), DEFAULT_TOKENIZER)


def multi_bleu(translations, references):
    """The paper's metric: BLEU of Moses' `multi-bleu.perl`.

    The script reads bytes, so only ASCII white space separates tokens: a no-break space, as in
    French before a colon, or an ideographic space is part of a token. sacreBLEU splits at both.
    Therefore each distinct token is replaced by an integer first.

    Args:
        translations: list of text tokenised by Moses, with spaces between tokens. Nothing is split
            further, and case matters.
        references: the same for the references.

    Returns:
        BLEU from 0 to 100, not smoothed: 0 if no sequence of four tokens is right.

    Raises:
        TypeError: unless both are lists of strings.
        ValueError: if there are no sentences, or the lists differ in length.
    """
    translations, references = _checked(translations, references)
    token_ids = {}
    translations, references = (
        [_with_ids(text, token_ids) for text in texts] for texts in (translations, references)
    )
    tokens = metrics.BLEU(tokenize="none", smooth_method="none", force=True)
    return tokens.corpus_score(translations, [references]).score


def _with_ids(text, token_ids):
    """Replaces the tokens of a text by their ids. Adds new tokens to `token_ids`."""
    tokens = text.encode("utf-8", errors="surrogatepass").split()  # bytes split at ASCII spaces
    return " ".join(str(token_ids.setdefault(token, len(token_ids))) for token in tokens)


def _checked(translations, references):
    translations = _sentences("translations", translations)
    references = _sentences("references", references)
    if not translations or len(translations) != len(references):
        raise ValueError(
            "translations and references must have the same length, at least 1, got "
            f"{len(translations)} translations and {len(references)} references"
        )
    return translations, references


def _sentences(name, texts):
    """`texts` as a list of strings.

    Raises:
        TypeError: for anything else, also for a single string.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(
            f"{name} must be a list of strings, one per sentence, got {reprlib.repr(texts)}; "
            "put a single sentence into a list"
        )
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{name} must be a list of strings, one per sentence, got {reprlib.repr(text)} at "
                f"{name}[{index}]"
            )
    return texts

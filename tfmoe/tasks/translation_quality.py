"""BLEU and chrF of translations."""

import re
import reprlib
from collections.abc import Iterable

from tfmoe.extras import optional

locales, metrics = optional("babel.core"), optional("sacrebleu.metrics")

# Scripts that put no spaces between words, so that "13a" would count whole phrases as words.
# sacreBLEU's "zh" splits Chinese characters and nothing else; "char" splits all. Its tokenizers by
# words need further packages (MeCab for Japanese). Korean has spaces, and "13a" counts what stands
# between them, as for every other script; sacreBLEU's "ko-mecab" needs MeCab too.
TOKENIZERS = {
    **dict.fromkeys(["Hani", "Hans", "Hant"], "zh"),
    **dict.fromkeys(["Hira", "Hrkt", "Jpan", "Kana"], "char"),
    **dict.fromkeys(["Khmr", "Laoo", "Mymr", "Thai"], "char"),
}
DEFAULT_TOKENIZER = "13a"


def bleu(translations, references, target_language=None):
    """sacreBLEU and chrF with their default settings, one reference per sentence.

    Args:
        translations, references: lists of plain text (not tokenised), one string per sentence.
        target_language: see `tokenizer_of`.

    Returns:
        Dictionary of `bleu` and `chrf`, from 0 to 100, `signature` and `chrf_signature`, which
        name the settings (`tok` is the tokenizer) and the version, and `sentences`, their number.

    Raises:
        TypeError: unless both are lists of strings.
        ValueError: if there are no sentences, or not as many references as translations.

    BLEU by characters (Japanese) is higher than BLEU by words: compare it only with its like.
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
    """The name of sacreBLEU's tokenizer for a language: that of the script it is written in.

    Args:
        language: an ISO 639-1 or 639-3 code, a script and a region if wanted, as BCP 47 or POSIX
            write them: `"zh"`, `"zho_Hans"`, `"yue"`, `"zh-TW"`, `"ja-Latn"`. Case does not count.
            A code without a script has the most likely one of CLDR. `None` and unknown codes have
            the default.
    """
    language, *subtags = re.split("[-_.@]", language or "")
    language = language.lower()
    language = locales.get_global("language_aliases").get(language, language)
    likely = locales.get_global("likely_subtags").get(language, "").split("_")[1:]
    scripts = [tag.title() for tag in [*subtags, *likely] if re.fullmatch("[A-Za-z]{4}", tag)]
    return TOKENIZERS.get(next(iter(scripts), None), DEFAULT_TOKENIZER)


def multi_bleu(translations, references):
    """The paper's figure: BLEU of Moses' `multi-bleu.perl`.

    Args:
        translations, references: lists of text that the Moses tokenizer has split, with spaces
            between tokens. Nothing is split further, and case counts.

    Returns:
        BLEU from 0 to 100. As in the script nothing is smoothed: 0 where no four tokens in a row
        are right.

    Raises:
        TypeError: unless both are lists of strings.
        ValueError: if there are no sentences, or not as many references as translations.

    The script reads bytes, so that only ASCII white space separates tokens: a no-break space, as
    French has before a colon, or an ideographic one is part of a token. sacreBLEU splits at both,
    so it is given a number in place of each distinct token.
    """
    translations, references = _checked(translations, references)
    numbers = {}
    translations, references = (
        [_numbered(text, numbers) for text in texts] for texts in (translations, references)
    )
    tokens = metrics.BLEU(tokenize="none", smooth_method="none", force=True)
    return tokens.corpus_score(translations, [references]).score


def _numbered(text, numbers):
    """A text with its tokens replaced by numbers; `numbers`, of each token, grows."""
    tokens = text.encode("utf-8", errors="surrogatepass").split()  # of bytes: at ASCII white space
    return " ".join(str(numbers.setdefault(token, len(numbers))) for token in tokens)


def _checked(translations, references):
    translations = _sentences("translations", translations)
    references = _sentences("references", references)
    if not translations or len(translations) != len(references):
        raise ValueError(
            "translations and references must be equally many and at least 1, got"
            f" {len(translations)} translations and {len(references)} references"
        )
    return translations, references


def _sentences(name, texts):
    """A list of strings.

    Raises:
        TypeError: for anything else; a lone string would be a list of its characters.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise TypeError(
            f"{name} must be a list of strings, one per sentence, got {reprlib.repr(texts)}; "
            "put a single sentence into a list"
        )
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(
                f"{name} must be a list of strings, one per sentence, got {reprlib.repr(text)} at "
                f"{name}[{number}]"
            )
    return texts

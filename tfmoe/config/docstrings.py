"""Reads what docstrings say about arguments."""

import inspect
import re

HEADING = re.compile(r"(Args|Keys|More keys|Keys of .*):")
ITEM = re.compile(r"(\w+(?:, \w+)*): *(.*)")
# A sentence of Keras' docstrings that tells the type or the default, which stand elsewhere.
TYPE = re.compile(r"(?:An? )?(?:float|int|integer|bool|boolean|string)\b", re.IGNORECASE)


def summary_of(docstring):
    """Returns the first paragraph of a docstring as one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())


def arguments_in(docstring):
    """Reads the sections `Args:`, `Keys:` and `More keys:` of a docstring.

    Args:
        docstring: a string or `None`.

    Returns:
        `{argument: text on one line}`, in order.
    """
    texts, names, inside, indent = {}, [], False, 0
    for line in inspect.cleandoc(docstring or "").split("\n"):
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        if stripped and depth == 0:
            inside, names, indent = bool(HEADING.fullmatch(stripped)), [], 0
        elif inside and stripped and not stripped.startswith("{{"):  # a template of Keras
            item = ITEM.match(stripped)
            indent = indent or depth
            if item and depth == indent:
                names = item.group(1).split(", ")
                texts.update(dict.fromkeys(names, item.group(2)))
            else:
                texts.update({name: f"{texts[name]} {stripped}" for name in names})
    return {name: " ".join(text.split()) for name, text in texts.items()}


def without_types(text):
    """Drops the sentences of a Keras docstring that tell an argument's type or default.

    Args:
        text: of one argument, on one line. Where nothing else is said, it stays as it is.
    """
    sentences = re.split(r"(?<=[.`])(?<!\b[ei]\.[ge]\.) +(?=[A-Z])|(?<=[a-z])\.(?=Defaults)", text)
    kept = [sentence for sentence in sentences if not sentence.startswith("Defaults to")]
    while len(kept) > 1 and TYPE.match(kept[0]):
        kept.pop(0)
    return " ".join(kept) or text

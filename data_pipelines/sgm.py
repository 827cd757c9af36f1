"""The `.sgm` files in which the organisers of WMT publish test sets."""

import html
import os
import re

from tfmoe.data_pipelines.reading import TextError, check_utf8, read_bytes


def read_sgm(path):
    """Returns the segments of an `.sgm` file of a WMT test set, in their order, as UTF-8 bytes.

    A segment is what stands between `<seg id="…">` and `</seg>`, with HTML entities replaced and
    each run of white space, line ends too, as one space. Nothing else in the file is looked at.

    Raises:
        TextError: if there is no segment, one does not end, or the file is not UTF-8; as
            `reading.read_bytes`.
    """
    content = b"".join(read_bytes(path))
    check_utf8(content, path)
    segments = []
    for part in re.split(rb"<seg\b[^>]*>", content, flags=re.IGNORECASE)[1:]:
        text, end, _ = re.sub(rb"</seg\s*>", b"</seg>", part, flags=re.IGNORECASE).partition(
            b"</seg>"
        )
        if not end:
            raise TextError(f"{path}: segment {len(segments) + 1} has no end </seg>")
        text = html.unescape(text.decode("utf-8")).encode("utf-8")
        segments.append(b" ".join(text.split()))
    if not segments:
        raise TextError(f"{path}: no <seg> in the file; is it an .sgm file of a test set?")
    return segments


def is_sgm(path):
    """Whether a path names an `.sgm` file, plain or gzip."""
    return os.fspath(path).removesuffix(".gz").endswith(".sgm")

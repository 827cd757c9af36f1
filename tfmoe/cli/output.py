"""Standard output: JSON, characters it cannot encode, and closed pipes."""

import contextlib
import json
import os
import sys

from tfmoe.analysis.printable import UNSEEN


def escape_unencodable(*streams):
    """Makes streams write escape sequences for characters that they cannot encode."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_json(value, indent=None):
    """Prints a value as JSON. Non-ASCII letters are printed as they are if the output can encode
    them; control characters are always escaped.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(UNSEEN.sub(lambda match: "\n" if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text))


def discard_output():
    """Redirects standard output to the null device, so that Python does not report a closed pipe
    when it exits.
    """
    with contextlib.suppress(OSError):  # in a notebook, standard output is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

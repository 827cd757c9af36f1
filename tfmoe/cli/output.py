"""Standard output: what it cannot show, and nobody who reads it."""

import contextlib
import json
import os
import sys

from tfmoe.analysis.printable import UNSEEN


def show_all_characters(*streams):
    """Lets streams show characters that their encoding has not as escape sequences, instead of
    failing.
    """
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_json(value, indent=None):
    """Prints a value as JSON: letters of all languages as they are where the output can have them,
    characters that move a terminal's cursor never.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    print(UNSEEN.sub(lambda found: "\n" if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text))


def leave_pipe():
    """Leads standard output elsewhere, so that Python does not complain of a closed pipe when it
    ends.
    """
    with contextlib.suppress(OSError):  # in a notebook it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

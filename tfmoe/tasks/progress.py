"""How progress is shown."""

import sys


def verbosity():
    """Keras' `verbose`: a bar that moves on a terminal, a line per epoch in a file or a pipe."""
    return 1 if sys.stdout.isatty() else 2

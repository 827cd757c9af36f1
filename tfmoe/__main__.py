"""`python -m tfmoe`, and the command `tfmoe`."""

import importlib
import os
import signal


def main():
    """Loads the command line, and runs it."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)  # until a command begins, and when it is over
    importlib.import_module("tfmoe.cli").main()


def stop(_number, _frame):
    """Ends the process on Ctrl-C while nothing is done that must be left in order."""
    os.write(2, b"\ntfmoe: interrupted\n")
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()

"""The command `tfmoe`, also `python -m tfmoe`."""

import importlib
import os
import signal


def main():
    """Loads the command line, and runs it."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)  # before a command starts, and after it has ended
    importlib.import_module("tfmoe.cli").main()


def stop(_number, _frame):
    """Ends the process on Ctrl-C at once, while there is nothing to clean up."""
    os.write(2, b"\ntfmoe: interrupted\n")
    os._exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()

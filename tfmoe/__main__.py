"""`python -m tfmoe`."""

from tfmoe.cli import main

main()

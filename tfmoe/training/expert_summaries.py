"""Alias of `tfmoe.inspection.summaries`, which had this name in version 0.1."""

import sys

from tfmoe.inspection import summaries

sys.modules[__name__] = summaries

"""The name that `tfmoe.inspection.summaries` had in version 0.1: old imports still work."""

import sys

from tfmoe.inspection import summaries

sys.modules[__name__] = summaries

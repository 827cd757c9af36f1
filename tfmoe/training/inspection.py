"""The name that `tfmoe.inspection` had in version 0.1: old imports go on working."""

import sys

from tfmoe import inspection

sys.modules[__name__] = inspection

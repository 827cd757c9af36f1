"""Alias of `tfmoe.inspection`, which had this name in version 0.1."""

import importlib
import sys

from tfmoe import inspection

MODULES = (
    "calls", "consistency", "contexts", "information", "joint_counts", "noise", "pairs", "routing",
    "text", "use",
)  # fmt: skip

sys.modules[__name__] = inspection
for _name in MODULES:
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"tfmoe.inspection.{_name}")
sys.modules[f"{__name__}.table"] = importlib.import_module("tfmoe.inspection.routing_table")

"""What a type checker makes of the public names: mypy reads this file, nothing runs it.

A line with `type: ignore` is a mistake that must be reported: where mypy sees no types, it reports
the comment as unused.
"""

from typing import assert_type

import tfmoe
from tfmoe import Batchwise, MoE, NoisyTopK, load_config
from tfmoe.classic import LocalExperts, MixtureTree, fit_em, simulated_arm

assert_type(MoE(num_experts=4, hidden_units=8, gate=NoisyTopK(k=2)), MoE)
assert_type(NoisyTopK(k=2), NoisyTopK)
assert_type(tfmoe.MoE(4, 8), MoE)
assert_type(tfmoe.__version__, str)
assert_type(fit_em(*simulated_arm(100), branching=(2, 2)), MixtureTree)

MoE(num_experts="4", hidden_units=8)  # type: ignore[arg-type]
MoE(num_experts=4, hidden_units=8, capacity_priority="weights")  # type: ignore[arg-type]
Batchwise(importance=0.1, k=2).route()  # type: ignore[call-arg]
tfmoe.no_such_name  # type: ignore[attr-defined]  # noqa: B018
LocalExperts([], likelihood="normal")  # type: ignore[arg-type]
fit_em([[1.0]])  # type: ignore[call-arg, arg-type]
load_config()  # type: ignore[call-arg]

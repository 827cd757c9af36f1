"""Measures peak memory and time of training steps of one mixture of experts: with the paper's
design (App. D), FactoredAdam and recomputed hidden activations, and with Keras' Adam and all
activations kept.

    python benchmarks/expert_memory.py              128 experts of 1M weights, both designs
    python benchmarks/expert_memory.py --billion    1024 experts of 1M weights, the paper's design

Each case runs in its own process. Its memory is the peak resident size of the process (VmHWM in
/proc, Linux only): framework, weights and their initialisation, gradients, slots and activations.
"Needed" is the memory that a step needs at once for weights, gradients and slots, 4 bytes per
number. Times are medians over all steps but the first, which builds the graph: the duration, and
the processor time of all cores, which other processes disturb less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

D_MODEL, HIDDEN = 512, 1024  # an expert of 2 · 512 · 1024 = 1,048,576 weights
BILLION = 1024
# Memory of weights, gradients and slots, in multiples of the weights.
NEEDED = {"factored_adam": 2 + (D_MODEL + HIDDEN) / (D_MODEL * HIDDEN), "adam": 4}
DESIGNS = (("factored_adam", True), ("adam", False))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--experts", type=_positive, default=128, help="default 128")
    parser.add_argument("--tokens", type=_positive, default=8192, help="per batch; default 8192")
    parser.add_argument("--k", type=_positive, default=4, help="experts per token; default 4")
    parser.add_argument("--steps", type=_positive, default=5, help="timed steps; default 5")
    parser.add_argument(
        "--billion",
        action="store_true",
        help="1024 experts, 1,073,741,824 weights, without Adam; needs about 16 GB",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(measure(**arguments.case)))
        return
    shared = {"tokens": arguments.tokens, "k": arguments.k, "steps": arguments.steps}
    experts = BILLION if arguments.billion else arguments.experts
    cases = []
    for optimizer, recompute in DESIGNS[:1] if arguments.billion else DESIGNS:
        case = {"optimizer": optimizer, "recompute": recompute, "experts": experts, **shared}
        print(f"measuring {describe(case)} ...", file=sys.stderr, flush=True)
        cases.append({**case, **run(case)})
    weights = experts * 2 * D_MODEL * HIDDEN
    needed = {name: round(multiple * 4 * weights) for name, multiple in NEEDED.items()}
    if arguments.json:
        print(json.dumps({"expert_weights": weights, "needed_bytes": needed, "cases": cases}))
        return
    print(f"{experts} experts, {weights:,} weights, {arguments.tokens} tokens, k={arguments.k}")
    print(f"{'':34}{'needed':>10}{'peak':>10}{'step':>10}{'CPU':>10}")
    for case in cases:
        print(
            f"{describe(case):34}{_gb(needed[case['optimizer']]):>10}{_gb(case['peak_bytes']):>10}"
            f"{case['step_seconds']:>8.2f} s{case['step_cpu_seconds']:>8.2f} s"
        )
    if arguments.billion:
        print(
            f"Adam would need {_gb(needed['adam'])} for weights, gradients and slots alone; "
            f"this machine has {_gb(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))}"
        )


def describe(case):
    return f"{case['optimizer']}, {'recompute' if case['recompute'] else 'activations kept'}"


def run(case):
    """Measures a case in a new process."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        killed = " (killed, probably out of memory)" if result.returncode == -9 else ""
        sys.exit(f"{describe(case)} ended with status {result.returncode}{killed}")
    return json.loads(result.stdout.splitlines()[-1])


def measure(optimizer, recompute, experts, tokens, k, steps):
    """Trains one `MoE` in this process.

    Returns:
        A dictionary: `framework_bytes` (resident before the layer is built), `peak_bytes`,
        `slot_bytes` of the optimizer's variables, `step_seconds` and `step_cpu_seconds` (medians)
        and `losses`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from tfmoe.gating import NoisyTopK
    from tfmoe.layers import MoE
    from tfmoe.optimizers import FactoredAdam

    keras.utils.set_random_seed(0)
    framework = memory("VmRSS")
    gate = NoisyTopK(k=k, importance_weight=0.1, load_weight=0.1)
    layer = MoE(experts, HIDDEN, gate=gate, recompute=recompute, name="moe")
    inputs = keras.Input([D_MODEL])
    model = keras.Model(inputs, layer(inputs))
    model.compile(
        {"factored_adam": FactoredAdam, "adam": keras.optimizers.Adam}[optimizer](), "mse"
    )
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((tokens, D_MODEL), dtype="float32") for _ in range(2))
    seconds, cpu_seconds, losses = [], [], []
    for step in range(steps + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        losses.append(float(model.train_on_batch(x, y)[0]))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        print(f"  step {step}: {seconds[-1]:.2f} s, loss {losses[-1]:.4f}", file=sys.stderr)
    return {
        "framework_bytes": framework,
        "peak_bytes": memory("VmHWM"),
        "slot_bytes": sum(int(np.prod(slot.shape)) * 4 for slot in model.optimizer.variables),
        "step_seconds": statistics.median(seconds[1:]),
        "step_cpu_seconds": statistics.median(cpu_seconds[1:]),
        "losses": losses,
    }


def memory(name):
    """Bytes of a line of /proc/self/status: VmRSS is the resident size, VmHWM its peak."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


def _gb(size):
    return f"{size / 1e9:.2f} GB"


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    main()

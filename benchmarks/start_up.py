"""Measures starts: imports, and the first training step of mixtures of 256 experts.

Every figure is from a process of its own; the processes take turns, and figures are medians over
the rounds, by the clock and in processor time, in seconds.

    keras         import keras, with the TensorFlow backend
    tfmoe.layers  import tfmoe.layers, which imports Keras
    layer         a Keras model of MoE(256, 1024) between inputs and outputs of 512 values
    language      the model of lm1b/moe-256 with a vocabulary of 8000 words

The last two are divided into parts: import; build (of all weights); compile; first (step: tracing
and computing); second (step).

    python benchmarks/start_up.py --cases keras tfmoe.layers --rounds 10
    python benchmarks/start_up.py --cases layer language --rounds 3 --json
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {"keras": "import keras, tensorflow", "tfmoe.layers": "import tfmoe.layers"}
TOKENS, LENGTH, WIDTH, WORDS = 1024, 32, 512, 8000


def main():
    options = parse_arguments()
    parts = {case: [] for case in options.cases}
    for round_number in range(options.rounds):
        for case in options.cases:
            parts[case].append(measured(case))
            print(round_number, case, parts[case][-1], file=sys.stderr)
    medians = {case: median_of(rounds) for case, rounds in parts.items()}
    if options.json:
        print(json.dumps({"rounds": options.rounds, "seconds": medians}))
        return
    for case, figures in medians.items():
        for part, (clock, processor) in figures.items():
            print(f"{case:<13} {part:<8} {clock:7.2f} {processor:7.2f}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cases = [*IMPORTS, *MODELS]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each case; default: 3")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    return parser.parse_args()


def measured(case):
    """`{part: (clock, processor)}` of a new process."""
    environment = {"PYTHONPATH": str(ROOT), **os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--part", case]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def median_of(rounds):
    return {
        part: [float(np.median([each[part][i] for each in rounds])) for i in range(2)]
        for part in rounds[0]
    }


class Parts:
    """The times of the parts of a process, one after another.

    Attributes:
        seconds: `{part: (clock, processor)}`.
    """

    def __init__(self):
        self.seconds = {}
        self._start = self._now()

    def end(self, part):
        """Ends a part; the next one starts."""
        clock, processor = self._now()
        self.seconds[part] = clock - self._start[0], processor - self._start[1]
        self._start = self._now()

    @staticmethod
    def _now():
        return time.perf_counter(), time.process_time()


def layer(parts):
    """The steps of a Keras model with a mixture."""
    import keras

    from tfmoe.layers import MoE

    parts.end("import")
    inputs = keras.Input([WIDTH])
    model = keras.Model(inputs, MoE(256, 1024)(inputs))
    parts.end("build")
    x = np.random.default_rng(0).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    train_twice(parts, model, x, x, loss="mse")


def language(parts):
    """The steps of a language model."""
    from tfmoe.config import build_model, load_config

    parts.end("import")
    model = build_model(load_config("lm1b/moe-256"), WORDS)
    model.build((None, None))
    parts.end("build")
    shape = TOKENS // LENGTH, LENGTH
    ids = np.random.default_rng(0).integers(3, WORDS, shape).astype(np.int32)
    train_twice(parts, model, ids, ids)


def train_twice(parts, model, x, y, **options):
    model.compile("adam", **options)
    parts.end("compile")
    model.train_on_batch(x, y)
    parts.end("first")
    model.train_on_batch(x, y)
    parts.end("second")


MODELS = {"layer": layer, "language": language}


def run_part(case):
    """Measures one case in this process, and prints its parts."""
    parts = Parts()
    if case in IMPORTS:
        exec(IMPORTS[case])
        parts.end("import")
    else:
        MODELS[case](parts)
    print(json.dumps(parts.seconds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        run_part(sys.argv[2])
    else:
        main()

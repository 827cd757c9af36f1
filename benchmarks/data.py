"""Measures the input pipeline of a language model on synthetic text: how long the text takes to be
prepared, how long a later start and a resumed run take until their first batch, how many words a
second the batches have, and the peak memory.

    python benchmarks/data.py                        20 million words
    python benchmarks/data.py --million-words 100 --json

The text has sentences of 1 to 50 words, 25.5 on average, drawn by Zipf's law from 500,000 words,
in files of 2.5 million words. The vocabulary has 100,000 words; a batch has 8192 positions, a row
at most 100. Each phase runs in its own process, in which imports are not timed:

- prepare: reading the text, counting, and writing ids and the places of rows;
- start: finding all that again, a vocabulary, and reading batch 0;
- resume 10, resume 100000: the same, and reading this batch;
- iterate: 2,000 batches of `dataset()`, after the first.

Memory is the peak resident size of the process less that after its imports, in MB (VmHWM and VmRSS
in /proc, Linux only). It contains the pages of mapped files that were read, which the system takes
back when it needs them. The last line projects to 10⁹ words, in processor time: preparing takes
50 times as long as for 20 million words; a start reads the table of distinct words, for which we
suppose 2.5 million, 5 times as many as here.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

WORDS, FILE_WORDS, VOCABULARY = 500_000, 2_500_000, 100_000
DISTINCT_OF_BILLION = 2_500_000
SIZES = {"batch_tokens": 8192, "max_length": 100}
PHASES = ("prepare", "start", "resume 10", "resume 100000", "iterate")
BATCHES = 2000
BILLION = 10**9


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--million-words", type=_positive, default=20, help="default 20")
    parser.add_argument("--folder", help="for text and cache, which are kept; default: temporary")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(measure(arguments.phase, pathlib.Path(arguments.folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(arguments.folder or temporary)
        words = write_text(folder, arguments.million_words * 10**6)
        phases = []
        for phase in PHASES:
            print(f"measuring {phase} ...", file=sys.stderr, flush=True)
            phases.append({"phase": phase, **run(phase, folder)})
    result = {"words": words, "phases": phases, "projected": projection(words, phases)}
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{words:,} words")
    print(f"{'':14}{'seconds':>10}{'CPU':>10}{'words/CPU s':>14}{'memory':>10}")
    for phase in phases:
        rate = phase.get("words_per_cpu_second")
        print(
            f"{phase['phase']:14}{phase['seconds']:>10.2f}{phase['cpu_seconds']:>10.2f}"
            f"{'' if rate is None else f'{rate:,.0f}':>14}{phase['memory_mb']:>7.0f} MB"
        )
    print(", ".join(f"{name}: {value:,.0f}" for name, value in result["projected"].items()))


def write_text(folder, words):
    """Writes text files unless they are there. Returns the number of words."""
    (folder / "text").mkdir(parents=True, exist_ok=True)
    names = np.array([f"w{rank}" for rank in range(WORDS)])
    shares = 1 / np.arange(1, WORDS + 1)
    until = np.cumsum(shares / shares.sum())
    for index in range(-(-words // FILE_WORDS)):
        path, draw = folder / "text" / f"{index:04}.txt", np.random.default_rng(index)
        if path.exists():
            continue
        left = min(FILE_WORDS, words - index * FILE_WORDS)
        tokens = iter(names[np.searchsorted(until, draw.random(left))].tolist())
        lines = []
        while line := " ".join(itertools.islice(tokens, int(draw.integers(1, 51)))):
            lines.append(line)
        path.write_text("\n".join(lines) + "\n")
    return words


def run(phase, folder):
    """The result of `measure` in a process of its own."""
    command = [sys.executable, __file__, "--phase", phase, "--folder", str(folder)]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *sys.path[1:]])
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(f"{phase}: ended with exit status {process.returncode}")
    return json.loads(process.stdout.splitlines()[-1])


def measure(phase, folder):
    """Measures a phase in this process.

    Returns:
        Dictionary: `seconds` and `cpu_seconds`; `words_per_second` if the phase reads text;
        `memory_mb`.
    """
    from tfmoe import data_pipelines

    files, cache = sorted((folder / "text").glob("*.txt")), folder / "cache"
    memory, begin, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    text = data_pipelines.prepare_text(files, cache)
    words = text.survey.words
    vocabulary = data_pipelines.Vocabulary.from_counts(words, max_size=VOCABULARY)
    batches = data_pipelines.sentence_training_batches(text, vocabulary, cache, **SIZES)
    read = words.total()
    if phase == "start":
        batches.read(0)
    elif phase.startswith("resume"):
        next(iter(batches.dataset(int(phase.split()[1]))))
    elif phase == "iterate":
        iterator = batches.dataset().as_numpy_iterator()
        next(iterator)
        begin, cpu, read = time.perf_counter(), time.process_time(), 0
        for inputs, _ in itertools.islice(iterator, BATCHES):
            read += np.count_nonzero(inputs)
    seconds = time.perf_counter() - begin
    result = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu}
    if phase in ("prepare", "iterate"):
        result["words_per_second"] = read / seconds
        result["words_per_cpu_second"] = read / result["cpu_seconds"]
    if phase == "iterate":
        result["words_per_batch"] = read / BATCHES
    return {**result, "memory_mb": _memory("VmHWM") - memory}


def projection(words, phases):
    """Seconds for 10⁹ words, and bytes in the cache: 4 a word and an end of sentence, 4 and 8 a
    sentence.
    """
    seconds = {phase["phase"]: phase["cpu_seconds"] for phase in phases}
    sentences = BILLION / 25.5
    return {
        "seconds to prepare 10⁹ words": seconds["prepare"] * BILLION / words,
        "seconds to start": seconds["start"] * DISTINCT_OF_BILLION / WORDS,
        "MB in the cache": (4 * (BILLION + sentences) + 12 * sentences) / 1e6,
    }


def _memory(name):
    """A line of /proc/self/status, in MB; NaN elsewhere."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    return int(status.split(f"{name}:")[1].split()[0]) / 1000


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    main()

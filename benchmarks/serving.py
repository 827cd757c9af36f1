"""Measures the answers of exported models: how fast they are, and how large the files.

A system is the live Keras model, or an export of it: a SavedModel with weights in float32, bfloat16
or int8, files for ONNX Runtime or LiteRT. All systems of a run take turns in one process, on the
same sentences of the run's test text; figures are medians over the rounds, by the clock and in
processor time, which other processes disturb less.

    score       milliseconds for a batch of sentences
    generate    words per second: up to 32 words after prefixes of 2 words, the most probable ones
    translate   sentences per second, the most probable subword at each step
    beam        sentences per second, by the config's beam search, which SavedModels alone have

With a batch of 1, a round answers 8 sentences one after another. ONNX Runtime and LiteRT compute a
step, and the loop is in Python, as in `docs/serving/portable_client.py`.

    tfmoe train demo/language_model
    tfmoe train demo/translation
    python benchmarks/serving.py runs/language_model runs/translation
    python benchmarks/serving.py runs/language_model --systems Keras int8 --rounds 21 --json
"""

import argparse
import contextlib
import json
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf

from tfmoe.extras import is_installed, optional
from tfmoe.serving.exported import check_exportable, remove_evaluation_capacity
from tfmoe.serving.portable import ConversionError
from tfmoe.serving.saved_model import exported_module, write_saved_model
from tfmoe.tasks.export import export_run
from tfmoe.tasks.exported_files import megabytes
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import Run, load_run

onnxruntime = optional("onnxruntime")

PREFIX, GENERATED = 2, 32  # words
SENTENCES_PER_ROUND = 8
UNITS = {"score": "ms", "generate": "words/s", "translate": "sentences/s", "beam": "sentences/s"}
CLIENT = Path(__file__).resolve().parents[1] / "docs" / "serving" / "portable_client.py"


class Source(NamedTuple):
    """What is exported.

    Attributes:
        path: the run's folder.
        run: the loaded run.
        threads: of each system.
    """

    path: Path
    run: Run
    threads: int

    @property
    def is_translation(self):
        return self.run.config.model.name == "translation"

    def module(self, stored, **options):
        """The module and the concrete functions of an export, see `exported_module`."""
        task, (_, vocabulary, model) = task_of(self.run.config), self.run
        exported = task.exported(vocabulary, model, stored=stored, **options)
        signatures = exported.functions.signatures()
        return exported_module(signatures, exported.default, exported.resources)


class System(NamedTuple):
    """An export, or the live model.

    Attributes:
        functions: `{name: function}` of a list of strings, which returns the number of sentences or
            words that it answered.
        megabytes: of its files; `None` for the live model.
    """

    functions: dict[str, Callable]
    megabytes: float | None = None


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    results = [measure(path, options) for path in options.runs]
    if options.json:
        print(json.dumps({"threads": options.threads, "rounds": options.rounds, "runs": results}))
        return
    for result in results:
        print_table(result)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    installed = [name for name in SYSTEMS if is_installed(PACKAGES.get(name, "tensorflow"))]
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=installed)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], metavar="B")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds; default: 7")
    parser.add_argument("--threads", type=int, default=1, help="of each system; default: 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    return parser.parse_args()


def measure(path, options):
    """The figures of a run: `{"run", "megabytes", "cells"}`, with a cell for each system, function
    and batch.
    """
    run = load_run(path)
    check_exportable(run.model)
    remove_evaluation_capacity(run.model)
    source, cells, systems = Source(path, run, options.threads), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.systems:
            print(f"{path.name}: {name} …", file=sys.stderr)
            try:
                systems[name] = SYSTEMS[name](source, Path(folder) / name)
            except ConversionError as error:
                print(f"{path.name}: {error}", file=sys.stderr)
        sentences = test_sentences(run, max(options.batches))
        for function in dict.fromkeys(f for system in systems.values() for f in system.functions):
            calls = {
                n: s.functions[function] for n, s in systems.items() if function in s.functions
            }
            for batch in options.batches:
                times = timed(calls, batches_of(sentences, batch), options.rounds)
                for name, seconds in times.items():
                    cell = {"system": name, "function": function, "batch": batch}
                    cells.append({**cell, **figures(function, *seconds)})
                    print(path.name, *cells[-1].values(), file=sys.stderr)
    sizes = {name: system.megabytes for name, system in systems.items()}
    return {"run": path.name, "megabytes": sizes, "cells": cells}


def live(source: Source, folder: Path) -> System:
    """The functions of exports, with the variables of the live model."""
    return System(
        tensorflow_functions(source, lambda **given: source.module("float32", **given)[1])
    )


def saved_model(stored: str) -> Callable[[Source, Path], System]:
    """Writes and loads SavedModels with weights of a type."""

    def load(source, folder):
        paths = []

        def signatures(**given):
            module, concrete = source.module(stored, **given)
            paths.append(write_saved_model(folder, len(paths) + 1, module, concrete, {}))
            loaded = tf.saved_model.load(str(paths[-1]))
            # Signatures do not keep the variables alive.
            return {**loaded.signatures, "loaded": loaded}

        return System(tensorflow_functions(source, signatures), megabytes(paths[0]))

    return load


def tensorflow_functions(source, signatures):
    """The functions of a `System`, with signatures on strings.

    Args:
        source: a `Source`.
        signatures: function of the export's options that returns `{name: function}`.
    """
    if source.is_translation:
        greedy, beam = signatures(beam=1)["translate"], signatures()["translate"]
        return {"translate": counting(greedy, "truncated"), "beam": counting(beam, "truncated")}
    functions = signatures(tokenization="words")

    def generate(sentences):
        outputs = functions["generate"](
            prefix=tf.constant([" ".join(each.split()[:PREFIX]) for each in sentences]),
            length=tf.constant([GENERATED]),
            temperature=tf.constant([0.0]),
            seed=tf.constant([0]),
        )
        return outputs["word_count"].numpy().sum() + outputs["ended"].numpy().sum()

    return {"score": counting(functions["score"], "log_probability"), "generate": generate}


def counting(function, output):
    """A function of sentences that calls a signature, and counts the elements of an output."""
    return lambda sentences: function(sentences=tf.constant(sentences))[output].numpy().size


def portable(format: str) -> Callable[[Source, Path], System]:
    """Writes an export of a format on ids, and loads it with the client of the documentation."""

    def load(source, folder):
        with contextlib.redirect_stdout(sys.stderr):
            export_run(source.path, folder, format=format)
        client = runpy.run_path(str(CLIENT))
        export = client["TranslationModel" if source.is_translation else "LanguageModel"](folder)
        if format == "onnx":
            names = export.functions
            export.functions = {n: onnx_function(folder / f"{n}.onnx", source) for n in names}
        if source.is_translation:
            functions = {"translate": lambda sentences: len(export.translate(sentences))}
        else:
            functions = {
                "score": lambda sentences: len(export.score(sentences)[0]),
                "generate": lambda sentences: num_generated(export, sentences),
            }
        return System(functions, megabytes(folder))

    return load


def onnx_function(path, source):
    """A function of a file, on the threads of the benchmark."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = source.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


def num_generated(export, sentences):
    """Continues all prefixes at once with the most probable words, and counts words and ends.

    Args:
        export: a `LanguageModel` of the client.
        sentences: list of strings of at least `PREFIX` words.
    """
    start, end = export.vocabulary["start"], export.vocabulary["end"]
    prefix = [[start, *export.encode(sentence)[:PREFIX]] for sentence in sentences]
    columns, rows = np.transpose(prefix).astype(np.int32), len(sentences)
    states = export.first_states(rows, export.manifest["max_length"])
    ids, is_open, count = columns[0], np.ones([rows], bool), 0
    for position in range(PREFIX + GENERATED):
        if position <= PREFIX:
            ids = columns[position]
        positions = np.full([rows], position, np.int32)
        outputs = export.functions["step"](ids=ids, positions=positions, **states)
        states = export.next_states(outputs)
        if position >= PREFIX:
            logits = np.array(outputs["logits"])
            logits[:, export.manifest["never_generated"]] = -np.inf
            count += is_open.sum()
            ids = np.where(is_open, logits.argmax(axis=1), end).astype(np.int32)
            is_open &= ids != end
            if not is_open.any():
                break
    return count


SYSTEMS = {
    "Keras": live,
    "float32": saved_model("float32"),
    "bfloat16": saved_model("bfloat16"),
    "int8": saved_model("int8"),
    "onnx": portable("onnx"),
    "litert": portable("litert"),
}
PACKAGES = {"onnx": "onnxruntime", "litert": "ai_edge_litert"}


def test_sentences(run, number):
    """The first sentences of the run's test text that have enough words for a prefix; of parallel
    text those of the source.
    """
    files = task_of(run.config).splits.test
    names = [name for each in files for name in getattr(each, "source", [each])]
    text = "\n".join(Path(name).read_text(encoding="utf-8") for name in names)
    found = [line for line in text.splitlines() if len(line.split()) >= PREFIX]
    return [found[i % len(found)] for i in range(max(number, SENTENCES_PER_ROUND))]


def batches_of(sentences, size):
    """The batches of a round."""
    return [
        sentences[i * size : (i + 1) * size] for i in range(max(1, SENTENCES_PER_ROUND // size))
    ]


def timed(functions, batches, rounds):
    """Calls functions in turn.

    Args:
        functions: `{system: function}` of a batch of sentences.
        batches: list of batches, of one round.
        rounds: number of rounds after the first one, which is not timed.

    Returns:
        `{system: (answers, clock, processor)}`: the answers per call, and arrays of its seconds.
    """
    answers, seconds = {}, {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            clock, processor = time.perf_counter(), time.process_time()
            answers[name] = sum(function(batch) for batch in batches) / len(batches)
            spent = time.perf_counter() - clock, time.process_time() - processor
            seconds[name].append(np.divide(spent, len(batches)))
    return {name: (answers[name], *np.transpose(seconds[name][1:])) for name in functions}


def figures(function, answers, clock, processor):
    """`{"clock", "processor", "unit"}`, medians over the rounds."""
    values = {"clock": float(np.median(clock)), "processor": float(np.median(processor))}
    if function == "score":
        values = {key: 1e3 * value for key, value in values.items()}
    else:
        values = {key: float(answers / value) for key, value in values.items()}
    return {**values, "answers": float(answers), "unit": UNITS[function]}


def print_table(result):
    """A table with a row for each system, and a column for each function and batch."""
    cells = {(c["system"], c["function"], c["batch"]): c for c in result["cells"]}
    columns = list(dict.fromkeys(key[1:] for key in cells))
    units = [f"{function} {batch}, {UNITS[function]}" for function, batch in columns]
    print(f"\n{result['run']}: clock / processor\n\n| system | MB |", " | ".join(units), "|")
    print("|---|---:|" + "---:|" * len(columns))
    for system, size in result["megabytes"].items():
        row = [cells.get((system, *column)) for column in columns]
        texts = [f"{short(c['clock'])} / {short(c['processor'])}" if c else "" for c in row]
        print(f"| {system} |", f"{size:.1f} |" if size else "|", " | ".join(texts), "|")


def short(value):
    """A number with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()

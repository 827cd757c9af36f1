"""Calls an export of `tfmoe export --format onnx` or `--format litert`, without TensorFlow.

    python portable_client.py FOLDER score SENTENCE …
    python portable_client.py FOLDER generate PREFIX … [--length 20]
    python portable_client.py FOLDER translate SENTENCE … [--language fr]

It needs NumPy; onnxruntime or ai-edge-litert; for translations also sentencepiece. The words of a
language model are separated by white space.
"""

import argparse
import json
import pathlib

import numpy as np


def load_functions(folder, manifest):
    """`{name: function}` of an export, from named arrays to `{name: array}`."""
    names = manifest["signatures"]
    if manifest["format"] == "onnx":
        import onnxruntime

        return {name: onnx_function(onnxruntime, folder / f"{name}.onnx") for name in names}
    if manifest["format"] == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(folder / "model.tflite"))
        return {name: interpreter.get_signature_runner(name) for name in names}
    raise ValueError(f"{folder} must be of the format onnx or litert, got {manifest['format']}")


def onnx_function(onnxruntime, path):
    """A function of one file of ONNX."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return lambda **inputs: dict(zip(outputs, session.run(outputs, inputs), strict=True))


class Export:
    """An exported model: its functions and what its manifest says about ids and states."""

    def __init__(self, folder, needed):
        folder = pathlib.Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if needed not in self.manifest["signatures"]:
            names = ", ".join(self.manifest["signatures"])
            raise SystemExit(f"{folder} has no function {needed}, only {names}: another model")
        self.functions = load_functions(folder, self.manifest)
        self.vocabulary = self.manifest["vocabulary"]
        self.file = folder / self.vocabulary["file"]

    def padded(self, sentences):
        """Lists of ids as one array `[B, S]`, padded at the end with 0."""
        rows = np.zeros([len(sentences), max(map(len, sentences), default=0)], np.int32)
        for row, ids in zip(rows, sentences, strict=True):
            row[: len(ids)] = ids
        return rows

    def first_states(self, rows, steps):
        """The states before the first of a number of steps: zeros."""
        return {
            state["input"]: np.zeros(
                [rows, *(steps if size is None else size for size in state["shape"][1:])],
                state["dtype"],
            )
            for state in self.manifest["states"]
        }

    def next_states(self, outputs):
        """The states that a step returned, as inputs of the next step."""
        return {state["input"]: outputs[state["output"]] for state in self.manifest["states"]}


class LanguageModel(Export):
    """A language model of words."""

    def __init__(self, folder):
        super().__init__(folder, "step")
        self.words = self.file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self.ids = {word: index for index, word in enumerate(self.words)}

    def encode(self, sentence):
        unknown = self.vocabulary["unknown"]
        return [max(self.ids.get(word, unknown), unknown) for word in sentence.split()]

    def score(self, sentences):
        """The log-probability and the number of predictions of each sentence."""
        ids = self.padded([self.encode(sentence) for sentence in sentences])
        outputs = self.functions["score"](ids=ids)
        return outputs["log_probability"], outputs["token_count"]

    def generate(self, prefix, length):
        """Continues a sentence by up to `length` words, each the most probable one."""
        states = self.first_states(1, self.manifest["max_length"])
        ids, end = [self.vocabulary["start"], *self.encode(prefix)], self.vocabulary["end"]
        words = []
        for position in range(len(ids) + length - 1):
            outputs = self.functions["step"](
                ids=np.array([ids[position]], np.int32),
                positions=np.array([position], np.int32),
                **states,
            )
            states = self.next_states(outputs)
            if position == len(ids) - 1:
                logits = outputs["logits"][0]
                logits[self.manifest["never_generated"]] = -np.inf
                best = int(np.argmax(logits))
                if best == end:
                    break
                ids.append(best)
                words.append(self.words[best])
        return " ".join(words)


class TranslationModel(Export):
    """A translation model of subwords."""

    def __init__(self, folder):
        super().__init__(folder, "encode")
        import sentencepiece

        self.subwords = sentencepiece.SentencePieceProcessor(model_file=str(self.file))

    def translate(self, sentences, language=None):
        """The most probable subword at each step, for all sentences at once."""
        languages = self.vocabulary["languages"]
        if languages and language not in languages:
            raise ValueError(f"--language must be one of {', '.join(languages)}, got {language}")
        first = [languages[language]] if languages else []
        source = self.padded([first + self.subwords.encode(sentence) for sentence in sentences])
        if not source.size:
            return [""] * len(sentences)
        memories = self.functions["encode"](source=source)
        limits = 2 * np.count_nonzero(source, axis=1) + 10
        states = self.first_states(len(source), limits.max())
        ids = np.full([len(source)], self.vocabulary["start"], np.int32)
        written, is_open = [], np.ones([len(source)], bool)
        while is_open.any():
            outputs = self.functions["decode_step"](ids=ids, **memories, **states)
            states = self.next_states(outputs)
            best = np.argmax(outputs["log_probabilities"], axis=1).astype(np.int32)
            ids = np.where(is_open, best, self.vocabulary["end"])
            written.append(ids)
            is_open &= (ids != self.vocabulary["end"]) & (len(written) < limits)
        columns = np.stack(written, axis=1).tolist()
        return [
            self.subwords.decode([i for i in row if i != self.vocabulary["end"]]) if text else ""
            for row, text in zip(columns, sentences, strict=True)
        ]


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder")
    parser.add_argument("function", choices=["score", "generate", "translate"])
    parser.add_argument("sentences", nargs="+")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--language")
    arguments = parser.parse_args()
    if arguments.function == "translate":
        lines = TranslationModel(arguments.folder).translate(
            arguments.sentences, arguments.language
        )
    elif arguments.function == "generate":
        model = LanguageModel(arguments.folder)
        lines = [model.generate(prefix, arguments.length) for prefix in arguments.sentences]
    else:
        scores = zip(*LanguageModel(arguments.folder).score(arguments.sentences), strict=True)
        lines = [f"{score:.6f} {count}" for score, count in scores]
    print("\n".join(lines))


if __name__ == "__main__":
    main()

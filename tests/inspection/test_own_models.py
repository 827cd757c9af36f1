"""Inspection of Keras models of users: every kind of model, of inputs and of vocabulary.

Axes: B rows, S steps, D width, E experts.
"""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import inspection
from tfmoe.data_pipelines import Vocabulary
from tfmoe.distribute import MixedStrategy
from tfmoe.inspection.summaries import ExpertSummaries
from tfmoe.layers import MoE, MoELSTM, MultiGateMoE, SoftMoE
from tfmoe.training.inspection import expert_use as old_expert_use

B, S, D, E = 4, 6, 8, 6
TEXTS = ["the cat sat on the mat", "a dog ran", "the dog and the cat", "mat"]
LENGTHS = [6, 3, 5, 1]
VECTORIZE = keras.layers.TextVectorization(output_sequence_length=S)
VECTORIZE.adapt(TEXTS)
WORDS = VECTORIZE.get_vocabulary()
IDS = VECTORIZE(TEXTS).numpy()
Y = np.linspace(0, 1, B, dtype="float32")[:, None]


def head(x):
    return keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(x))


def embedded(ids, **options):
    return keras.layers.Embedding(len(WORDS), D, **options)(ids)


def sequential(mixture=None):
    mixture = MoE(E, 5, name="moe") if mixture is None else mixture
    embedding = keras.layers.Embedding(len(WORDS), D, mask_zero=True)
    last = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input([None], dtype="int64"), embedding, mixture, *last])


def of_strings():
    texts = keras.Input([], dtype="string")
    x = MoE(E, 5, metrics="all", name="moe")(embedded(VECTORIZE(texts), mask_zero=True))
    return keras.Model(texts, head(x))


def of_dictionary():
    """As the models of KerasHub."""
    ids = keras.Input([None], dtype="int32", name="token_ids")
    mask = keras.Input([None], dtype="int32", name="padding_mask")
    x = MoE(E, 5, name="moe")(embedded(ids), mask=keras.ops.cast(mask, "bool"))
    return keras.Model({"token_ids": ids, "padding_mask": mask}, head(x))


def of_several():
    """Two inputs, a layer with two calls, and a model in the model."""
    ids, features = keras.Input([None], dtype="int64"), keras.Input([5])
    shared = MoE(E, 5, name="shared")
    inner = keras.Sequential([keras.Input([D]), MoE(E, 5, name="moe")], name="inner")
    text = keras.layers.GlobalAveragePooling1D()(shared(embedded(ids)))
    x = inner(text + shared(keras.layers.Dense(D)(features)))
    return keras.Model([ids, features], keras.layers.Dense(1)(x))


def of_images():
    images = keras.Input([6, 6, 3])
    gate_inputs = keras.layers.GlobalAveragePooling2D()(images)
    x = MoE(E, experts=keras.layers.Conv2D(4, 3), name="moe")(images, gate_inputs=gate_inputs)
    return keras.Model(images, keras.layers.Dense(1)(keras.layers.Flatten()(x)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(len(WORDS), D, mask_zero=True)
        self.mixture = MoE(E, 5, name="moe")
        self.last = [keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]

    def call(self, inputs):
        x = self.mixture(self.embedding(inputs))
        for layer in self.last:
            x = layer(x)
        return x


def subclassed():
    model = Subclassed()
    model(IDS)
    return model


def eager():
    model = sequential()
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def under(strategy):
    with strategy.scope():
        model = sequential()
        model.compile("sgd", "mse")
    return model


DICTIONARY = {"token_ids": IDS.astype("int32"), "padding_mask": (IDS > 0).astype("int32")}
MODELS = {
    "sequential": (sequential, IDS),
    "subclassed": (subclassed, IDS),
    "eager": (eager, IDS),
    "strings": (of_strings, np.array(TEXTS)),
    "dictionary": (of_dictionary, DICTIONARY),
    "recurrent": (lambda: sequential(MoELSTM(E, D, name="moe")), IDS),
    "mirrored": (lambda: under(tf.distribute.MirroredStrategy(["CPU:0"])), IDS),
    "mixed": (lambda: under(MixedStrategy(["CPU:0"])), IDS),
}
SLOW = {"eager", "mixed", "mirrored", "recurrent", "subclassed"}
by_model = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MODELS]
)


def made(name):
    make, inputs = MODELS[name]
    keras.utils.set_random_seed(1)
    return make(), inputs


def tokens_of(routed):
    """The words of each line, joined."""
    lines = {line: routed.tokens[routed.lines == line] for line in np.unique(routed.lines)}
    return [" ".join(WORDS[index] for index in ids) for ids in lines.values()]


@by_model
def test_text(name):
    model, inputs = made(name)
    routed = inspection.route_text(model, [(inputs, Y)])
    assert tokens_of(routed["moe"]) == TEXTS
    use = inspection.use_of_experts(routed["moe"])
    assert use.load.sum() == len(routed["moe"].places) >= sum(LENGTHS)
    assert inspection.co_selection(routed["moe"]).strongest() is not None
    assert inspection.routing_consistency(routed["moe"], routed["moe"]).same_experts == 1
    table = inspection.routing_table(routed, WORDS, pandas=False)
    assert table["token"][table["rank"] == 1].tolist() == " ".join(TEXTS).split()


@pytest.mark.parametrize(
    ("name", "weights"), [("dictionary", ()), ("strings", (np.ones(B, "float32"),))]
)
def test_datasets(name, weights):
    model, inputs = made(name)
    batches = tf.data.Dataset.from_tensor_slices((inputs, Y, *weights)).batch(3)
    assert tokens_of(inspection.route_text(model, batches)["moe"]) == TEXTS
    assert old_expert_use(model, batches)["moe"].words.row(0)
    assert len(inspection.route_batches(model, batches)["moe"].tokens) == sum(LENGTHS)


def test_a_loaded_model(tmp_path):
    model, inputs = made("strings")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    one, other = (inspection.route_text(m, [inputs])["moe"] for m in (model, loaded))
    assert inspection.routing_consistency(one, other).kept_mass == 1
    assert tokens_of(other) == TEXTS


def test_tokens_of_a_layer_and_of_a_function():
    model, _ = made("sequential")
    texts = [(IDS, Y)]
    shifted = keras.layers.Lambda(lambda ids: ids + 1)
    for tokens in (shifted, lambda mixture, inputs: inputs + 1):
        routed = inspection.route_text(model, texts, tokens)["moe"]
        np.testing.assert_array_equal(routed.tokens, IDS[IDS > 0] + 1)


def test_a_mixture_without_tokens():
    model = of_several()
    inputs = [((IDS, np.ones([B, 5], "float32")), Y)]
    with pytest.raises(ValueError, match=r"shared processes .*\[4\].*None for a mixture that"):
        inspection.route_text(model, inputs)
    calls = {"shared": [IDS, None]}  # in the order of the calls

    def tokens(mixture, inputs):
        return calls[mixture].pop(0) if calls.get(mixture) else None

    routed = inspection.route_text(model, inputs, tokens)
    assert list(routed) == ["shared", "shared (call 2)", "moe"]
    np.testing.assert_array_equal(routed["shared"].tokens, IDS.ravel())
    np.testing.assert_array_equal(routed["moe"].tokens, np.zeros(B))
    assert list(inspection.route_batches(model, inputs)) == list(routed)


def test_images():
    model, images = of_images(), np.ones([B, 6, 6, 3], "float32")
    assert len(inspection.route_batches(model, [(images, Y)])["moe"].tokens) == B
    with pytest.raises(ValueError, match=r"got none: pass tokens=.* or use route_batches"):
        inspection.route_text(model, [(images, Y)])
    with pytest.raises(ValueError, match="experts of moe cannot be measured: it needs a MoE with"):
        inspection.expert_saliency(model, [(images, Y)])


def test_several_gates():
    inputs = keras.Input([D])
    outputs = MultiGateMoE(2, E, 5, name="moe")(inputs)
    model = keras.Model(inputs, list(outputs))
    routed = inspection.route_batches(model, [np.ones([B, D], "float32")])
    assert list(routed) == ["moe_task_0", "moe_task_1"]


def test_saliency():
    model, inputs = made("sequential")
    assert inspection.expert_saliency(model, [(inputs, Y)])["moe"].shape == (E,)
    with pytest.raises(ValueError, match="has no mixture 'other', only moe"):
        inspection.expert_saliency(model, [inputs], ["other"])
    model, inputs = made("recurrent")
    with pytest.raises(ValueError, match="experts of moe cannot be measured"):
        inspection.expert_saliency(model, [inputs])


def test_soft_mixture_has_no_routing():
    model = sequential(SoftMoE(E, 5, 2, name="soft"))
    with pytest.warns(UserWarning, match="no routing to inspect: soft has no gate that selects"):
        assert inspection.route_batches(model, [IDS]) == {}


class Tokenizer:
    """As those of KerasHub."""

    def id_to_token(self, index):
        return WORDS[index]


VOCABULARIES = {
    "list": WORDS,
    "array": np.array(WORDS),
    "layer": VECTORIZE,
    "function": lambda index: WORDS[index],
    "tokenizer": Tokenizer(),
}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_vocabularies(kind, tmp_path):
    vocabulary = VOCABULARIES[kind]
    model, inputs = made("sequential")
    routed = inspection.route_text(model, [inputs])
    (context,) = inspection.contexts(routed["moe"], 0, vocabulary, number=1)
    assert f"{context.before} {context.token} {context.after}".strip() in " ".join(TEXTS)
    inspection.write_routing_table(routed, vocabulary, tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        tokens = [row["token"] for row in csv.DictReader(file) if row["rank"] == "1"]
    assert tokens == " ".join(TEXTS).split()


def test_without_a_vocabulary():
    model, inputs = made("sequential")
    routed = inspection.route_text(model, [inputs])
    assert inspection.routing_table(routed, pandas=False)["token"][0] == str(IDS[0, 0])
    assert inspection.contexts(routed["moe"], 0)[0].token.isdigit()


def test_other_vocabularies():
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", "a"])
    assert inspection.spelling(vocabulary)(3) == "a"
    for value in (3, "words"):
        with pytest.raises(ValueError, match=r"vocabulary must be .* a list of texts .*got"):
            inspection.spelling(value)
    with pytest.raises(ValueError, match="has the ids 0 to 1, and the text has 2"):
        inspection.spelling(["a", "b"])(2)


def test_summaries_and_health_in_fit(tmp_path):
    model, inputs = made("strings")
    inputs = tf.constant(inputs)  # `fit` takes no strings of NumPy
    model.compile("sgd", "mse")
    summaries = ExpertSummaries(tmp_path, [(inputs, Y)], WORDS)
    model.fit(inputs, Y, verbose=0, callbacks=[summaries, inspection.ExpertHealth()])
    (file,) = tmp_path.iterdir()
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    assert {"moe/contexts", "moe/cv_load", "moe/noise"} <= tags
    with pytest.raises(ValueError, match="vocabulary must be"):
        ExpertSummaries(tmp_path, [(inputs, Y)], 3)

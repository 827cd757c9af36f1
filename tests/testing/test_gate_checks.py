"""Every check of `tfmoe.testing` fails for a gate with the mistake that it looks for."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe import testing
from tfmoe.gating import Gate, TopK
from tfmoe.ops.balancing import load_balance_loss, weighted_losses
from tfmoe.testing.mixtures import in_dtype

CHECKS = testing.GATE_CHECKS


@keras.saving.register_keras_serializable("tests")
class Good(Gate):
    """The k most probable experts; the classes below make one mistake each."""

    METRICS = ("mean_weight",)

    def __init__(self, k=2, **kwargs):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)

    @property
    def num_selected(self):
        return self.k

    def probability(self, inputs, groups):
        return tf.nn.softmax(self.logits("gate_kernel", inputs, groups))

    def route(self, inputs, training=False, groups=None):
        probability = self.probability(inputs, groups)
        weights, experts = tf.math.top_k(probability, self.k)
        return self.routing_of_tokens(experts, weights, groups, probability=probability)

    def loss(self, sums):
        return weighted_losses(sums, (0.1, load_balance_loss))

    def measures(self, sums):
        return {"mean_weight": tf.reduce_sum(sums["importance"]) / tf.reduce_sum(sums["load"])}

    def get_config(self):
        return {**super().get_config(), "k": self.k}


class NotRegistered(Good):
    pass


class LosesASetting(Good):
    def get_config(self):
        return {**super().get_config(), "k": 2}


class SelectsTwice(Good):
    def route(self, inputs, training=False, groups=None):
        weights, experts = tf.math.top_k(self.probability(inputs, groups), 2)
        experts = tf.concat([experts[:, :1], experts[:, :1]], axis=1)
        return self.routing_of_tokens(experts, weights, groups)


class OutOfRange(Good):
    def route(self, inputs, training=False, groups=None):
        weights, experts = tf.math.top_k(self.probability(inputs, groups), 2)
        return self.routing_of_tokens(experts + 6, weights, groups)


class NotFinite(Good):
    def probability(self, inputs, groups):
        return super().probability(inputs, groups) / 0


class SelectsMore(Good):
    num_selected = 1

    def route(self, inputs, training=False, groups=None):
        weights, experts = tf.math.top_k(self.probability(inputs, groups), 2)
        return self.routing_of_tokens(experts, weights, groups)


class NoGradient(Good):
    def probability(self, inputs, groups):
        return tf.stop_gradient(super().probability(inputs, groups))

    def loss(self, sums):
        return None


class NeverMeasures(Good):
    METRICS = ("mean_weight", "other")


class ReadsValues(Good):
    def probability(self, inputs, groups):
        probability = super().probability(inputs, groups)
        return probability if tf.reduce_sum(inputs) > 0 else tf.square(probability)


class CountsPadding(Good):
    """Sums its batch, with the padding that stays if shapes are static."""

    def route(self, inputs, training=False, groups=None):
        routing = super().route(inputs, training, groups)
        return routing._replace(sums={**routing.sums, "all": tf.reduce_sum(inputs)})

    def loss(self, sums):
        return sums["all"] ** 2


class ReadsTheBatch(Good):
    def probability(self, inputs, groups):
        return super().probability(inputs - tf.reduce_mean(inputs, axis=0), groups)


class MeanOfADevice(Good):
    """Adds up means of devices, which have different numbers of tokens."""

    def route(self, inputs, training=False, groups=None):
        routing = super().route(inputs, training, groups)
        mean = tf.reduce_mean(tf.reduce_sum(inputs**2, axis=1))
        return routing._replace(sums={**routing.sums, "mean": mean})

    def loss(self, sums):
        return sums["mean"]


class DynamicShape(Good):
    def route(self, inputs, training=False, groups=None):
        probability = self.probability(inputs, groups)
        weights, experts = tf.math.top_k(probability, 2)
        rows = tf.where(weights[:, 0] > 0)[:, 0]
        return self.routing_of_tokens(tf.gather(experts, rows), tf.gather(weights, rows), groups)


class UnusedWeight(Good):
    kernel_names = ("gate_kernel", "other_kernel")


class NotAWeight(Good):
    """Routes by a matrix that no file has."""

    def build(self, input_shape):
        super().build(input_shape)
        self.matrix = np.random.default_rng().standard_normal((input_shape[-1], self.num_experts))

    def probability(self, inputs, groups):
        return super().probability(inputs, groups) * tf.sigmoid(
            inputs @ tf.cast(self.matrix, inputs.dtype)
        )


class OwnRandomNumbers(Good):
    def probability(self, inputs, groups):
        noise = np.random.default_rng().uniform(0.1, 1)
        return super().probability(inputs, groups) * noise


for broken in [*Good.__subclasses__()]:
    if broken is not NotRegistered:
        keras.saving.register_keras_serializable("tests")(broken)

MISTAKES = [
    (NotRegistered, "configuration", "NotRegistered is not registered"),
    (LosesASetting, "configuration", "the attribute k is 1, and in a copy 2"),
    (SelectsTwice, "routing", "a token has an expert twice"),
    (OutOfRange, "routing", "InvalidArgumentError"),
    (NotFinite, "routing", "a weight is not finite"),
    (SelectsMore, "routing", "2 experts, 2.0 on average, and num_selected is 1"),
    (ReadsValues, "function", "symbolic"),
    (ReadsTheBatch, "order", "depends_on_batch = True"),
    (CountsPadding, "static_shapes", "Not equal to tolerance"),
    (DynamicShape, "portable", "'Where'"),
    (NoGradient, "training", "gate_kernel did not change"),
    (UnusedWeight, "updates", "other_kernel did not change"),
    (NeverMeasures, "metrics", "not reported: .*moe_other"),
    (NotAWeight, "weights_file", "Arrays are not equal"),
    (OwnRandomNumbers, "reproducible", "Arrays are not equal"),
    (MeanOfADevice, "two_devices", "task and balancing losses"),
]


@pytest.mark.parametrize(
    ("gate", "check", "message"), MISTAKES, ids=[f"{g.__name__}-{c}" for g, c, _ in MISTAKES]
)
def test_a_mistake_is_found(gate, check, message):
    (case,) = testing.gate_cases(gate(k=1 if gate is LosesASetting else 2), ["flat"]).values()
    with pytest.raises(AssertionError, match=rf"(?s){gate.__name__} \(flat\), check.*{message}"):
        CHECKS[check](case)


class HidesASetting(Good):
    def __init__(self, k=2, temperature=1.0, **kwargs):
        super().__init__(k, **kwargs)
        self._temperature = temperature

    def get_config(self):
        return {**super().get_config(), "temperature": 1.0}


def test_a_lost_setting_in_a_private_attribute_is_found():
    keras.saving.register_keras_serializable("test_gate_checks")(HidesASetting)
    (case,) = testing.gate_cases(HidesASetting(temperature=5.0), ["flat"]).values()
    with pytest.raises(AssertionError, match=r"_temperature is 5.0, and in a copy 1.0"):
        CHECKS["configuration"](case)


def test_the_error_says_what_holds_and_what_is_usually_wrong():
    with pytest.raises(AssertionError) as raised:
        testing.check_gate(SelectsTwice(), ["flat"], skip={*CHECKS} - {"routing"})
    first, holds, cause = str(raised.value).split("\n")
    assert (
        first == "SelectsTwice (flat), check 'routing': AssertionError: a token has an expert twice"
    )
    assert holds.startswith("What must hold: route returns a Routing")
    assert cause.startswith("What is usually wrong: ids that are not")


# Those with training and with XLA take longer.
@pytest.mark.parametrize("mixture", testing.MIXTURES)
@pytest.mark.parametrize("check", ["configuration", "routing", "dense_formula", "order"])
def test_a_good_gate(check, mixture):
    CHECKS[check](testing.gate_cases(Good(), [mixture])[mixture])


@pytest.mark.slow
def test_all_checks_of_a_good_gate():
    testing.check_gate(Good())


def test_a_mixture_that_refuses_the_gate():
    with pytest.raises(AssertionError, match=r"'inner' refuses the gate: k must be at most 3.*k=4"):
        testing.check_gate(TopK(k=4), ["inner"], skip=set(CHECKS))
    testing.check_gate(TopK(k=4), ["inner"], num_experts=16, skip=set(CHECKS))


def test_gates_that_are_no_level():
    assert list(testing.gate_cases({"name": "hash", "vocabulary_size": 9})) == ["flat"]


def test_unknown_names():
    with pytest.raises(ValueError, match=r"mixtures must be among flat, groups, .* got 'other'"):
        testing.gate_cases(Good(), ["other"])
    with pytest.raises(ValueError, match=r"skip must be among configuration, .* got 'other'"):
        testing.check_gate(Good(), skip="other")


def test_a_mixture_of_ones_own():
    mixtures = {"few": lambda gate: {"gate": gate, "shared_experts": 1}}
    (case,) = testing.gate_cases(Good(), mixtures).values()
    assert case.make_layer().shared.num_shared == 1
    assert repr(case) == "GateCase(Good (few))"


def test_settings_of_keras_are_restored():
    with in_dtype("float64"):
        assert keras.config.floatx() == "float64"
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == ("float32", "float32")

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import Experts, MoE
from tfmoe.optimizers import FactoredAdam, WarmupInverseSqrt, factoring

X = np.random.default_rng(0).standard_normal((24, 6)).astype("float32")
Y = np.sin(X[:, :2])


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def steps_of(optimizer, value, gradients, dtype="float64"):
    """The variable after each step, `[steps, …]`."""
    variable = keras.Variable(value, dtype=dtype)
    values = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, dtype)], [variable])
        values.append(variable.numpy())
    return np.array(values)


def make_model(use_bias=True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input([6])
    hidden = keras.layers.Dense(5, name="dense")(inputs)
    gate = {"name": "softmax"}
    hidden = MoE(4, 7, gate=gate, use_bias=use_bias, activation="tanh", name="moe")(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden))


def fit(model, optimizer=None, epochs=2, **arguments):
    if optimizer is not None:
        model.compile(optimizer, "mse", **arguments)
    history = model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history
    return np.array(history["loss"])


def weights(model):
    return {weight.path: weight.numpy() for weight in model.trainable_weights}


@pytest.fixture(params=[False, True], ids=["at once", "in blocks"])
def blocks(request, monkeypatch):
    """Updates stacks whole, or one matrix at a time."""
    if request.param:
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": 1, "GPU": 1})
    return request.param


class TestArithmetic:
    def test_two_steps_by_hand(self, blocks):
        # β₂ = 1/2, α = 1, ε next to nothing. Two experts of 2 × 2; the second gets its first
        # gradient late.
        first = [[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]
        second = [[[1.0, 1.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]]
        optimizer = FactoredAdam(1.0, beta_2=0.5, epsilon=1e-30, factored="matrices")
        one, two = steps_of(optimizer, np.zeros([2, 2, 2]), [first, second])
        # g² = [1 4; 9 16]: rows 5/2, 25/2, columns 5, 10, mean 15/2. Averages begin at 0, so they
        # are half of that: rows 5/4, 25/4, columns 5/2, 5, mean 15/4.
        # V = [5/4; 25/4] × [5/2, 5] / (15/4) = [5/6 5/3; 25/6 25/3].
        # Bias correction: α · √(1 - 1/2).
        v = np.array([[5 / 6, 5 / 3], [25 / 6, 25 / 3]])
        expected = -np.sqrt(1 / 2) * np.array([[1, 2], [3, 4]]) / np.sqrt(v)
        np.testing.assert_allclose(one[0], expected, rtol=1e-14)
        np.testing.assert_array_equal(one[1], np.zeros([2, 2]))  # no gradient, no change
        # Means of g² = 1 are 1: rows (5/4 + 1) / 2 = 9/8, (25/4 + 1) / 2 = 29/8, columns
        # (5/2 + 1) / 2 = 7/4, (5 + 1) / 2 = 3, mean 19/8. Bias correction: √(1 - 1/4).
        v = np.outer([9 / 8, 29 / 8], [7 / 4, 3]) / (19 / 8)
        expected = one[0] - np.sqrt(3 / 4) / np.sqrt(v)
        np.testing.assert_allclose(two[0], expected, rtol=1e-14)
        # g² = [4 0; 0 0]: rows 2, 0 and columns 2, 0, halved 1, 0 and 1, 0; mean 1/2.
        # V = [2 0; 0 0].
        expected = [[-np.sqrt(3 / 4) * 2 / np.sqrt(2), 0], [0, 0]]
        np.testing.assert_allclose(two[1], expected, rtol=1e-14)

    def test_slots_by_hand(self, blocks):
        optimizer = FactoredAdam(1.0, beta_2=0.75, factored="matrices")
        gradient = np.array([[[1.0, 2.0, 3.0], [0.0, 0.0, 6.0]], [[0.0] * 3] * 2])
        (value,) = steps_of(optimizer, np.zeros([2, 2, 3]), [gradient])
        rows, columns = optimizer._factored_slots[0]
        # g² = [1 4 9; 0 0 36]: a quarter of the means 14/3, 12 and 1/2, 2, 45/2.
        np.testing.assert_allclose(rows, [[14 / 12, 3], [0, 0]], rtol=1e-14)
        np.testing.assert_allclose(columns, [[1 / 8, 1 / 2, 45 / 8], [0, 0, 0]], rtol=1e-14)
        assert np.all(value[gradient == 0] == 0)
        optimizer.apply([tf.zeros([2, 2, 3], tf.float64)])
        np.testing.assert_allclose(rows, [[14 / 16, 9 / 4], [0, 0]], rtol=1e-14)  # it decays

    @pytest.mark.parametrize("changing", ["neither", "rows", "columns"])
    def test_equals_adam_for_squared_gradients_of_rank_1(self, changing, blocks):
        # g²(t) = a_i(t) b_j(t); the average is of rank 1 if one factor keeps its direction.
        rng = np.random.default_rng(3)
        a, b = rng.uniform(0.1, 2, (6, 3, 4, 1)), rng.uniform(0.1, 2, (6, 3, 1, 5))
        scale = rng.uniform(0.1, 2, (6, 3, 1, 1))
        a = a if changing == "rows" else a[:1]
        b = b if changing == "columns" else b[:1]
        gradients = scale * np.sqrt(a * b) * rng.choice([-1, 1], (6, 3, 4, 5))
        arguments = {"beta_2": 0.9, "epsilon": 1e-3}
        start = random(3, 4, 5)
        ours = FactoredAdam(0.1, factored="matrices", **arguments)
        ours = steps_of(ours, start, gradients)
        adam = steps_of(keras.optimizers.Adam(0.1, beta_1=0.0, **arguments), start, gradients)
        np.testing.assert_allclose(ours, adam, rtol=1e-13, atol=1e-14)

    def test_differs_from_adam_if_both_factors_turn(self):
        gradients = [np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]
        ours = steps_of(FactoredAdam(0.1, factored="matrices"), np.zeros([2, 2]), gradients)
        adam = steps_of(keras.optimizers.Adam(0.1, beta_1=0.0), np.zeros([2, 2]), gradients)
        assert np.abs(ours - adam).max() > 0.01

    def test_a_first_moment_if_wanted(self, blocks):
        rng = np.random.default_rng(4)
        factors = rng.uniform(0.1, 2, (3, 4, 1)) * rng.uniform(0.1, 2, (3, 1, 5))
        gradients = np.sqrt(factors) * rng.choice([-1, 1], (5, 3, 4, 5))
        gradients[2] = 0  # a step without gradient still moves on
        start = random(3, 4, 5)
        ours = FactoredAdam(0.1, factored="matrices", factored_beta_1=0.8)
        values = steps_of(ours, start, gradients)
        adam = steps_of(keras.optimizers.Adam(0.1, beta_1=0.8), start, gradients)
        np.testing.assert_allclose(values, adam, rtol=1e-12)
        assert ours._momentums[0].shape == (3, 4, 5)

    def test_each_matrix_by_itself(self):
        gradients = random(4, 3, 2, 5)
        stack = steps_of(FactoredAdam(0.1, factored="matrices"), np.zeros([3, 2, 5]), gradients)
        for expert in range(3):
            optimizer = FactoredAdam(0.1, factored="matrices")
            alone = steps_of(optimizer, np.zeros([2, 5]), gradients[:, expert])
            np.testing.assert_allclose(stack[:, expert], alone, rtol=1e-13)

    @pytest.mark.parametrize("block", [1, 2, 3, 4])
    def test_blocks_change_nothing(self, block, monkeypatch):
        gradients = random(4, 5, 3, 6)
        gradients[:, 1] = 0
        gradients[2, 3] = 0
        gradients[0] = 0
        whole = steps_of(FactoredAdam(0.1, factored="matrices"), random(5, 3, 6), gradients)
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": block * 3 * 6 * 8, "GPU": 1})
        parts = steps_of(FactoredAdam(0.1, factored="matrices"), random(5, 3, 6), gradients)
        np.testing.assert_allclose(parts, whole, rtol=1e-14)

    def test_small_and_large_gradients(self, blocks):
        # 1e-15² · 1e-15² is 0 in float32, 1e15² · 1e15² is infinite.
        gradients = random(3, 2, 4, 5).astype("float32")
        for scale in (1e-15, 1e15):
            optimizer = FactoredAdam(0.1, factored="matrices", epsilon=1e-37)
            values = steps_of(optimizer, np.zeros([2, 4, 5]), gradients * scale, "float32")
            expected = steps_of(
                FactoredAdam(0.1, factored="matrices", epsilon=1e-37),
                np.zeros([2, 4, 5]),
                gradients,
            )
            np.testing.assert_allclose(values, expected, rtol=1e-4)

    def test_nan_is_not_hidden(self, blocks):
        gradient = np.zeros([2, 2, 2])
        gradient[1, 0, 0] = np.nan
        (value,) = steps_of(FactoredAdam(factored="matrices"), np.zeros([2, 2, 2]), [gradient])
        assert np.isnan(value[1]).any() and not np.isnan(value[0]).any()

    def test_half_precision_variables_have_slots_of_full_precision(self, blocks):
        optimizer = FactoredAdam(0.1, factored="matrices")
        variable = keras.Variable(np.ones([2, 3, 4]), dtype="bfloat16")
        for _ in range(3):
            optimizer.apply([tf.ones([2, 3, 4], tf.bfloat16)], [variable])
        assert [slot.dtype for slot in optimizer._factored_slots[0]] == ["float32", "float32"]
        # Equal gradients: every step is of size α.
        np.testing.assert_allclose(tf.cast(variable.value, "float32"), 0.7, atol=0.01)


class TestOrdinaryVariables:
    @pytest.mark.parametrize("shape", [(), (3,), (3, 4), (2, 3, 4)])
    def test_equal_keras_adam(self, shape):
        gradients = random(6, *shape).astype("float32")
        arguments = {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-4}
        ours = steps_of(FactoredAdam(0.1, **arguments), random(*shape), gradients, "float32")
        adam = keras.optimizers.Adam(0.1, **arguments)
        np.testing.assert_array_equal(ours, steps_of(adam, random(*shape), gradients, "float32"))

    def test_a_whole_model_without_the_rule(self):
        factored, adam = make_model(), make_model()
        fit(factored, FactoredAdam(0.01, factored="none"))
        fit(adam, keras.optimizers.Adam(0.01))
        for path, value in weights(adam).items():
            np.testing.assert_array_equal(weights(factored)[path], value, err_msg=path)

    def test_only_experts_are_updated_otherwise(self):
        factored, adam = make_model(), make_model()
        for model, optimizer in (
            (factored, FactoredAdam(0.01)),
            (adam, keras.optimizers.Adam(0.01)),
        ):
            model.compile(optimizer, "mse")
            model.train_on_batch(X, Y)
        for path, value in weights(adam).items():
            same = np.array_equal(weights(factored)[path], value)
            assert same == ("kernel" not in path or "experts" not in path), path


class TestRules:
    def test_experts(self):
        model = make_model()
        optimizer = FactoredAdam()
        optimizer.build(model.trainable_variables)
        slots = zip(model.trainable_variables, optimizer._factored_slots, strict=True)
        chosen = {variable.path: slot for variable, slot in slots if slot}
        assert set(chosen) == {"moe/experts/kernel_0", "moe/experts/kernel_1"}
        rows, columns = chosen["moe/experts/kernel_0"]
        assert (rows.shape, columns.shape) == ((4, 5), (4, 7))

    @pytest.mark.parametrize("name", [None, "experts", "experts_3"])
    def test_experts_layers_by_themselves(self, name):
        layer = Experts(3, 4, name=name)
        layer.build((None, 2))
        assert factoring.choose(layer.trainable_variables, "experts") == [True, True]

    @pytest.mark.parametrize("grouped", [False, True])
    def test_experts_of_a_language_model(self, grouped):
        from tfmoe.layers import ProjectedLSTM
        from tfmoe.models import LanguageModel, residual_blocks

        moe = MoE(4, 8, gate={"name": "noisy_top_k", "k": 2}, groups=2 if grouped else None)
        model = LanguageModel(
            11, 4, residual_blocks([ProjectedLSTM(4, return_sequences=True), moe])
        )
        model(np.array([[1, 2]]))
        variables = model.trainable_variables
        chosen = factoring.choose(variables, "experts")
        assert [v.path for v, yes in zip(variables, chosen, strict=True) if yes] == [
            kernel.path for kernel in moe.experts.kernels
        ]

    def test_matrices(self):
        paths = [variable.path for variable in make_model().trainable_variables]
        chosen = factoring.choose(make_model().trainable_variables, "matrices")
        # A bias of experts [n, h] is a stack of vectors.
        assert chosen == ["bias" not in path for path in paths]

    def test_fragments(self):
        model = make_model()
        optimizer = FactoredAdam(factored=("experts/kernel_1", "dense/"))
        with pytest.raises(ValueError, match=r"dense/bias has shape \(5,\)"):
            optimizer.build(model.trainable_variables)
        optimizer = FactoredAdam(factored=["experts/kernel_1", "dense/kernel"])
        optimizer.build(model.trainable_variables)
        chosen = [slot is not None for slot in optimizer._factored_slots]
        paths = [variable.path for variable in model.trainable_variables]
        assert [path for path, yes in zip(paths, chosen, strict=True) if yes] == [
            "dense/kernel",
            "moe/experts/kernel_1",
        ]

    def test_a_fragment_of_nothing(self):
        optimizer = FactoredAdam(factored=["expert/kernel"])
        with pytest.raises(ValueError, match=r"'expert/kernel', which is in no var.*moe"):
            optimizer.build(make_model().trainable_variables)

    @pytest.mark.parametrize("rule", ["expert", "", [], [""], [3], None, 7])
    def test_unknown_rules(self, rule):
        with pytest.raises(ValueError, match=r"factored must be one of 'experts', 'matrices', 'n"):
            FactoredAdam(factored=rule)

    def test_the_nearest_name(self):
        with pytest.raises(ValueError, match=r"got 'expert'; did you mean 'experts'\?"):
            FactoredAdam(factored="expert")

    @pytest.mark.parametrize("name", ["beta_1", "beta_2", "factored_beta_1"])
    @pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
    def test_wrong_rates(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be at least 0 and below 1, got"):
            FactoredAdam(**{name: value})

    def test_amsgrad(self):
        with pytest.raises(ValueError, match="amsgrad must be False"):
            FactoredAdam(amsgrad=True)


class TestMemory:
    def test_slots_of_experts_take_under_1_percent(self):
        # The paper's expert, 512 → 1024 → 512.
        layer = MoE(4, 1024, name="moe")
        layer.build((None, 512))
        optimizer = FactoredAdam()
        optimizer.build(layer.trainable_variables)
        kernels = [v for v in layer.trainable_variables if "experts" in v.path]
        weights = sum(kernel.value.shape.num_elements() * 4 for kernel in kernels)
        assert weights == 4 * 2**20 * 4
        slots = [variable for variable in optimizer.variables if "experts" in variable.path]
        slot_bytes = sum(slot.value.shape.num_elements() * 4 for slot in slots)
        # 512 + 1024 numbers for each of two matrices of 512 × 1024: 0.29%.
        assert slot_bytes == 4 * 2 * 1536 * 4
        assert slot_bytes / weights < 0.01
        # And nothing of an expert's size anywhere else: step, rate, two full slots of each gate.
        others = [variable for variable in optimizer.variables if "experts" not in variable.path]
        assert max(variable.value.shape.num_elements() for variable in others) == 512 * 4

    @pytest.mark.parametrize("rank", [2, 3, 4])
    def test_shapes_keep_the_leading_axes(self, rank):
        shape = (7, 6, 5, 4)[-rank:]
        optimizer = FactoredAdam(factored="matrices")
        steps_of(optimizer, random(*shape), random(1, *shape))
        rows, columns = optimizer._factored_slots[0]
        assert (rows.shape, columns.shape) == (shape[:-1], (*shape[:-2], 4))
        assert factoring.slot_shapes(shape) == (rows.shape, columns.shape)

    def test_the_variable_is_not_copied_at_every_read_from_then_on(self, monkeypatch):
        # scatter_sub would leave it so.
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": 1, "GPU": 1})
        variable = keras.Variable(np.zeros([4, 8, 8]), dtype="float32")
        FactoredAdam(factored="matrices").apply([tf.ones([4, 8, 8])], [variable])

        def address():
            value = tf.raw_ops.ReadVariableOp(resource=variable.value.handle, dtype=tf.float32)
            return value, np.asarray(memoryview(value)).__array_interface__["data"][0]

        (_first, one), (_second, two) = address(), address()
        assert one == two


OPTIONS = [
    {"learning_rate": WarmupInverseSqrt(0.01, 2)},
    {"clipnorm": 0.01},
    {"clipvalue": 0.001},
    {"global_clipnorm": 0.01},
    {"weight_decay": 0.1},
    {"use_ema": True, "ema_momentum": 0.5},
    {"use_ema": True, "ema_overwrite_frequency": 2},
    {"loss_scale_factor": 128.0},
    {"gradient_accumulation_steps": 2},
    {"factored_beta_1": 0.9},
]


class TestKeras:
    @pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options))
    def test_options(self, options, blocks):
        # Matrices of one weight are factored without loss, so that all must be as with Adam.
        gradients = random(6, 3, 1, 1).astype("float32")
        arguments = {"learning_rate": 0.1, **options}
        ours = FactoredAdam(factored="matrices", **arguments)
        beta_1 = arguments.pop("factored_beta_1", 0.0)
        adam = keras.optimizers.Adam(beta_1=beta_1, **arguments)
        start = random(3, 1, 1)
        ours, adam = (steps_of(each, start, gradients, "float32") for each in (ours, adam))
        np.testing.assert_allclose(ours, adam, rtol=1e-5)
        assert np.ptp(ours[:, 0]) > 0

    def test_options_together_in_fit(self, monkeypatch):
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": 1, "GPU": 1})
        optimizer = FactoredAdam(
            WarmupInverseSqrt(0.01, 2),
            global_clipnorm=1.0,
            weight_decay=1e-3,
            use_ema=True,
            gradient_accumulation_steps=2,
        )
        losses = fit(make_model(), optimizer, epochs=5)
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_in_a_graph_and_under_xla(self, jit_compile, blocks):
        gradients = random(3, 3, 4, 5)
        variable = keras.Variable(np.zeros([3, 4, 5]), dtype="float64")
        optimizer = FactoredAdam(0.1, factored="matrices")
        optimizer.build([variable])
        step = tf.function(lambda g: optimizer.apply([g], [variable]), jit_compile=jit_compile)
        eager = FactoredAdam(0.1, factored="matrices")
        for gradient, value in zip(
            gradients, steps_of(eager, np.zeros([3, 4, 5]), gradients), strict=True
        ):
            step(tf.constant(gradient))
            np.testing.assert_allclose(variable, value, rtol=1e-12)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
    def test_mixed_precision_and_loss_scaling(self, policy):
        keras.config.set_dtype_policy(policy)
        try:
            model = make_model()
        finally:
            keras.config.set_dtype_policy("float32")
        fit(model, FactoredAdam(0.01))
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled == (policy == "mixed_float16")
        losses = fit(model, epochs=2)
        assert np.all(np.isfinite(losses)) and losses[1] < losses[0]

    @pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
    @pytest.mark.parametrize("factored", ["experts", "matrices"])
    def test_sparse_gradients(self, factored, clip):
        model = keras.Sequential([keras.Input([3]), keras.layers.Embedding(10, 4)])
        model.compile(FactoredAdam(0.1, factored=factored, **{clip: 1.0}), "mse")
        tokens = np.arange(24).reshape(8, 3) % 7
        before = model.layers[0].embeddings.numpy()
        model.fit(tokens, np.ones([8, 3, 4]), verbose=0, epochs=2)
        after = model.layers[0].embeddings.numpy()
        assert np.all((after - before)[:7] > 0)
        np.testing.assert_array_equal(after[7:], before[7:])

    def test_repeated_rows_of_a_sparse_gradient_are_summed(self):
        slices = tf.IndexedSlices(
            tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), tf.constant([2, 0, 2]), [3, 2]
        )
        values = []
        for gradient in (slices, tf.constant([[3.0, 4.0], [0.0, 0.0], [6.0, 8.0]])):
            variable = keras.Variable(np.zeros([3, 2]), dtype="float32")
            FactoredAdam(0.1, factored="matrices").apply([gradient], [variable])
            values.append(variable.numpy())
        np.testing.assert_allclose(*values, rtol=1e-6)

    def test_config_round_trip(self):
        optimizer = FactoredAdam(
            WarmupInverseSqrt(1.0, 4),
            beta_1=0.5,
            beta_2=0.75,
            epsilon=1e-3,
            factored=["a", "b"],
            factored_beta_1=0.25,
            global_clipnorm=3.0,
            weight_decay=0.1,
            name="mine",
        )
        data = keras.saving.serialize_keras_object(optimizer)
        again = keras.saving.deserialize_keras_object(data)
        assert again.get_config() == optimizer.get_config()
        assert again.factored == ["a", "b"] and again.factored_beta_1 == 0.25

    @pytest.mark.parametrize("options", [{}, {"factored_beta_1": 0.5, "use_ema": True}], ids=str)
    def test_saved_and_loaded_training_goes_on_the_same(self, options, tmp_path):
        model = make_model()
        fit(model, FactoredAdam(WarmupInverseSqrt(0.01, 3), **options))
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        assert int(again.optimizer.iterations) == 6
        for ours, theirs in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
        np.testing.assert_array_equal(fit(again), fit(model))

    def test_own_variables(self):
        gradients = random(4, 2, 3, 4)
        whole = steps_of(FactoredAdam(0.1, factored="matrices"), random(2, 3, 4), gradients)
        first, second = (FactoredAdam(0.1, factored="matrices") for _ in range(2))
        steps_of(first, random(2, 3, 4), gradients[:2])
        store = {}
        first.save_own_variables(store)
        variable = keras.Variable(whole[1], dtype="float64")
        second.build([variable])
        second.load_own_variables(store)
        for gradient in gradients[2:]:
            second.apply([tf.constant(gradient)], [variable])
        np.testing.assert_array_equal(variable, whole[3])

    def test_tensorflow_checkpoint(self, tmp_path):
        layer = Experts(2, 4, use_bias=True)
        layer.build((None, 3))
        optimizer = FactoredAdam(0.1)
        gradients = [tf.ones(variable.shape) for variable in layer.trainable_variables]
        optimizer.apply(gradients, layer.trainable_variables)
        path = tf.train.Checkpoint(optimizer=optimizer).save(str(tmp_path / "checkpoint"))
        saved = [variable.numpy() for variable in optimizer.variables]
        assert len(saved) == 2 + 4 * 2  # step and rate, two slots for each weight
        optimizer.apply(gradients)
        tf.train.Checkpoint(optimizer=optimizer).restore(path).assert_consumed()
        for variable, value in zip(optimizer.variables, saved, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)

    def test_variables_of_another_model(self):
        optimizer = FactoredAdam()
        optimizer.build(make_model().trainable_variables)
        with pytest.raises(ValueError, match="Unknown variable"):
            optimizer.apply([tf.zeros([2])], [keras.Variable(np.zeros(2))])


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from tfmoe.optimizers import FactoredAdam, factoring

factoring.BLOCK_BYTES = {"CPU": 1, "GPU": 1}
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
gradients = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32")
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    variable = keras.Variable(np.zeros([3, 4, 5]), dtype="float32")
    optimizer = FactoredAdam(0.1, factored="matrices")
    optimizer.build([variable])

@tf.function
def step():
    def replica():
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        optimizer.apply([tf.gather(gradients, index)], [variable])

    strategy.run(replica)

alone = FactoredAdam(0.1, factored="matrices")
copy = keras.Variable(np.zeros([3, 4, 5]), dtype="float32")
for _ in range(2):
    step()
    alone.apply([tf.constant(gradients.sum(0))], [copy])
    components = strategy.experimental_local_results(variable.value)
    assert len(components) == 2
    for component in components:
        np.testing.assert_allclose(component.numpy(), copy.numpy(), rtol=1e-4)
for slot in optimizer._factored_slots[0]:
    assert len(strategy.experimental_local_results(slot.value)) == 2
"""


def test_replicas_of_a_strategy():
    # In a process of its own: logical devices are made before anything else.
    done = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]

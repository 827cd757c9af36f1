"""`FactoredAdam` with the options, training, files and strategies of Keras and TensorFlow."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers.factored_adam.training_steps import fit, make_model, random, run_steps

from tfmoe.layers import Experts
from tfmoe.optimizers import FactoredAdam, WarmupInverseSqrt, factoring

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
        # 1 × 1 matrices are factored exactly, so the results must equal those of Adam.
        gradients = random(6, 3, 1, 1).astype("float32")
        arguments = {"learning_rate": 0.1, **options}
        factored = FactoredAdam(factored="matrices", **arguments)
        beta_1 = arguments.pop("factored_beta_1", 0.0)
        adam = keras.optimizers.Adam(beta_1=beta_1, **arguments)
        start = random(3, 1, 1)
        factored, adam = (run_steps(opt, start, gradients, "float32") for opt in (factored, adam))
        np.testing.assert_allclose(factored, adam, rtol=1e-5)
        assert np.ptp(factored[:, 0]) > 0

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
            gradients, run_steps(eager, np.zeros([3, 4, 5]), gradients), strict=True
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
        restored = keras.saving.deserialize_keras_object(data)
        assert restored.get_config() == optimizer.get_config()
        assert restored.factored == ["a", "b"] and restored.factored_beta_1 == 0.25

    @pytest.mark.parametrize("options", [{}, {"factored_beta_1": 0.5, "use_ema": True}], ids=str)
    def test_training_continues_after_loading(self, options, tmp_path):
        model = make_model()
        fit(model, FactoredAdam(WarmupInverseSqrt(0.01, 3), **options))
        model.save(tmp_path / "model.keras")
        restored = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
        assert int(restored.optimizer.iterations) == 6
        for a, b in zip(model.optimizer.variables, restored.optimizer.variables, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
        np.testing.assert_array_equal(fit(restored), fit(model))

    def test_save_and_load_own_variables(self):
        gradients = random(4, 2, 3, 4)
        whole = run_steps(FactoredAdam(0.1, factored="matrices"), random(2, 3, 4), gradients)
        first, second = (FactoredAdam(0.1, factored="matrices") for _ in range(2))
        run_steps(first, random(2, 3, 4), gradients[:2])
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
    # A separate process, since logical devices must be created first.
    result = subprocess.run([sys.executable, "-c", REPLICAS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]

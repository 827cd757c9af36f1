import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import MixedStrategy, collectives, distribute_rows
from tfmoe.distribute.shards import sharded
from tfmoe.distribute.strategy import form_groups, rows_of
from tfmoe.distribute.tensorflow_internals import ReplicaSeeds, ShardedVariable
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.optimizers import FactoredAdam

D, H, E = 6, 5, 8
FLOAT = 4  # bytes


def make_model(strategy=None, num_experts=E, groups=None, optimizer="adam", seed=3, noise=False):
    """A compiled, untrained model with one mixture."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(seed)
        inputs = keras.Input([D])
        gate = NoisyTopK(k=2, noise=noise, importance_weight=0.1)
        x = MoE(num_experts, H, gate=gate, groups=groups, name="moe")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        optimizers = {"adam": lambda: keras.optimizers.Adam(0.01), "factored": FactoredAdam}
        model.compile(optimizers[optimizer](), "mse")
        model.optimizer.build(model.trainable_variables)
    return model


def sharded_variables(model):
    """`{path: ShardedVariable}` of a model and its optimizer."""
    variables = [*model.variables, *model.optimizer.variables]
    return {v.path: v.value for v in variables if isinstance(v.value, ShardedVariable)}


def check_same_weights(model, other):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Devices and workers.


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            ["CPU:0", "CPU:9"],
            "'CPU:9' does not exist; available: CPU:0, CPU:1, CPU:2, CPU:3",
        ),
        (["GPU:99"], "devices: 'GPU:99' does not exist"),
        (["nonsense"], "devices: 'nonsense' does not exist"),
        ([], "devices must not be empty"),
    ],
)
def test_invalid_devices(devices, message):
    with pytest.raises(ValueError, match=message):
        MixedStrategy(devices)


@pytest.mark.parametrize("prefix", ["", "/", "/device:"])
def test_spellings_of_a_device(prefix):
    assert MixedStrategy([f"{prefix}CPU:0", f"{prefix}CPU:1"]).num_replicas_in_sync == 2


def test_a_worker_asks_for_its_rows_only():
    """Of batches of rows 10·n, 10·n + 1, …: batch n has n + 1 rows."""
    strategy = MixedStrategy(["CPU:0", "CPU:1"])
    asked = []

    def rows(first, num_local, replicas):
        asked.append((first, num_local, replicas))

        def rows_of_replica(number):
            batch, replica = number // num_local, first + number % num_local
            size = batch + 1
            return 10 * batch + tf.range(size * replica // 2, size * (replica + 1) // 2)

        return tf.data.Dataset.range(6).map(rows_of_replica)

    batches = distribute_rows(strategy, rows)
    assert isinstance(batches, tf.distribute.DistributedDataset)
    found = [
        [part.numpy().tolist() for part in strategy.experimental_local_results(batch)]
        for batch in batches
    ]
    assert found == [[[], [0]], [[10], [11]], [[20], [21, 22]]]
    assert [batch.numpy().tolist() for batch in distribute_rows(None, rows).take(2)] == [[], [10]]
    assert asked == [(0, 2, 2), (0, 1, 1)]


def test_devices_and_a_cluster_exclude_each_other():
    cluster = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": ["localhost:1"]}), task_type="worker", task_id=0
    )
    with pytest.raises(ValueError, match="cannot be set at the same time"):
        MixedStrategy(["CPU:0"], cluster_resolver=cluster)


def test_one_worker_without_a_cluster(strategy_of):
    strategy = strategy_of(4)
    assert (strategy.num_workers, strategy.worker, strategy.num_replicas_in_sync) == (1, 0, 4)
    assert strategy.sum_over_workers(3) == 3


# Rows of each replica.


@pytest.mark.parametrize(
    ("rows", "replicas", "expected"),
    [
        (8, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (7, 4, [[0], [1, 2], [3, 4], [5, 6]]),  # 7/4, 14/4 and 21/4 rounded down: 1, 3, 5
        (3, 4, [[], [0], [1], [2]]),
        (1, 4, [[], [], [], [0]]),
        (0, 2, [[], []]),
        (3, 1, [[0, 1, 2]]),
    ],
)
def test_rows_of_a_replica(rows, replicas, expected):
    batch = {"x": tf.range(rows), "pair": (tf.zeros([rows, 2, 3]), tf.constant(5))}
    for replica, indices in enumerate(expected):
        part = rows_of(batch, replica, replicas)
        np.testing.assert_array_equal(part["x"], indices)
        assert part["pair"][0].shape == (len(indices), 2, 3)
        assert part["pair"][1] == 5


def test_every_replica_gets_a_batch_of_scalars():
    assert rows_of((tf.constant(3), tf.constant(4)), 1, 2) == (3, 4)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_collectives_order_the_replicas_by_index(strategy_of, replicas):
    form_groups(strategy_of(replicas))


def test_another_order_of_devices_raises_an_error(strategy_of, monkeypatch):
    """TensorFlow may order GPUs by their interconnect."""
    replica_id = collectives.replica_id
    monkeypatch.setattr(collectives, "replica_id", lambda: 1 - replica_id())
    with pytest.raises(RuntimeError, match=r"order the devices as \[1, 0\], not by"):
        form_groups(strategy_of(2))


def test_a_scalar_cannot_be_sharded(strategy_of):
    with (
        strategy_of(2).scope(),
        sharded(),
        pytest.raises(ValueError, match="temperature is a scalar"),
    ):
        tf.Variable(1.0, name="temperature")


def test_distributed_dataset(strategy_of):
    strategy = strategy_of(2)
    batches = tf.data.Dataset.from_tensor_slices(tf.range(7)).batch(4)
    distributed = [
        [part.numpy().tolist() for part in strategy.experimental_local_results(batch)]
        for batch in strategy.experimental_distribute_dataset(batches)
    ]
    assert distributed == [[[0, 1], [2, 3]], [[4], [5, 6]]]


# Memory.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Kernels [8, 6, 5] and [8, 5, 6] and two Adam slots for each, on 4 devices.
        ({}, [3 * 2 * 2 * D * H] * 4),
        # The same, and the secondary gates [4, 6, 2] with their slots.
        ({"groups": 4}, [3 * (2 * 2 * D * H + D * 2)] * 4),
        # Slots for rows and columns, D + H for each matrix.
        ({"optimizer": "factored"}, [2 * 2 * (D * H + D + H)] * 4),
        # 9 experts: 3, 2, 2 and 2.
        ({"num_experts": 9}, [3 * n * 2 * D * H for n in (3, 2, 2, 2)]),
        # 2 groups of 4 experts, 2 experts on each device; the gates are on all devices.
        ({"groups": 2}, [3 * 2 * 2 * D * H] * 4),
    ],
)
def test_sharded_bytes_on_every_device(strategy_of, options, expected):
    model = make_model(strategy_of(4), **options)
    num_bytes = [0] * 4
    for variable in sharded_variables(model).values():
        for part in variable.local_parts():
            device = int(part.device.rpartition(":")[2])
            num_bytes[device] += int(tf.size(part)) * part.dtype.size
    assert num_bytes == [FLOAT * size for size in expected]


@pytest.mark.parametrize("groups", [None, 4])
def test_only_experts_and_their_gates_are_sharded(strategy_of, groups):
    model = make_model(strategy_of(2), groups=groups)
    assert {path for path in sharded_variables(model) if not path.startswith("adam")} == {
        "moe/experts/kernel_0",
        "moe/experts/kernel_1",
        *(["moe/gate/secondary/gate_kernel"] if groups else []),
    }
    for variable in (*model.variables, *model.optimizer.variables):
        if not isinstance(variable.value, ShardedVariable | ReplicaSeeds):
            assert isinstance(variable.value, tf.distribute.DistributedValues)
            assert len(variable.value.values) == 2


# The logical tensor.


def test_reading_returns_the_logical_tensor(strategy_of):
    strategy = strategy_of(4)
    model, plain = make_model(strategy, num_experts=9), make_model(num_experts=9)
    check_same_weights(model, plain)
    kernel, expected = model.get_layer("moe").experts.kernels[0], plain.get_weights()
    assert tuple(kernel.shape) == kernel.value.shape == (9, D, H)
    whole = next(weight for weight in expected if weight.shape == (9, D, H))
    for value in (
        kernel.numpy(),
        np.array(kernel),
        kernel.value.read_value(),
        kernel.value.numpy(),
    ):
        np.testing.assert_array_equal(value, whole)
    parts = [part.numpy() for part in kernel.value.local_parts()]
    assert [len(part) for part in parts] == [3, 2, 2, 2]
    np.testing.assert_array_equal(parts[1], whole[3:5])
    assert kernel.value.local_bounds() == [(0, 3), (3, 5), (5, 7), (7, 9)]


def test_assignment_of_the_logical_tensor(strategy_of):
    kernel = make_model(strategy_of(2)).get_layer("moe").experts.kernels[0]
    new = np.arange(E * D * H, dtype=np.float32).reshape(E, D, H)
    kernel.assign(new)
    np.testing.assert_array_equal(kernel.numpy(), new)
    np.testing.assert_array_equal(kernel.value.local_parts()[1].numpy(), new[4:])
    kernel.value.assign_add(tf.ones_like(new))
    np.testing.assert_array_equal(kernel.numpy(), new + 1)


def test_a_replica_reads_its_part(strategy_of, in_replicas):
    strategy = strategy_of(2)
    kernel = make_model(strategy).get_layer("moe").experts.kernels[0]
    parts = in_replicas(strategy, lambda r: tf.convert_to_tensor(kernel))
    np.testing.assert_array_equal(np.concatenate(parts), kernel.numpy())
    assert [part.shape for part in parts] == [(4, D, H)] * 2


def test_weights_are_saved_and_loaded(strategy_of, tmp_path):
    path = tmp_path / "m.weights.h5"
    model, plain = make_model(strategy_of(4), num_experts=9), make_model(num_experts=9, seed=4)
    model.save_weights(path)
    plain.load_weights(path)
    check_same_weights(plain, model)
    other = make_model(strategy_of(2), num_experts=9, seed=5)
    other.load_weights(path)
    check_same_weights(other, model)
    plain = make_model(num_experts=9, seed=6)
    plain.save_weights(path)
    other.load_weights(path)
    check_same_weights(other, plain)
    np.testing.assert_array_equal(
        other.get_layer("moe").experts.kernels[0].value.local_parts()[1].numpy(),
        plain.get_layer("moe").experts.kernels[0].numpy()[5:],
    )


@pytest.mark.parametrize("groups", [None, 4])
def test_models_are_saved_and_loaded(strategy_of, tmp_path, groups):
    model = make_model(strategy_of(4), groups=groups)
    model.optimizer.variables[-1].assign(tf.ones_like(model.optimizer.variables[-1]))
    model.save(tmp_path / "m.keras")
    plain = keras.saving.load_model(tmp_path / "m.keras")
    check_same_weights(plain, model)
    assert not sharded_variables(plain)
    for a, b in zip(plain.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    x = np.random.default_rng(0).standard_normal((3, D)).astype("float32")
    np.testing.assert_array_equal(plain(x), make_model(groups=groups)(x))
    plain.save(tmp_path / "plain.keras")
    with strategy_of(2).scope():
        reloaded = keras.saving.load_model(tmp_path / "plain.keras")
    check_same_weights(reloaded, plain)
    assert len(sharded_variables(reloaded)) == len(sharded_variables(model)) > 2


# Tokens.


@pytest.mark.parametrize("groups", [None, 2])
def test_experts_without_tokens(strategy_of, in_replicas, groups):
    strategy = strategy_of(2)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        layer = MoE(4, H, gate=NoisyTopK(k=1, noise=False), groups=groups, name="moe")
        layer.build((None, D))
    for weight in layer.gate.trainable_weights:
        weight.assign(tf.zeros(weight.shape))  # a tie: all tokens go to expert 0, on replica 0
    kernels = [kernel.value for kernel in layer.experts.kernels]

    def run(r):
        with tf.GradientTape() as tape:
            y = layer(tf.constant([[1.0] * D, [-2.0] * D])[r : r + 1])
            loss = tf.reduce_sum(y)
        return y, tape.gradient(loss, kernels)

    (y0, gradients0), (y1, gradients1) = in_replicas(strategy, run)
    first, second = (kernel.numpy()[0] for kernel in layer.experts.kernels)
    np.testing.assert_allclose(y0, np.maximum(np.ones([1, D]) @ first, 0) @ second, 1e-5, 1e-5)
    np.testing.assert_allclose(y1, np.maximum(-2 * np.ones([1, D]) @ first, 0) @ second, 1e-5, 1e-5)
    for dkernel0, dkernel1 in zip(gradients0, gradients1, strict=True):
        assert np.any(dkernel0[0]) and not np.any(dkernel0[1]) and not np.any(dkernel1)
    assert float(layer.expert_metrics.result()["moe_unused_experts"]) == 3 / 4


@pytest.mark.parametrize("groups", [None, 2])
def test_a_batch_of_padding_only(strategy_of, in_replicas, groups):
    strategy = strategy_of(2)
    with strategy.scope():
        gate = NoisyTopK(k=2, importance_weight=0.3, load_weight=0.2)
        layer = MoE(4, H, gate=gate, groups=groups, capacity_factor=1.0)
        layer.build((None, D))

    def run(r):
        with tf.GradientTape() as tape:
            y = layer(tf.ones([2, 3, D]), mask=tf.zeros([2, 3], tf.bool), training=True)
            loss = tf.reduce_sum(y) + sum(layer.losses)
        return y, loss, tape.gradient(loss, [kernel.value for kernel in layer.experts.kernels])

    for y, loss, gradients in in_replicas(strategy, run):
        np.testing.assert_array_equal(y, np.zeros([2, 3, D]))
        assert loss == 0
        assert not any(np.any(gradient) for gradient in gradients)


def test_reduce_accepts_the_values_of_keras(strategy_of):
    strategy = strategy_of(2)
    values = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant([3.0, 4.0])[context.replica_id_in_sync_group]
    )
    assert float(strategy.reduce("SUM", values, axis=0)) == 3 + 4
    batch = strategy.reduce("SUM", {"a": values, "b": (values,)}, axis=0)  # Keras reads its shapes
    assert (float(batch["a"]), float(batch["b"][0])) == (3, 3)

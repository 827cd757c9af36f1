import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfmoe.distribute import MixedStrategy, logical_cpus
from tfmoe.gating import NoisyTopK
from tfmoe.inspection.summaries import ExpertSummaries
from tfmoe.layers import MoE
from tfmoe.models import LanguageModel, residual_blocks


def test_no_expert_summaries_on_several_devices(tmp_path):
    """No device has all experts, so the callback only writes the speed."""
    keras.utils.set_random_seed(0)
    with MixedStrategy(logical_cpus(2)).scope():
        layer = MoE(num_experts=4, hidden_units=2, gate=NoisyTopK(k=2), name="moe")
        model = LanguageModel(5, 4, residual_blocks([layer]))
        model.compile(keras.optimizers.SGD(0.1))
        model.build((None, None))
    tokens = np.tile(np.array([[1, 3, 4]], np.int32), (4, 1))
    batches = tf.data.Dataset.from_tensors((tokens, tokens)).repeat(2)
    summaries = ExpertSummaries(tmp_path, [(tokens, tokens)])
    model.fit(batches, epochs=1, verbose=0, callbacks=[summaries])
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    assert set(events.Tags()["tensors"]) == {
        "training/words_per_second",
        "training/flops_per_device",
        "training/learning_rate",
    }

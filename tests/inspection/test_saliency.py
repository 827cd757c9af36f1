"""The saliency of experts, by hand."""

import keras
import numpy as np
import tensorflow as tf

from tfmoe.inspection import expert_saliency
from tfmoe.layers import MoE


def test_saliency():
    inputs = keras.Input([1, 2])
    moe = MoE(3, 1, gate={"name": "top_k", "k": 2}, activation="linear", name="moe")
    model = keras.Model(inputs, moe(inputs))
    moe.gate.gate_kernel.assign([[0.0, np.log(3.0), -9.0], [0.0, -9.0, np.log(7.0)]])
    first, last = moe.experts.kernels
    first.assign([[[1.0], [1.0]], [[2.0], [0.0]], [[0.0], [5.0]]])
    last.assign([[[3.0, 4.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    # x = (1, 0): logits 0, log 3, -9: experts 0 and 1 with weights 1/4 and 3/4;
    #   E_0 = 1·(3, 4), length 5; E_1 = 2·(0, 1), length 2.
    # x = (2, 0): logits 0, 2 log 3: weights 1/10 and 9/10; lengths 10 and 4.
    # x = (0, 1): logits 0, log 7: experts 0 and 2 with weights 1/8 and 7/8; lengths 5 and 5.
    batches = [tf.constant([[[1.0, 0]], [[2, 0]]]), (tf.constant([[[0.0, 1]]]), None)]
    saliency = expert_saliency(model, batches, ["moe"])["moe"]
    expected = [(5 / 4 + 10 / 10 + 5 / 8) / 3, (2 * 3 / 4 + 4 * 9 / 10) / 2, 5 * 7 / 8]
    np.testing.assert_allclose(saliency, expected, rtol=1e-5)
    # Expert 2 is selected by no token of the first batch.
    assert expert_saliency(model, batches[:1], ["moe"])["moe"][2] == 0

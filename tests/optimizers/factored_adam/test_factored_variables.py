"""The factored variables, and the memory of their slots."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizers.factored_adam.training_steps import make_model, random, run_steps

from tfmoe.layers import Experts, MoE
from tfmoe.optimizers import FactoredAdam, factoring


class TestRules:
    def test_experts(self):
        model = make_model()
        optimizer = FactoredAdam()
        optimizer.build(model.trainable_variables)
        slots = zip(model.trainable_variables, optimizer._factored_slots, strict=True)
        factored = {variable.path: slot for variable, slot in slots if slot}
        assert set(factored) == {"moe/experts/kernel_0", "moe/experts/kernel_1"}
        rows, columns = factored["moe/experts/kernel_0"]
        assert (rows.shape, columns.shape) == ((4, 5), (4, 7))

    @pytest.mark.parametrize("name", [None, "experts", "experts_3"])
    def test_experts_layers_without_a_mixture(self, name):
        layer = Experts(3, 4, name=name)
        layer.build((None, 2))
        assert factoring.select_factored(layer.trainable_variables, "experts") == [True, True]

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
        flags = factoring.select_factored(variables, "experts")
        assert [v.path for v, flag in zip(variables, flags, strict=True) if flag] == [
            kernel.path for kernel in moe.experts.kernels
        ]

    def test_matrices(self):
        paths = [variable.path for variable in make_model().trainable_variables]
        flags = factoring.select_factored(make_model().trainable_variables, "matrices")
        # A bias of experts [n, h] is a stack of vectors.
        assert flags == ["bias" not in path for path in paths]

    def test_fragments(self):
        model = make_model()
        optimizer = FactoredAdam(factored=("experts/kernel_1", "dense/"))
        with pytest.raises(ValueError, match=r"dense/bias has shape \(5,\)"):
            optimizer.build(model.trainable_variables)
        optimizer = FactoredAdam(factored=["experts/kernel_1", "dense/kernel"])
        optimizer.build(model.trainable_variables)
        flags = [slot is not None for slot in optimizer._factored_slots]
        paths = [variable.path for variable in model.trainable_variables]
        assert [path for path, flag in zip(paths, flags, strict=True) if flag] == [
            "dense/kernel",
            "moe/experts/kernel_1",
        ]

    def test_a_fragment_in_no_path(self):
        optimizer = FactoredAdam(factored=["expert/kernel"])
        with pytest.raises(ValueError, match=r"'expert/kernel', which is in no var.*moe"):
            optimizer.build(make_model().trainable_variables)

    @pytest.mark.parametrize("rule", ["expert", "", [], [""], [3], None, 7])
    def test_unknown_rules(self, rule):
        with pytest.raises(ValueError, match=r"factored must be one of 'experts', 'matrices', 'n"):
            FactoredAdam(factored=rule)

    def test_hint_for_an_unknown_rule(self):
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
        # 512 + 1024 values for each of two matrices of 512 × 1024: 0.29%.
        assert slot_bytes == 4 * 2 * 1536 * 4
        assert slot_bytes / weights < 0.01
        # The other slots are small: step, learning rate, two full slots for each gate matrix.
        others = [variable for variable in optimizer.variables if "experts" not in variable.path]
        assert max(variable.value.shape.num_elements() for variable in others) == 512 * 4

    @pytest.mark.parametrize("rank", [2, 3, 4])
    def test_shapes_keep_the_leading_axes(self, rank):
        shape = (7, 6, 5, 4)[-rank:]
        optimizer = FactoredAdam(factored="matrices")
        run_steps(optimizer, random(*shape), random(1, *shape))
        rows, columns = optimizer._factored_slots[0]
        assert (rows.shape, columns.shape) == (shape[:-1], (*shape[:-2], 4))
        assert factoring.slot_shapes(shape) == (rows.shape, columns.shape)

    def test_reads_do_not_copy_the_variable(self, monkeypatch):
        # After scatter_sub they would.
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": 1, "GPU": 1})
        variable = keras.Variable(np.zeros([4, 8, 8]), dtype="float32")
        FactoredAdam(factored="matrices").apply([tf.ones([4, 8, 8])], [variable])

        def address():
            value = tf.raw_ops.ReadVariableOp(resource=variable.value.handle, dtype=tf.float32)
            return value, np.asarray(memoryview(value)).__array_interface__["data"][0]

        (_first, first_address), (_second, second_address) = address(), address()
        assert first_address == second_address

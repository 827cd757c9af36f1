"""Expert choice (Zhou et al. 2022): every expert selects its tokens.

Axes: T tokens, E experts, G groups of a hierarchical mixture.
"""

import math
import warnings
from typing import Literal

import keras
import tensorflow as tf

from tfmoe.distribute.best_tokens import best_tokens, best_tokens_of_sequences
from tfmoe.distribute.tensorflow_internals import NoSavedModel
from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.gating.routing import mask_of
from tfmoe.ops.arguments import one_of, positive_number
from tfmoe.ops.balancing import experts_of_tokens, weighted_losses, z_loss


@keras.saving.register_keras_serializable("tfmoe")
class ExpertChoice(NoSavedModel, LearnedGate):
    """Expert choice: every expert takes its best tokens, in training and outside of it (Zhou et al.
    2022).

    With `S = softmax(x·W_g)`, each expert takes the `⌈c·T/E⌉` tokens with the highest `S_ti` of a
    group of T tokens, and weights its outputs with `S_ti`, which is not normalized again. The load
    is equal by construction. A token has c experts on average, and 0 to E.

    The experts of a token depend on the other tokens of its group, later ones included. So outputs
    depend on the batch, a decoder sees the future in training, and decoding step by step gives
    other outputs. Use it where a whole input is read, such as an encoder, and not in a language
    model. `build` warns of this, and an export raises an error.

    Paper: this gate is not in Shazeer et al. 2017, but `Batchwise` (App. F) selects the same tokens
    in training. It divides the weights by their sum over the experts of a token (eq 16), and
    learns thresholds, so that at inference a token does not depend on others. `ExpertThreshold` has
    thresholds in training too.

    Args:
        capacity_factor: c, the mean number of experts per token, at most num_experts.
        group: `"batch"`: an expert selects from the global batch (at the inner level of a
            hierarchical mixture, from the tokens of its group of experts); `"sequence"`: from each
            sequence separately, `⌈c·S/E⌉` of its S tokens.

    Metrics of the mixture: `experts_per_token` and `unrouted` (fraction of tokens without an
    expert).

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> moe = MoE(num_experts=16, hidden_units=256, gate=ExpertChoice(capacity_factor=2))
    """

    KEPT_PER_LOGIT = 1  # S
    METRICS = ("experts_per_token", "unrouted")
    depends_on_batch = True
    estimates_load = False

    def __init__(
        self,
        capacity_factor: float = 2.0,
        group: Literal["batch", "sequence"] = "batch",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.capacity_factor = positive_number("capacity_factor", capacity_factor)
        if self.num_experts is not None and self.capacity_factor > self.num_experts:
            raise ValueError(
                f"capacity_factor must be at most {self.num_experts}, the number of experts, got "
                f"capacity_factor={capacity_factor}"
            )
        self.group = one_of("group", group, ("batch", "sequence"))

    @property
    def num_selected(self) -> int:
        return math.ceil(self.capacity_factor)  # on average

    @property
    def needs_sequences(self) -> bool:  # type: ignore[override]
        return self.group == "sequence"

    def build(self, input_shape):
        super().build(input_shape)
        warnings.warn(
            "ExpertChoice: the experts of a token depend on the other tokens of its "
            f"{self.group}, outside of training too. In a decoder later words have an effect on "
            "earlier ones, and decoding gives other outputs than training. Use ExpertThreshold or "
            "Batchwise there.",
            stacklevel=2,
        )

    def route(self, inputs, training=False, groups=None, sequences=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        probability = tf.nn.softmax(logits)
        if self.needs_sequences:
            mask = mask_of(groups)
            taken = best_tokens_of_sequences(probability, self.capacity_factor, sequences, mask)
        else:
            taken = best_tokens(probability, self.capacity_factor, groups)
        experts_per_token = taken.sum_by_token(tf.cast(taken.is_kept(), tf.int32))
        routed = experts_per_token > 0
        return self.routing(taken, groups, routed=routed, **self.sums_of_logits(logits))

    def loss(self, sums):
        return weighted_losses(sums, (self.z_loss_weight, z_loss))

    def measures(self, sums):
        return experts_of_tokens(sums)

    def get_config(self):
        config = {"capacity_factor": self.capacity_factor, "group": self.group}
        return {**super().get_config(), **config}

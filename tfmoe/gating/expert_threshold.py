"""Expert threshold routing (Sun et al. 2026): an expert takes the tokens above its threshold.

Axes: T tokens, E experts, G groups of a hierarchical mixture.
"""

import keras
import tensorflow as tf

from tfmoe.distribute.best_tokens import lowest_taken
from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.gating.micro_step import WHOLE_STEP
from tfmoe.gating.quantiles import mean_quantile, quantile_sums
from tfmoe.gating.thresholds import assign_over_thresholds
from tfmoe.ops.arguments import fraction
from tfmoe.ops.balancing import experts_of_tokens, weighted_losses, z_loss


@keras.saving.register_keras_serializable("tfmoe")
class ExpertThreshold(LearnedGate):
    """Expert threshold routing: an expert takes a token if its score exceeds a moving average of
    the score with which it would take an equal share (Sun et al. 2026).

    With `S = softmax(x·W_g)`, expert i takes token t if `S_ti > c_i`, with the weight `S_ti`, in
    training and outside of it. After each training batch, without a gradient:

    `c_i ← ema·c_i + (1 - ema)·q_i`,

    where `q_i` is the `⌈k·T/E⌉`-th highest score of expert i in the global batch of T tokens. So an
    expert takes a token in k of E on average over time. A token has k experts on average, and 0 to
    E; its experts do not depend on other tokens. There is no loss.

    The average starts as the mean of the batches so far: the factor of q_i in batch n is
    `max(1 - ema, 1/n)`. In the first training batch `c_i` is `q_i` of that batch, because before it
    no threshold is known. Untrained thresholds are 1/E.

    Paper: this gate is not in Shazeer et al. 2017. `Batchwise` (App. F) has thresholds at inference
    only: training selects the best tokens of a batch, and a loss (eq 20) trains the thresholds.
    Here one rule is used in both, and the thresholds follow the scores without a loss.

    If an optimizer accumulates gradients, the thresholds change with each batch of a step. In a
    `MoELSTM` whose gate sees the state, q_i is the mean over the time steps.

    Args:
        k: mean number of experts per token, 1 <= k <= num_experts.
        ema: the share that a threshold keeps with each batch, at least 0 and below 1.

    Metrics of the mixture: `experts_per_token` and `unrouted` (fraction of tokens without an
    expert).

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> moe = MoE(num_experts=16, hidden_units=256, gate=ExpertThreshold(k=2))
    """

    KEPT_PER_LOGIT = 1  # S
    METRICS = ("experts_per_token", "unrouted")
    estimates_load = False

    def __init__(self, k: int = 4, ema: float = 0.99, **kwargs):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.ema = fraction("ema", ema)
        self.supports_jit = False  # with XLA every expert would compute every token

    @property
    def num_selected(self) -> int:
        return self.k  # on average

    def build(self, input_shape):
        super().build(input_shape)
        initializer = keras.initializers.Constant(1 / self.num_experts)
        self.add_updated_weight("thresholds", (*self.stack, self.num_experts), initializer)
        self.add_updated_weight("num_updates", self.stack)

    def route(self, inputs, training=False, groups=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        probability = tf.nn.softmax(logits)
        thresholds = tf.convert_to_tensor(self.thresholds)
        if training:
            quantile = lowest_taken(probability, self.k, groups)
            is_first = tf.equal(tf.convert_to_tensor(self.num_updates), 0)[..., None]
            thresholds = tf.where(is_first, tf.cast(quantile, thresholds.dtype), thresholds)
        assignments, routed = assign_over_thresholds(probability, thresholds, groups)
        sums = self.sums_of_logits(logits)
        routing = self.routing(assignments, groups, routed=routed, **sums)
        if training:
            routing.sums.update(quantile_sums(quantile, groups, routing.load.dtype))
        return routing

    def loss(self, sums):
        return weighted_losses(sums, (self.z_loss_weight, z_loss))

    def measures(self, sums):
        return experts_of_tokens(sums)

    def update(self, sums, micro_step=WHOLE_STEP):
        thresholds = tf.convert_to_tensor(self.thresholds)
        counted = tf.cast(sums["tokens"] > 0, thresholds.dtype)
        num_updates = tf.convert_to_tensor(self.num_updates) + counted
        rate = tf.maximum(tf.math.divide_no_nan(counted, num_updates), 1 - self.ema) * counted
        change = rate[..., None] * (tf.cast(mean_quantile(sums), thresholds.dtype) - thresholds)
        self.add_to_weight("thresholds", change)
        self.add_to_weight("num_updates", counted)

    def get_config(self):
        return {**super().get_config(), "k": self.k, "ema": self.ema}

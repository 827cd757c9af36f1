"""What a checkpoint's `config.json` and a language model of tfmoe both say about a decoder."""

from typing import NamedTuple


class Family(NamedTuple):
    """A kind of checkpoint: its names of tensors, and its features.

    Attributes:
        model_type: `model_type` in `config.json`.
        architecture: the class of Transformers, in `architectures`.
        title: its name in messages.
        mixture: the name of a mixture within a layer.
        gate, up, down: the names of the three matrices of a SwiGLU expert.
        has_dense_layers: whether a layer can have a dense network in place of a mixture. Its
            matrices have the same names.
        has_projection_biases: whether the projections of attention can have biases.
        always_renormalizes: whether the gate values of a token always sum to 1.
        normalizes_queries: whether queries and keys have an RMSNorm.
        epsilon, rotary_base: `rms_norm_eps` and `rope_theta` of a `config.json` without them.
    """

    model_type: str
    architecture: str
    title: str
    mixture: str
    gate: str
    up: str
    down: str
    has_dense_layers: bool
    has_projection_biases: bool
    always_renormalizes: bool
    normalizes_queries: bool
    epsilon: float
    rotary_base: float


MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    title="Mixtral",
    mixture="block_sparse_moe",
    gate="w1",
    up="w3",
    down="w2",
    has_dense_layers=False,
    has_projection_biases=False,
    always_renormalizes=True,
    normalizes_queries=False,
    epsilon=1e-5,
    rotary_base=1e6,
)
QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    title="Qwen3-MoE",
    mixture="mlp",
    gate="gate_proj",
    up="up_proj",
    down="down_proj",
    has_dense_layers=True,
    has_projection_biases=True,
    always_renormalizes=False,
    normalizes_queries=True,
    epsilon=1e-6,
    rotary_base=1e4,
)
FAMILIES = {family.model_type: family for family in (MIXTRAL, QWEN3_MOE)}


class Shape(NamedTuple):
    """The architecture of a decoder.

    Attributes:
        family: `Family`.
        vocabulary_size, d_model: sizes of the embedding.
        num_heads, num_key_value_heads, head_units: heads of queries, heads of keys and values, and
            their width.
        has_mixture: for each layer, whether it has a mixture or a dense network.
        num_experts, expert_units, k: number of experts, their hidden width, experts per token.
        dense_units: hidden width of dense networks; `None` if there are none.
        renormalize: whether the gate values of a token sum to 1.
        activation: of the hidden layers.
        epsilon: of all normalizations.
        rotary_base: base of the angles of rotary positions.
        sliding_window: number of positions that a position attends to; `None` for all.
        projection_biases: whether the projections of attention have biases.
        tie_embeddings: whether the softmax has the matrix of the embedding.
        balance_weight: weight of the balancing loss, as `TopK` defines it.
    """

    family: Family
    vocabulary_size: int
    d_model: int
    num_heads: int
    num_key_value_heads: int
    head_units: int
    has_mixture: tuple[bool, ...]
    num_experts: int
    expert_units: int
    k: int
    dense_units: int | None
    renormalize: bool
    activation: str
    epsilon: float
    rotary_base: float
    sliding_window: int | None
    projection_biases: bool
    tie_embeddings: bool
    balance_weight: float

"""On which devices the experts of KerasHub's layers are."""

from tfmoe.distribute import is_mixed
from tfmoe.distribute.keras_optimizer import is_sharded
from tfmoe.keras_hub.registry import sparse_class_of


def check_sparsifiable(strategy, layers):
    """Raises a `ValueError` if every replica of a `MixedStrategy` holds all experts.

    Args:
        strategy: the strategy in whose scope the model was created.
        layers: KerasHub's layers with experts.
    """
    if not is_mixed(strategy) or strategy.num_replicas_in_sync == 1:
        return
    whole = [layer.name for layer in layers if not has_shards(bank_of(layer))]
    if whole:
        raise ValueError(
            f"every device holds all experts of {', '.join(whole)}: a MixedStrategy needs a model "
            "that is created in `with strategy.scope(), tfmoe.keras_hub.sparse_models():`, which "
            "is sparse without sparsify"
        )


def check_densifiable(model, layers):
    """Raises a `ValueError` if experts are sharded: KerasHub needs all of them on every device.

    Args:
        model: the model, for the error.
        layers: sparse layers.
    """
    if any(has_shards(layer.bank() or layer) for layer in layers):
        raise ValueError(
            f"{model.name} cannot become dense: each device holds a part of its experts; "
            "tfmoe.distribute.on_one_device(model) returns a dense copy with all of them"
        )


def bank_of(layer):
    """The layer with the experts' variables, for KerasHub's layer with experts."""
    return sparse_class_of(layer).bank(layer) or layer


def has_shards(bank):
    """Whether the variables of a bank are sharded over two or more devices."""
    variables = [weight.value for weight in bank.weights]
    return any(is_sharded(variable) and len(variable.bounds) > 1 for variable in variables)

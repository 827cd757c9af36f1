"""What an export of a trained model is made of."""

from typing import NamedTuple

from tfmoe.layers.mixture_layer import mixtures_of


class Exported(NamedTuple):
    """What an export is made of.

    Attributes:
        functions: a `ServingLanguageModel` or `ServingTranslator`.
        resources: `{name: resource}` that its functions use.
        default: the name of the signature that is the `serving_default` too.
        tokenization: `"words"`, `"text"` or `"subwords"`.
        example: inputs of the default signature, as `saved_model_cli run --input_exprs` takes them.
    """

    functions: object
    resources: dict
    default: str
    tokenization: str
    example: str


def set_capacity_aside(model):
    """Lets the experts of a model take all tokens; returns the names of the mixtures which had a
    capacity outside of training.

    What is over the capacity depends on the rest of a batch, and an exported model's answer to a
    sentence must not.
    """
    changed = []
    for name, mixture in mixtures_of(model).items():
        if mixture.evaluation_capacity_factor is not None:
            mixture.evaluation_capacity_factor = None
            changed.append(name)
    return changed

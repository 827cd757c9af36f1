"""The parts of an export of a trained model."""

from typing import NamedTuple

import keras

from tfmoe.layers.mixture_layer import mixtures_of


class Exported(NamedTuple):
    """The parts of an export.

    Attributes:
        functions: a `ServingLanguageModel` or `ServingTranslator`.
        resources: `{name: resource}` used by the functions.
        default: name of the signature that is also exported as `serving_default`.
        tokenization: `"words"`, `"text"` or `"subwords"`.
        example: example inputs of the default signature, in the format of `saved_model_cli run
            --input_exprs`.
    """

    functions: object
    resources: dict
    default: str
    tokenization: str
    example: str


def check_exportable(model: keras.Model):
    """Raises a `ValueError` for a model with a gate whose answers depend on the batch.

    Args:
        model: a Keras model.
    """
    for name, mixture in mixtures_of(model).items():
        gate = mixture.gate
        levels = [gate] if gate.secondary is None else [gate.primary, gate.secondary]
        for level in levels:
            if level.depends_on_batch:
                raise ValueError(
                    f"{name}: a model with the gate {type(level).__name__} cannot be exported: the "
                    "experts of a token depend on the other tokens of the batch, later ones "
                    "included, so its answers would too. Train with the gate ExpertThreshold or "
                    "Batchwise instead"
                )


def remove_evaluation_capacity(model: keras.Model) -> list[str]:
    """Removes the evaluation capacity of all mixtures of a model, and of their gates.

    The tokens beyond an expert's capacity depend on the rest of the batch, but an exported model's
    answer for a sentence must not.

    Args:
        model: a Keras model, which is changed.

    Returns:
        The names of the mixtures that had an evaluation capacity.
    """
    changed = []
    for name, mixture in mixtures_of(model).items():
        gate = mixture.gate
        levels = (gate,) if gate.secondary is None else (gate.primary, gate.secondary)
        limited = [each for each in (mixture, *levels) if evaluation_capacity(each) is not None]
        for each in limited:
            each.evaluation_capacity_factor = None
        changed += [name] if limited else []
    return changed


def evaluation_capacity(limited):
    """The evaluation capacity of a mixture or a gate, `None` for no limit."""
    return getattr(limited, "evaluation_capacity_factor", None)

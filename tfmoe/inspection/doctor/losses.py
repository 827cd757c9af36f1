"""Checks of the losses of a training. The functions take values and return `Check`s."""

import math

from tfmoe.inspection.doctor.finding import PROBLEM, WARNING, Figure, check, short
from tfmoe.inspection.doctor.gates import lower_rate

# The loss of an epoch over the lowest one before; in a healthy training it decreases or stays.
MOST_RISE = 1.2
# The lowest validation loss of the last two epochs over the lowest; smaller ratios are noise.
MOST_OVERFITTING, LAST_EPOCHS = 1.01, 2
MOST_DROPOUT = 0.5


def check_divergence(rows, uniform=None, learning_rate=None):
    """`divergence`: the loss is not finite, rises, or is worse than guessing.

    Args:
        rows: logs of the epochs, in order.
        uniform: the loss of a uniform distribution, `ln V`; `None` if there is no such loss.
        learning_rate: its `Setting`, or `None`.
    """
    losses = [row["loss"] for row in rows if "loss" in row]
    if not losses:
        return []
    limits = [MOST_RISE * loss for loss in losses[:-1] if loss > 0]
    validation = rows[-1].get("val_loss", losses[-1])
    # The validation loss excludes the balancing losses, which can be large.
    if uniform is not None and not validation <= uniform < losses[-1]:
        limits.append(uniform)
    most = min(limits, default=None)
    figure = Figure("loss", losses[-1], most=most)
    if figure.healthy and not math.isfinite(validation):
        figure = Figure("val_loss", validation, most=most)
    cause = (
        "The steps are too large: training moves away from good weights. A longer warm-up of the "
        "learning rate or gradient clipping also helps."
    )
    changes = lower_rate(learning_rate)
    return [check("divergence", PROBLEM, "training", figure, cause, changes)]


def check_overfitting(rows, epochs=None, dropout=None):
    """`overfitting`: the validation loss increases while the training loss decreases.

    Args:
        rows: logs of the epochs, in order.
        epochs, dropout: `Setting`s, or `None`.
    """
    losses = [row.get("val_loss") for row in rows]
    if len(losses) < LAST_EPOCHS or not all(loss is not None and loss > 0 for loss in losses):
        return []
    best = losses.index(min(losses))
    if best < len(losses) - 1 and not rows[-1]["loss"] < rows[best]["loss"]:
        return []
    last = min(losses[-LAST_EPOCHS:])
    figure = Figure("val_loss (of the last two epochs)", last, most=MOST_OVERFITTING * losses[best])
    cause = (
        f"It was {short(losses[best])} in epoch {best + 1}, and the training loss still decreases: "
        "the model memorizes its training data. More data helps most. The weights of epoch "
        f"{best + 1} are the best; later epochs do not improve them."
    )
    changes = [epochs.to(best + 1)] if epochs is not None else []
    if dropout is not None and dropout.now is not None and dropout.now < MOST_DROPOUT:
        changes = [dropout.to(round(min(dropout.now + 0.1, MOST_DROPOUT), 3))]
    return [check("overfitting", WARNING, "training", figure, cause, changes)]

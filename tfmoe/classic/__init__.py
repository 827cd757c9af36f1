"""The mixtures of Jacobs et al. 1991 and of Jordan and Jacobs 1994."""

from tfmoe.classic.arm import relative_error, simulated_arm
from tfmoe.classic.em import fit_em
from tfmoe.classic.likelihood import (
    MixtureLoss,
    categorical_log_likelihoods,
    gaussian_log_likelihoods,
    mixture_loss,
    posteriors,
)
from tfmoe.classic.local_experts import LocalExperts
from tfmoe.classic.mixture_tree import MixtureTree

__all__ = [
    "LocalExperts",
    "MixtureLoss",
    "MixtureTree",
    "categorical_log_likelihoods",
    "fit_em",
    "gaussian_log_likelihoods",
    "mixture_loss",
    "posteriors",
    "relative_error",
    "simulated_arm",
]

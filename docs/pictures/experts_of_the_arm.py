"""Measures models of the simulated arm, with three seeds for data and weights, and draws
docs/experts_of_the_arm.png: the error on unseen states after each pass of EM.

    python docs/pictures/experts_of_the_arm.py
"""

import pathlib
import time

import keras
import matplotlib.pyplot as plt
import numpy as np

from tfmoe.classic import LocalExperts, fit_em, relative_error, simulated_arm
from tfmoe.gating import Hierarchical, Softmax

TRAIN, TEST, SEEDS = 15_000, 5_000, (0, 1, 2)
BRANCHINGS = ((), (2,), (2, 2), (2, 2, 2), (2, 2, 2, 2))
EPOCHS, BATCH = 40, 256
DRAWN_PASSES = (1, 2, 3, 5, 8, 12, 20, 30, 40)


def by_em(x, y, seed, branching, passes=40):
    """Fits a tree. Returns its predictions for all rows."""
    tree = fit_em(x[:TRAIN], y[:TRAIN], branching, passes, tolerance=0, seed=seed)
    return tree.predict(x)


def by_gradient(x, y, seed, make):
    """Trains the Keras model `make()` with Adam. Returns its predictions for all rows."""
    keras.utils.set_random_seed(seed)
    model = make()
    x = (x - x[:TRAIN].mean(axis=0)) / x[:TRAIN].std(axis=0)
    mean, deviation = y[:TRAIN].mean(axis=0), y[:TRAIN].std(axis=0)
    schedule = keras.optimizers.schedules.CosineDecay(0.01, EPOCHS * TRAIN // BATCH)
    model.compile(keras.optimizers.Adam(schedule), None if hasattr(model, "gate") else "mse")
    targets = (y[:TRAIN] - mean) / deviation
    model.fit(x[:TRAIN], targets, epochs=EPOCHS, batch_size=BATCH, verbose=0)
    outputs = model.predict(x, batch_size=1000, verbose=0)
    return mean + deviation * (outputs["mean"] if hasattr(model, "gate") else outputs)


def network():
    """As many weights as 16 experts and their gates: 1,024."""
    return keras.Sequential([keras.layers.Dense(60, "tanh"), keras.layers.Dense(4)])


def local_experts():
    gate = Hierarchical(4, Softmax())
    return LocalExperts([keras.layers.Dense(4) for _ in range(16)], variance=0.1, gate=gate)


def print_errors(name, predict, **options):
    """Prints the errors of a model on unseen states, and the CPU seconds for a seed."""
    begin, errors = time.process_time(), []
    for seed in SEEDS:
        x, y = simulated_arm(TRAIN + TEST, seed)
        errors.append(relative_error(y[TRAIN:], predict(x, y, seed, **options)[TRAIN:]))
    seconds = (time.process_time() - begin) / len(SEEDS)
    print(f"{name:30} {' '.join(f'{error:.4f}' for error in errors)}  {seconds:.1f} s", flush=True)


def draw(path):
    x, y = simulated_arm(TRAIN + TEST, SEEDS[0])
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0.75, 0.05, len(BRANCHINGS) - 1))
    for branching, colour in zip(BRANCHINGS[1:], colours, strict=True):
        errors = [
            relative_error(y[TRAIN:], by_em(x, y, SEEDS[0], branching, passes)[TRAIN:])
            for passes in DRAWN_PASSES
        ]
        axes.plot(DRAWN_PASSES, errors, ".-", color=colour, label=f"{2 ** len(branching)} experts")
    linear = relative_error(y[TRAIN:], by_em(x, y, SEEDS[0], ())[TRAIN:])
    axes.axhline(linear, color="gray", linestyle="--", label="linear regression")
    axes.set(xlabel="passes of EM", ylabel="relative error, unseen states", ylim=(0, 0.3))
    axes.legend(frameon=False, ncols=2, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main():
    for branching in BRANCHINGS:
        print_errors(f"{2 ** len(branching)} experts, EM", by_em, branching=branching)
    print_errors("16 experts (4 x 4), Adam", by_gradient, make=local_experts)
    print_errors("dense network, Adam", by_gradient, make=network)
    draw(pathlib.Path(__file__).parents[1] / "experts_of_the_arm.png")


if __name__ == "__main__":
    main()

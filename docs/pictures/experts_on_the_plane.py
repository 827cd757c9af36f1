"""Draws docs/experts_on_the_plane.png: a function of two variables, learned by a dense network and
by a mixture of experts that does the same number of multiply-adds per point, its gate included.

    python docs/pictures/experts_on_the_plane.py
"""

import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

WIDTH, HIDDEN, EXPERTS, K = 16, 16, 24, 2
STEPS, BATCH = 4000, 1024
PIXELS = 240


def target(points):
    """A wave in each of two directions, cut by a step. `[N, 2]` to `[N, 1]`."""
    x, y = points[:, :1], points[:, 1:]
    waves = np.sin(6 * x) * np.cos(5 * y)
    return np.where(x + 0.6 * y > 0.2, waves, -0.8 * np.sin(7 * y + 3 * x))


def network(middle):
    """Two variables, a layer of width 16, `middle` as a residual block, one output."""
    inputs = keras.Input([2])
    x = keras.layers.Dense(WIDTH, "relu")(inputs)
    x = x + middle(x)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, STEPS)
    model.compile(keras.optimizers.Adam(schedule), "mse")
    return model


def trained(model):
    points = np.random.default_rng(0).uniform(-1, 1, [STEPS * BATCH, 2]).astype("float32")
    model.fit(points, target(points), batch_size=BATCH, epochs=1, shuffle=False, verbose=2)
    return model


def main():
    keras.utils.set_random_seed(0)
    gate = NoisyTopK(k=K, importance_weight=0.01, load_weight=0.01)
    mixture = MoE(EXPERTS, HIDDEN, gate=gate, name="moe")
    same_cost = K * HIDDEN + EXPERTS  # the gate has two [WIDTH, EXPERTS] matrices
    dense = keras.Sequential(
        [keras.layers.Dense(same_cost, "relu"), keras.layers.Dense(WIDTH, use_bias=False)]
    )
    models = {"mixture": trained(network(mixture)), "dense": trained(network(dense))}

    axis = np.linspace(-1, 1, PIXELS, dtype="float32")
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    true = target(points)
    outputs = {name: model.predict(points, verbose=0) for name, model in models.items()}
    errors = {name: np.mean((output - true) ** 2) for name, output in outputs.items()}
    features = keras.Model(models["mixture"].input, models["mixture"].layers[1].output)
    _, experts, weights = mixture.route(features(points)).assignments.by_token()
    order = np.argsort(-weights.numpy().reshape(-1, K), axis=1)
    first = np.take_along_axis(experts.numpy().reshape(-1, K), order, axis=1)[:, 0]
    print(errors, "experts that are some point's first choice:", len(np.unique(first)))

    panels = {
        "the function to learn": true,
        f"dense layer: squared error {errors['dense']:.4f}": outputs["dense"],
        f"{EXPERTS} experts, {K} per point: {errors['mixture']:.4f}": outputs["mixture"],
    }
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 9})
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.75), layout="constrained")
    for panel, (title, values) in zip(axes, panels.items(), strict=False):
        image = values.reshape(PIXELS, PIXELS)
        panel.imshow(image, cmap="RdBu", vmin=-1, vmax=1, origin="lower")
        panel.set_title(title)
    hues = np.random.default_rng(0).permutation(EXPERTS) / EXPERTS
    colours = plt.get_cmap("hsv")(hues) * 0.6 + 0.4
    axes[3].imshow(colours[first].reshape(PIXELS, PIXELS, 4), origin="lower")
    axes[3].set_title("the expert with the largest weight")
    for panel in axes:
        panel.set(xticks=[], yticks=[])
    path = pathlib.Path(__file__).parents[1] / "experts_on_the_plane.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

import numpy as np
import pytest
from matplotlib.figure import Figure

from tfmoe.analysis.plots import perplexity_curves
from tfmoe.inspection import CoSelection, ExpertUse, joint_counts
from tfmoe.inspection.pairs import chance_factors
from tfmoe.inspection.plots import (
    balance_curves,
    co_selection_map,
    label_map,
    load_and_importance,
    sort_by_affinity,
)

NO_WORDS = joint_counts([], [], 1)


def co_selection_of(num_experts, *pairs):
    """The `CoSelection` of pairs `(first, second, count)`."""
    first, second, counts = map(list, zip(*pairs, strict=True))
    in_pairs = np.bincount([*first, *second], [*counts, *counts], num_experts).astype(int)
    return CoSelection(
        num_experts,
        joint_counts(first, second, num_experts, counts),
        in_pairs,
        chance_factors(in_pairs),
    )


def plot_and_write(plot, tmp_path):
    """Calls a plot function without and with a path, and returns the figure."""
    assert isinstance(plot(path=None), Figure)
    assert not list(tmp_path.iterdir())
    figure = plot(path=tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return figure


@pytest.mark.parametrize("num_experts", [1, 3, 300])
def test_load_and_importance(tmp_path, num_experts):
    load = np.arange(num_experts)
    use = ExpertUse(load, load / 2, NO_WORDS)
    figure = plot_and_write(lambda path: load_and_importance(use, path), tmp_path)
    (axes,) = figure.axes
    if num_experts == 3:  # loads 0, 1, 2 over their mean 1, in descending order
        assert [bar.get_height() for bar in axes.patches] == [2, 1, 0]
        assert axes.lines[0].get_ydata().tolist() == [2, 1, 0]


def test_co_selection_map(tmp_path):
    """Experts that are selected together are adjacent."""
    pairs = co_selection_of(4, (0, 2, 90), (1, 3, 90), (0, 1, 1))
    order = sort_by_affinity(pairs, np.arange(4)).tolist()
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1
    figure = plot_and_write(lambda path: co_selection_map(pairs, path=path), tmp_path)
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (4, 4) and np.isnan(image.filled(np.nan).diagonal()).all()
    two_experts = co_selection_map(pairs, [0, 2]).axes[0].images[0].get_array()
    # Experts 0 and 1 are in 91 pairs, 2 and 3 in 90. The chance factors p and q satisfy
    # p·p + 2·p·q = 91 and q·q + 2·p·q = 90.
    p, q = pairs.chance[0], pairs.chance[2]
    np.testing.assert_allclose([p * p + 2 * p * q, q * q + 2 * p * q], [91, 90])
    np.testing.assert_allclose(two_experts[0, 1], np.log2(90 / (p * q)))


def test_co_selection_map_omits_experts_without_pairs():
    figure = co_selection_map(co_selection_of(9, (3, 4, 1)))
    assert figure.axes[0].images[0].get_array().shape == (2, 2)


def test_label_without_tokens(tmp_path):
    """A label with a share of 0 in the text has a ratio of 0."""
    label_map(["a", "b"], np.array([[1.0, 0.0]]), np.array([1.0, 0.0]), tmp_path / "map.png")
    assert (tmp_path / "map.png").exists()


def test_label_map(tmp_path):
    """The last of 3 experts has no token. The first has label x twice as often as the text."""
    shares = [[0.5, 0.5], [0.1, 0.9], [0, 0]]
    figure = plot_and_write(
        lambda path: label_map(["x", "y"], shares, [0.25, 0.75], path), tmp_path
    )
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    np.testing.assert_allclose(
        axes.images[0].get_array(), np.log2([[2, 2 / 3], [0.4, 1.2]]), rtol=1e-6
    )
    many = [f"a long name of a label {i}" for i in range(20)]
    shares = np.random.default_rng(0).dirichlet(np.ones(20), 100)
    assert len(label_map(many, shares, np.full(20, 0.05)).axes[0].get_yticks()) == 32


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_curves(tmp_path, epochs):
    history = [
        {
            "epoch": i,
            "words": 9,
            "val_perplexity": 9 - i,
            "moe_max_over_mean_load": 2.0,
            "val_moe_max_over_mean_load": 1.0 + i,
        }
        for i in range(epochs)
    ]
    figure = plot_and_write(lambda path: balance_curves(history, path), tmp_path)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == (["moe, training", "moe, validation"] if epochs else [])
    assert isinstance(perplexity_curves({"run": history}), Figure)


def test_names_are_not_parsed_as_mathematics(tmp_path):
    """Matplotlib raises for invalid mathematics."""
    invalid = "$\\frac{$"
    history = [{"epoch": 1.0, f"{invalid}_max_over_mean_load": 1.5}]
    use = ExpertUse(np.arange(3), np.arange(3), NO_WORDS)
    pairs = co_selection_of(3, (0, 1, 2))
    shares = np.array([[0.3, 0.7], [0.5, 0.5]])
    for plot in (
        lambda path: load_and_importance(use, path, invalid),
        lambda path: co_selection_map(pairs, None, path, invalid),
        lambda path: label_map([invalid, f"{invalid * 9}"], shares, shares[1], path, invalid),
        lambda path: balance_curves(history, path, invalid),
    ):
        plot(tmp_path / "plot.png")
        (tmp_path / "plot.png").unlink()

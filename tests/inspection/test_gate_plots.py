import matplotlib.image
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.analysis.plots import save
from tfmoe.gating import Routing
from tfmoe.inspection.gate_plots import (
    attention_map,
    dense_gates,
    expert_map,
    gate_matrices,
    heat_map,
    loads_over_mean,
)
from tfmoe.ops.assignments import Assignments, assign_tokens


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_dense_gates_with_fixed_k():
    experts = tf.constant([[2, 0], [1, 2]])
    gates = tf.constant([[0.75, 0.25], [0.5, 0.5]])
    routing = Routing(assign_tokens(experts, gates, 4), {})
    assert dense_gates(routing, 2).tolist() == [[0.25, 0, 0.75, 0], [0, 0.5, 0.5, 0]]


def test_dense_gates_with_varying_k():
    # Expert 0 has token 2, expert 1 has tokens 0 and 2; token 1 has no expert.
    gates = tf.constant([0.25, 1.0, 0.75])
    assignments = Assignments(tf.constant([2, 0, 2]), gates, tf.constant([1, 2]), tf.constant(3))
    assert dense_gates(Routing(assignments, {}), 3).tolist() == [[0, 1], [0, 0], [0.25, 0.75]]


def test_gate_matrices_count_tokens_of_each_expert():
    one = np.array([[0.5, 0.5, 0], [1, 0, 0], [0, 0.25, 0.75], [1, 0, 0]])
    figure = gate_matrices({"one": one, "none": np.zeros((4, 3))}, title="Both")
    bars, no_bars, cells = figure.axes[:3]
    assert [bar.get_height() for bar in bars.patches] == [3, 2, 1]
    assert [bar.get_height() for bar in no_bars.patches] == [0, 0, 0]
    assert cells.images[0].get_array().tolist() == one.tolist()
    assert cells.images[0].get_clim() == (0, 1)  # one scale for all panels
    assert [bars.get_title(), no_bars.get_title()] == ["one", "none"]


def test_loads_are_sorted_and_over_the_mean():
    figure = loads_over_mean({"odd": [1, 6, 2, 3], "even": [5, 5, 5, 5]})
    odd, even, one = figure.axes[0].lines
    assert odd.get_ydata().tolist() == [2, 1, 2 / 3, 1 / 3]
    assert even.get_ydata().tolist() == [1, 1, 1, 1]
    assert set(one.get_ydata()) == {1}
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["odd (largest 2.00)", "even (largest 1.00)"]


def test_expert_map_shares_the_grey_scale_and_colours_experts():
    low, high = np.array([[0.0, 1.0]]), np.array([[3.0, 2.0]])
    experts = np.array([[1, 21], [20, 0]])
    figure = expert_map({"low": low, "high": high, "experts": experts}, (0, 1, 0, 1))
    shades, other_shades, colors = (axes.images[0] for axes in figure.axes)
    assert shades.get_clim() == other_shades.get_clim() == (0, 3)
    # Expert 21 has the colour of expert 1, expert 20 the colour of expert 0.
    assert colors.get_array().tolist() == [[1, 1], [0, 0]]
    assert colors.get_clim() == (0, 19)


def test_heat_map_shows_the_values_of_a_small_matrix():
    figure = heat_map(
        [[1, 2000.4], [np.nan, 0.12345]], ["a", "b"], ["x", "y"], "row", "column", "v"
    )
    axes = figure.axes[0]
    assert texts(axes) == ["1", "2,000", "0.123"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["x", "y"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b"]
    assert [axes.get_ylabel(), axes.get_xlabel()] == ["row", "column"]


def test_heat_map_of_a_large_matrix_has_no_values():
    names = [str(i) for i in range(11)]
    figure = heat_map(np.ones((11, 11)), names, names, "row", "column", "value")
    assert texts(figure.axes[0]) == []


def test_heat_map_needs_a_name_for_each_row_and_column():
    with pytest.raises(ValueError, match=r"values must have shape \[1, 2\].*got \[2, 1\]"):
        heat_map([[1], [2]], ["a"], ["x", "y"], "row", "column", "value")


def test_attention_map_has_a_row_for_each_step(tmp_path):
    figure = attention_map([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], ["▁a", "b"], ["▁c", "d", "</s>"])
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["▁c", "d", "</s>"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["▁a", "b"]
    assert texts(axes) == []
    save(figure, tmp_path / "attention.png")
    assert matplotlib.image.imread(tmp_path / "attention.png").shape[2] == 4


def test_texts_are_not_parsed_as_mathematics(tmp_path):
    """Matplotlib raises for invalid mathematics."""
    invalid = "$\\frac{$"
    for figure in (
        attention_map([[0.5, 0.5]], [invalid, "$"], [invalid], invalid),
        gate_matrices({invalid: np.ones((2, 2))}, invalid),
        loads_over_mean({invalid: [1, 2]}, invalid),
        expert_map({invalid: np.ones((2, 2))}, (0, 1, 0, 1), invalid),
    ):
        save(figure, tmp_path / "plot.png")

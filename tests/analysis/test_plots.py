import matplotlib.image
import numpy as np
import pytest

from tfmoe.analysis.plots import (
    perplexity_and_load,
    perplexity_by_experts,
    perplexity_curves,
    ticks_between,
)


def rows(*perplexities):
    return [{"epoch": i, "words": 1000.0, "val_perplexity": p} for i, p in enumerate(perplexities)]


def picture(path):
    """`[height, width, 3]` in [0, 1]."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return matplotlib.image.imread(path)[..., :3]


def has_color(image, rgb):
    return bool((np.abs(image - np.array(rgb) / 255).max(axis=-1) < 0.02).any())


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def test_one_curve_per_run(tmp_path):
    path = tmp_path / "curves.png"
    perplexity_curves({"moe": rows(900, 300, 90), "dense": rows(800, 310, 95)}, path, "Both")
    image = picture(path)
    assert image.shape == (675, 1050, 3)
    assert has_color(image, BLUE) and has_color(image, ORANGE)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


def test_names_are_not_parsed_as_mathematics(tmp_path):
    """Matplotlib raises for invalid mathematics."""
    invalid = "$\\frac{$"
    perplexity_curves({invalid: rows(900, 300)}, tmp_path / "a.png", invalid)
    perplexity_by_experts([(4, 90, 1), (8, 80, 2)], tmp_path / "b.png", invalid)
    perplexity_and_load([invalid], [(90, 1)], {"test": [2.0]}, tmp_path / "c.png")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "histories",
    [
        {"one epoch": rows(90)},
        {"without validation": [{"epoch": 1, "words": 3.0}], "with": rows(3, 2)},
        {"all the same": rows(5, 5, 5)},
        {f"run {i}": rows(9 - 0.1 * i, 8) for i in range(12)},  # more runs than colours
        {"none": []},
        {},
    ],
)
def test_unusual_histories(tmp_path, histories):
    perplexity_curves(histories, tmp_path / "curves.png", "Odd")
    assert picture(tmp_path / "curves.png").shape == (675, 1050, 3)


@pytest.mark.parametrize(
    ("lowest", "highest"), [(97, 105), (90, 140), (90, 350), (90, 400), (90, 2000), (90, 20000)]
)
def test_number_of_ticks_for_any_range(lowest, highest):
    ticks = ticks_between(lowest, highest).tick_values(lowest, highest)
    inside = [tick for tick in ticks if lowest <= tick <= highest]
    assert 3 <= len(inside) <= 9
    distances = np.diff(np.log(inside)) / np.log(highest / lowest)
    assert distances.min() > 0.04  # of the axis' height, more than a label's height


@pytest.mark.parametrize(
    "points",
    [
        [(64, 25.0, 0.3), (4, 30.0, 0.2), (256, 24.5, 0.0), (16, 27.0, 0.1)],  # in any order
        [(4, 30.0, 0.0), (256, 30.0, 0.0)],
        [(256, 30.0, 0.1), (256, 31.0, 0.1), (4, 35.0, 90.0)],
    ],
)
def test_perplexity_by_experts(tmp_path, points):
    path = tmp_path / "new" / "plot.png"
    perplexity_by_experts(points, path, "Capacity")
    image = picture(path)
    assert image.shape == (675, 1050, 3) and has_color(image, BLUE)
    assert [file.name for file in path.parent.iterdir()] == ["plot.png"]


@pytest.mark.parametrize(
    ("perplexities", "training", "test"),
    [
        ([(39.8, 0.5), (35.6, 0.1), (35.7, 0.0)], [17.8, 1.47, 1.07], [18.0, 2.0, 1.1]),
        ([(39.8, 0.0), (35.6, 0.0)], [None, 1.07], [None, 1.05]),  # the first has no experts
        ([(39.8, 0.0)], [None], [None]),
        ([(39.8, 0.0)] * 30, [1.0] * 30, [60.0] * 30),
    ],
)
def test_perplexity_and_load(tmp_path, perplexities, training, test):
    labels = [f"row {index}" for index, _ in enumerate(perplexities)]
    path = tmp_path / "plot.png"
    perplexity_and_load(labels, perplexities, {"training": training, "test": test}, path)
    image = picture(path)
    assert image.shape == (round(150 * (1.8 + 0.35 * len(labels)) - 0.01), 1350, 3)
    assert has_color(image, BLUE)
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]

"""Pixels that the first layer reads, counted by hand."""

import numpy as np

from lottery_jax.analysis.pixels import first_layer, pixels
from lottery_jax.report.pixels import pixels_figure
from tests.analysis.small_runs import lenet, set_mask, write_run
from tests.helpers import synthetic_ticket


def test_weights_of_the_first_layer_are_counted_by_pixel_over_seeds(tmp_path):
    """LeNet of 6 units on 2x2 pixels: the tickets of seed 0 read one pixel, those of seed 1 all."""

    def drawn(seed, level, control):
        kept = np.ones((4, 6), bool)
        if level and not seed:
            kept[[0, 1, 3]] = False
        return set_mask(lenet(1.0 / (level + 1)), dense1=kept)

    write_run(tmp_path / "run", drawn)
    (row,) = pixels(tmp_path / "run")
    assert (row["level"], row["seeds"]) == (1, 2)
    assert row["weights"].tolist() == [[3, 3], [6, 3]]
    picture, bar = pixels_figure([row], "t").axes
    drawn_values = picture.get_images()[0].get_array()
    assert np.allclose(drawn_values, np.array([[3, 3], [6, 3]]) / 3.75)
    assert row["unread"] == 0.375  # 75 % of seed 0 and nothing of seed 1
    assert "38 % of pixels unread" in picture.get_title(loc="left")
    assert bar.get_yticklabels()[0].get_text() == "unread"


def test_a_convolution_is_its_kernel():
    ticket = synthetic_ticket("conv2", (8, 8, 3), 1.0, width=0.05)
    kernel = ticket.mask["conv1"]["kernel"]
    kernel[...] = False
    kernel[0, 2, 1, 0] = kernel[0, 2, 2, 1] = kernel[1, 1, 0, 0] = True
    assert first_layer(ticket).tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]


def test_the_picture_of_a_convolution_speaks_of_its_kernel_and_of_no_pixel(tmp_path):
    def drawn(seed, level, control):
        return synthetic_ticket("conv2", (8, 8, 3), 1.0 / (level + 1), width=0.05)

    write_run(tmp_path / "run", drawn)
    rows = pixels(tmp_path / "run")
    assert rows[0]["is_kernel"] and rows[0]["weights"].shape == (3, 3)
    figure = pixels_figure(rows, "t")
    picture, bar = figure.axes
    texts = [picture.get_title(loc="left"), bar.get_yticklabels()[0].get_text()]
    texts.append(figure.get_supxlabel())
    assert "a position of its kernel" in texts[2].replace("\n", " ")
    assert not any("pixel" in text or "unread" in text for text in texts)

"""`python -m resnext predict --plot`: what the picture shows, and where it cannot go."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import resnext
from resnext.classes import class_names
from resnext.cli import plot, predict
from resnext.explain import class_activation_map
from resnext.preprocess import get_preprocess
from tests.helpers.commands import not_predicted, predicted
from tests.helpers.recorded import FIXTURES


def test_plot(capsys, photos, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # it is not to be imported
    target = tmp_path / "plot.png"
    target.write_bytes(b"an older one")
    heights = []
    for count in (1, 4):
        predicted(capsys, *sorted(photos.iterdir())[:count], "--weights", weights["imagenet"], "--plot", target)
        with Image.open(target) as image:
            image.load()
        assert image.format == "PNG"
        heights.append(image.height)
    assert heights[1] > 3 * heights[0]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["plot.png"]


def test_the_plot_shows_the_image_as_the_network_sees_it(photos, weights):
    for name, tolerance in (("imagenet", 1e-5), ("cifar10", 1e-6)):
        model = resnext.from_checkpoint(weights[name]).eval()
        source = FIXTURES / "preprocess" / "tiny_64x64.png"
        with Image.open(source) as image:
            inputs = [(str(source), model.preprocess(image))]
            (result,) = predict.classify(model, inputs, 5)
            row = predict.plot_row(result, class_names(name), get_preprocess(name))
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255
        assert row.title == "tiny_64x64.png"
        assert row.names == [class_names(name)[index] for index in result.classes]
        assert row.probabilities == result.probabilities
        assert torch.equal(row.map, result.map)
        assert torch.allclose(row.map, class_activation_map(model, inputs[0][1][None])[0], atol=1e-5)
        assert row.image.shape == result.image.shape
        if name == "cifar10":
            assert torch.allclose(row.image, pixels, atol=tolerance)
        else:
            assert torch.allclose(row.image.mean(), pixels.mean(), atol=0.02)


ROWS = [
    plot.Row("a.png", torch.rand(3, 4, 6), torch.tensor([[-1.0, 2.0, 5.0], [0.0, 3.0, 0.5]]), ["x", "y"], [0.7, 0.2]),
    plot.Row("b.png", torch.rand(3, 8, 8), torch.tensor([[-9.0, 2.0], [3.0, 4.0]]), list("defgh"), [0.5, *[0.1] * 4]),
    plot.Row("c.png", torch.rand(3, 8, 8), torch.zeros(2, 2), ["z"], [1.0]),
]


def test_what_is_drawn_of_each_row():
    figure = plot.draw(ROWS)
    assert len(figure.axes) == 4 * len(ROWS)
    (caption,) = figure.texts
    assert caption.get_window_extent().x1 < figure.bbox.width
    bottoms = [axes.get_position().y0 for axes in figure.axes[::4]]
    assert bottoms == sorted(bottoms, reverse=True)
    for number, (row, limit) in enumerate(zip(ROWS, (5.0, 9.0, 1.0), strict=True)):
        image, places, scale, bars = figure.axes[4 * number : 4 * number + 4]
        assert [axes.get_xlabel() for axes in (image, places, bars)] == ["x (pixels)", "x (pixels)", "probability"]
        assert (image.get_ylabel(), scale.get_ylabel()) == ("y (pixels)", "contribution to the logit")
        assert [text.get_text() for text in image.texts] == [row.title]
        assert np.array_equal(image.images[0].get_array(), row.image.permute(1, 2, 0))

        assert [text.get_text() for text in places.texts] == [f"where: {row.names[0]}"]
        grey, drawn = places.images
        assert np.allclose(grey.get_array(), np.average(row.image, axis=0, weights=(0.299, 0.587, 0.114)), atol=1e-6)
        assert np.array_equal(drawn.get_array(), row.map)
        assert drawn.get_extent() == grey.get_extent() == [0, row.image.shape[2], row.image.shape[1], 0]
        assert drawn.origin == grey.origin == "upper"
        assert drawn.get_clim() == scale.get_ylim() == (-limit, limit)
        red, green, blue, _ = drawn.cmap([0.0, 0.5, 1.0]).T  # against, neither, for
        assert red[0] < blue[0]
        assert np.ptp([red[1], green[1], blue[1]]) < 0.01
        assert red[2] > blue[2]

        assert [bar.get_width() for bar in bars.patches] == row.probabilities
        assert [bar.get_y() + bar.get_height() / 2 for bar in bars.patches] == pytest.approx(range(len(row.names)))
        bottom, top = bars.get_ylim()
        assert bottom > top  # the most probable stands above
        assert [(text.get_position()[1], text.get_text()) for text in bars.texts] == [
            entry
            for place, (name, probability) in enumerate(zip(row.names, row.probabilities, strict=True))
            for entry in ((place, name), (place, f"{probability:.1%}"))
        ]


def test_the_plot_with_fewer_classes_than_bars(capsys, photos, weights, tmp_path):
    predicted(capsys, photos, "--weights", weights["three"], "--top", 1, "--plot", tmp_path / "plot.PNG")
    assert (tmp_path / "plot.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "message"),
    [("plot.jpg", "expected a name that ends in .png, got "), ("absent/plot.png", "in a folder that exists"),
     ("taken.png", "cannot be written"), ("photos/1.png", "is one of the images; choose another name")],
)  # fmt: skip
def test_where_the_plot_cannot_go(capsys, photos, tmp_path, name, message):
    (tmp_path / "taken.png").mkdir()
    before = (photos / "1.png").read_bytes()
    options = ("--weights", tmp_path / "absent.pth", "--plot", tmp_path / name)  # refused before any work
    assert message in not_predicted(capsys, photos, *options)
    assert message in not_predicted(capsys, (photos / "1.png").as_uri(), *options)
    assert (photos / "1.png").read_bytes() == before


def test_the_plot_in_a_folder_that_may_not_be_written_to(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write anywhere
    assert "cannot be written" in not_predicted(capsys, photos, "--plot", tmp_path / "plot.png")


def test_a_plot_that_fails_leaves_the_older_one(tmp_path):
    (tmp_path / "plot.png").mkdir()
    with pytest.raises(OSError, match=r"plot\.png"):
        plot.save(ROWS, tmp_path / "plot.png")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_too_many_images_for_a_plot(capsys, photos, tmp_path):
    for number in range(4, plot.MAX_ROWS + 1):
        (photos / f"{number}.png").touch()
    error = not_predicted(capsys, photos, "--plot", tmp_path / "plot.png")
    assert f"expected at most {plot.MAX_ROWS} images, got {plot.MAX_ROWS + 1}" in error
    with pytest.raises(ValueError, match="0 rows; expected 1 to"):
        plot.render([])


def test_a_plot_needs_matplotlib(capsys, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    error = not_predicted(capsys, photos, "--weights", tmp_path / "absent.pth", "--plot", tmp_path / "plot.png")
    assert error == "resnext: argument --plot: needs matplotlib: pip install matplotlib\n"


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [("tench", 5, "tench"), ("abcdefgh", 5, "ab…gh"), ("abcdefgh", 4, "ab…h"), ("abc", 2, "a…"), ("abc", 1, "…")],
)
def test_shortened_texts(text, length, short):
    assert plot.shorten(text, length) == short

"""Predictions as a picture: each image, where in it the network sees the class, and the most probable classes as bars.

Needs matplotlib; not pyplot, so that no window, backend or figure of the caller is touched.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from resnext.weights.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 40  # in one picture, which is then 14,000 pixels high
BARS = 5
_DPI = 120
_LEFT, _IMAGE, _GAP, _BARS, _RIGHT = 0.5, 2.2, 0.25, 3.0, 0.25  # inches
_SCALE, _SCALE_TEXT, _PERCENT = 0.1, 0.7, 0.65  # the colour scale beside a map, room for its numbers and the bars'
_TITLE, _LABELS, _FOOT = 0.35, 0.4, 0.3  # room above the images of a row, for the labels below, and below the last row
_INK, _BAR, _BAR_FIRST = "#1a1a1a", "#c9d7e6", "#8fb3d9"
_CAPTION = (
    "Left: the image as the network sees it. Middle: what each place adds to the logit of the most probable class "
    "(red: evidence for it; blue: against it)."
)
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Row:
    """What the picture shows of one image.

    `image` is (3, H, W) in [0, 1]; `map` the class activation map (h, w) of the first of `names`; `names` and
    `probabilities` the most probable classes, in falling order.
    """

    title: str
    image: Tensor
    map: Tensor
    names: Sequence[str]
    probabilities: Sequence[float]


def save(rows: Sequence[Row], path: Path) -> None:
    """Draw the rows into a PNG file, which appears under its name whole or not at all. Raises OSError."""
    png = render(rows)
    with replacing(path) as temporary:
        temporary.write_bytes(png)


def render(rows: Sequence[Row]) -> bytes:
    """The rows, one below the other, as a PNG file. Raises ValueError unless there are 1 to `MAX_ROWS`."""
    from matplotlib import style

    # The user's own style may ask for LaTeX. Letters of a file name that the font lacks are drawn as boxes.
    with style.context("default"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        file = io.BytesIO()
        draw(rows).savefig(file, format="png")
    return file.getvalue()


def draw(rows: Sequence[Row]) -> Figure:
    """The figure that `render` writes, with four axes for each row: image, map, the map's scale, bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"{len(rows)} rows; expected 1 to {MAX_ROWS}")
    width = _LEFT + 2 * (_IMAGE + _GAP) + _SCALE + _SCALE_TEXT + _BARS + _PERCENT + _RIGHT
    height = len(rows) * (_TITLE + _IMAGE + _LABELS) + _FOOT
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    for number, row in enumerate(rows):
        _draw_row(figure, row, height - (number + 1) * (_TITLE + _IMAGE + _LABELS) + _LABELS)
    _text(figure, _LEFT / width, 0.1 / height, _CAPTION, size=7.5, color="#666666")
    return figure


def _draw_row(figure: Figure, row: Row, bottom: float) -> None:
    """One row, whose images stand `bottom` inches above the lower edge."""
    map_left = _LEFT + _IMAGE + _GAP
    scale_left = map_left + _IMAGE + 0.06
    bars_left = scale_left + _SCALE + _SCALE_TEXT

    high, wide = row.image.shape[1:]
    edges = (0, wide, high, 0)
    axes = _axes(figure, _LEFT, bottom, _IMAGE, _IMAGE)
    axes.imshow(row.image.clamp(0, 1).permute(1, 2, 0).numpy(), extent=edges)
    axes.set_anchor("NW")
    _label(axes, "x (pixels)", "y (pixels)", (0, wide), (0, high))
    _text(axes, 0, 1.02, row.title, _IMAGE, size=9, weight="bold", transform=axes.transAxes)

    axes = _axes(figure, map_left, bottom, _IMAGE, _IMAGE)
    grey = torch.einsum("chw,c->hw", row.image.clamp(0, 1), torch.tensor(_LUMINANCE)).numpy()
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=edges)
    limit = float(row.map.abs().max()) or 1.0  # the same on both sides of 0, which is the colour map's grey
    shown = axes.imshow(
        row.map.numpy(),
        cmap="coolwarm",
        vmin=-limit,
        vmax=limit,
        alpha=0.6,
        interpolation="bilinear",
        extent=edges,  # each place of the map covers an equal part of the image
    )
    axes.set_anchor("NW")
    _label(axes, "x (pixels)", "", (0, wide), ())
    _text(axes, 0, 1.02, f"where: {row.names[0]}", _IMAGE + _SCALE + _SCALE_TEXT, size=9, transform=axes.transAxes)
    scale = figure.colorbar(shown, cax=_axes(figure, scale_left, bottom, _SCALE, _IMAGE))
    scale.ax.tick_params(labelsize=7, length=2)
    scale.set_label("contribution to the logit", size=7, labelpad=4)
    scale.outline.set_visible(False)

    _draw_bars(_axes(figure, bars_left, bottom, _BARS + _PERCENT, _IMAGE), row)


def _draw_bars(axes: Any, row: Row) -> None:
    places, limit = range(len(row.names)), (_BARS + _PERCENT) / _BARS
    axes.barh(places, row.probabilities, height=0.8, color=[_BAR_FIRST, *[_BAR] * (len(places) - 1)])
    for place, name, probability in zip(places, row.names, row.probabilities, strict=True):
        _text(axes, 0.02, place, name, _BARS, size=9.5, va="center")
        _text(axes, limit, place, f"{probability:.1%}", size=9.5, va="center", ha="right")
    axes.set(xlim=(0, limit), ylim=(BARS - 0.5, -0.5))
    _label(axes, "probability", "", (0, 0.5, 1), ())
    axes.xaxis.set_label_coords(0.5 / limit, -0.1)
    axes.axvline(0, color=_INK, linewidth=1)


def _label(axes: Any, x: str, y: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
    axes.set_xlabel(x, size=7, labelpad=1)
    axes.set_ylabel(y, size=7, labelpad=1)
    axes.set(xticks=x_ticks, yticks=y_ticks)
    axes.tick_params(labelsize=7, length=2)
    axes.spines[:].set_visible(False)


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    """Axes at a place in inches."""
    whole_width, whole_height = figure.get_size_inches()
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def _text(parent: Any, x: float, y: float, text: str, width: float | None = None, **options: Any) -> None:
    """A text in one line, `width` inches at most."""
    text = " ".join(text.split()).encode("utf-8", "replace").decode()  # a file name may hold bytes that are no text
    artist = parent.text(x, y, text, parse_math=False, **{"color": _INK, **options})  # no formulas in names
    length = len(text)
    while width is not None and length > 1 and artist.get_window_extent().width > width * _DPI:
        length -= 1
        artist.set_text(shorten(text, length))


def shorten(text: str, length: int) -> str:
    """A text of at most `length` characters; an ellipsis stands for what is cut out of its middle."""
    if len(text) <= length:
        return text
    head, tail = length // 2, (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - tail :]}"

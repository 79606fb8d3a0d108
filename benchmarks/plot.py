"""Benchmarks as a picture: a panel of bars for each comparison, one of curves for each quantity over the batch size.

Needs matplotlib; not pyplot, so that no window, backend or figure of the caller is touched.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.result import Result, quartiles
from resnext.weights.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2
WIDTH, ROW, EDGE = 7.0, 0.34, 1.0  # inches: of a panel, of a bar, above and below the bars
CURVES = 3.6  # inches: height of a panel of curves
OURS, OTHERS, MUTED = "#2f6fb0", "#b8c4d0", "#666666"
LINES = ("#2f6fb0", "#d1682b", "#3d8f5f", "#7a5aa6")
Panel = list[Result]
SCALES = {"s": ((1.0, "s"), (1e3, "ms"), (1e6, "µs")), "bytes": ((1e-9, "GB"), (1e-6, "MB"))}


def save(results: Sequence[Result], path: Path, caption: str) -> None:
    """Draw the results into a PNG file, which appears under its name whole or not at all. Raises OSError."""
    from matplotlib.figure import Figure

    rows = _rows(results)
    columns = max(map(len, rows))
    heights = [max(map(_height, row)) for row in rows]
    figure = Figure(figsize=(WIDTH * columns, sum(heights) + 0.6), dpi=110, layout="constrained")
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for place, row in enumerate(rows):
        for column, panel in enumerate(row):
            draw = _draw_bars if panel[0].batch is None else _draw_curves
            draw(figure.add_subplot(grid[place, column]), panel)
    figure.get_layout_engine().set(hspace=0.06)  # type: ignore[union-attr,call-arg]
    figure.supxlabel(f"{caption}\nBars: medians, with quartiles. Less is better.", fontsize=8, color=MUTED)
    with replacing(path, ".png") as temporary:
        figure.savefig(temporary)


def _rows(results: Sequence[Result]) -> list[list[Panel]]:
    """Each benchmark begins a row. A comparison has a panel; those that differ in the batch have one for a quantity."""
    panels: dict[tuple[str, ...], Panel] = {}
    for result in results:
        title = result.title if result.batch is None else ""
        panels.setdefault((result.benchmark, title, result.quantity), []).append(result)
    rows: list[list[Panel]] = []
    for _, group in itertools.groupby(panels.values(), key=lambda panel: panel[0].benchmark):
        row = list(group)
        rows += [row[start : start + COLUMNS] for start in range(0, len(row), COLUMNS)]
    return rows


def _height(panel: Panel) -> float:
    return EDGE + ROW * _count(panel[0]) if panel[0].batch is None else CURVES


def _count(result: Result) -> int:
    return len(result.values) + len(result.missing)


def _scale(largest: float, unit: str) -> tuple[float, str]:
    """The first scale in which the largest value is 1 or more."""
    scales = SCALES[unit]
    return next((scale for scale in scales if largest * scale[0] >= 1), scales[-1])


def _draw_bars(axes: Axes, panel: Panel) -> None:
    """Fastest first; then those without a value, and why."""
    (result,) = panel
    spreads = {name: quartiles(values) for name, values in result.values.items()}
    names = sorted(spreads, key=lambda name: spreads[name][1])
    largest = max((high for _, _, high in spreads.values()), default=1.0)
    scale, unit = _scale(largest, result.unit)
    for place, name in enumerate(names):
        low, middle, high = (value * scale for value in spreads[name])
        color = OURS if name.startswith("ours") else OTHERS
        axes.barh(place, middle, color=color, xerr=[[middle - low], [high - middle]], ecolor=MUTED, capsize=2)
        axes.annotate(f"{middle:.3g}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    for place, (_, why) in enumerate(result.missing.items(), len(names)):
        axes.annotate(why, (0, place), (3, 0), textcoords="offset points", va="center", fontsize=8, color=MUTED)
    axes.set_yticks(range(_count(result)), [*names, *result.missing], fontsize=8)
    axes.set_ylim(_count(result) - 0.4, -0.6)
    axes.set_xlim(0, largest * scale * 1.15)
    axes.set_title(f"{result.benchmark}: {result.title}", fontsize=9, loc="left")
    _finish(axes, f"{result.quantity} ({unit})")


def _draw_curves(axes: Axes, panel: Panel) -> None:
    """One curve for each contender over the batch size."""
    curves: dict[str, list[tuple[int, list[float]]]] = {}
    for result in panel:
        for name, values in result.values.items():
            curves.setdefault(name, []).append((result.batch or 0, quartiles(values)))
    largest = max((point[1] for curve in curves.values() for _, point in curve), default=1.0)
    scale, unit = _scale(largest, panel[0].unit)
    for (name, curve), color in zip(curves.items(), LINES * math.ceil(len(curves) / len(LINES)), strict=False):
        batches = [batch for batch, _ in curve]
        low, middle, high = ([point[i] * scale for _, point in curve] for i in range(3))
        axes.plot(batches, middle, "o-", color=color, label=name, markersize=3.5)
        axes.fill_between(batches, low, high, color=color, alpha=0.2, linewidth=0)
    ticks = sorted({result.batch or 0 for result in panel})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    if panel[0].unit == "bytes":  # which grow with the batch
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(f"{panel[0].quantity} ({unit})", fontsize=8)
    axes.set_title(f"{panel[0].benchmark}: {panel[0].quantity}", fontsize=9, loc="left")
    axes.legend(fontsize=8, frameon=False)
    _finish(axes, "batch")


def _finish(axes: Axes, label: str) -> None:
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)

"""Benchmarks as pictures, one for each subject: bars for comparisons, curves over the batch size.

Needs matplotlib, but not pyplot, so that no window, backend or figure of the caller changes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Result, quartiles
from resnext.weights.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILES = {"load": "loading", "preprocess": "preprocessing"}  # the others have the name of their subject
SCALES = {"s": ((1.0, "s"), (1e3, "ms")), "bytes": ((1e-9, "GB"), (1e-6, "MB")), "images/s": ((1.0, "images/s"),)}
FEW = 3  # comparisons of at most so many contenders share a panel
WIDTH, BAR, EDGE, CURVES = 11.0, 0.3, 1.1, 4.2  # inches: the picture, a bar, around the bars, a panel of curves
OURS, OTHERS, MUTED = ("#2f6fb0", "#86b1dc"), ("#9aa5b1", "#c9d0d8"), "#555555"
LINES = ("#2f6fb0", "#d1682b", "#3d8f5f")
Panel = list[Result]


def save(results: Sequence[Result], folder: Path, machine: str) -> None:
    """Draw a PNG file for each subject; each appears under its name whole or not at all. Raises OSError."""
    from matplotlib.figure import Figure

    for subject in dict.fromkeys(result.benchmark for result in results):
        panels = _panels([result for result in results if result.benchmark == subject])
        if not panels:
            continue
        columns = 1 if len(panels) == 1 else 2
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(WIDTH, rows * max(map(_height, panels)) + 0.6), dpi=120, layout="constrained")
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, columns, place)
            (_draw_bars if panel[0].batch is None else _draw_curves)(axes, panel)
            axes.spines[["top", "right"]].set_visible(False)
        better = "More is better." if subject == "inference" else "Less is better."
        caption = textwrap.fill(f"Medians, with quartiles. {better} {machine}", 150)
        figure.supxlabel(caption, fontsize=8, color=MUTED, x=0.01, ha="left")
        with replacing(folder / f"{FILES.get(subject, subject)}.png", ".png") as temporary:
            figure.savefig(temporary)


def _panels(results: Sequence[Result]) -> list[Panel]:
    """Comparisons of few contenders, or that differ only in the batch, share a panel for each quantity."""
    panels: dict[tuple[str, ...], Panel] = {}
    for result in results:
        own_panel = result.batch is None and len(result.values) > FEW
        panels.setdefault((result.quantity, result.title if own_panel else ""), []).append(result)
    return [panel for panel in panels.values() if any(result.values for result in panel)]


def _height(panel: Panel) -> float:
    if panel[0].batch is not None:
        return CURVES
    return EDGE + BAR * sum(len(result.values) + len(result.missing) + 0.6 for result in panel)


def _values(result: Result) -> tuple[str, dict[str, list[float]]]:
    """Unit and quartiles. Inference is in images per second, as in its table."""
    if result.benchmark == "inference":
        return "images/s", {name: quartiles([1 / value for value in values]) for name, values in result.values.items()}
    return result.unit, {name: quartiles(values) for name, values in result.values.items()}


def _scale(largest: float, unit: str) -> tuple[float, str]:
    """The first scale in which the largest value is 1 or more."""
    return next((scale for scale in SCALES[unit] if largest * scale[0] >= 1), SCALES[unit][-1])


def _draw_bars(axes: Axes, panel: Panel) -> None:
    """A bar for each contender, ours in blue; several comparisons in one panel each get a title."""
    unit, shown = _values(panel[0])[0], [_values(result)[1] for result in panel]
    largest = max(high for spreads in shown for _, _, high in spreads.values())
    scale, unit = _scale(largest, unit)
    many, place, ticks = len(shown[0]) > FEW, 0.0, {}
    for result, spreads in zip(panel, shown, strict=True):
        if len(panel) > 1:
            axes.annotate(result.title, (0, place - 0.1), fontsize=9, weight="bold")
            place += 0.5
        order = sorted(spreads, key=lambda name: -spreads[name][1]) if many else list(spreads)
        for name in (*order, *result.missing):
            if name in spreads:
                _draw_bar(axes, place, name, [value * scale for value in spreads[name]])
            else:
                axes.annotate(f" {result.missing[name]}", (0, place), va="center", fontsize=8, color=MUTED)
            ticks[place] = name
            place += 1
        place += 0.4
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=9)
    axes.set_ylim(place - 0.6, -0.8)
    axes.set_xlim(0, largest * scale * 1.12)
    axes.tick_params(axis="x", labelsize=9)
    one = panel[0]
    title = one.title if many else one.quantity if len(panel) > 1 else f"{one.quantity}\n{one.title}"
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(unit, fontsize=9)


def _draw_bar(axes: Axes, place: float, name: str, spread: list[float]) -> None:
    low, middle, high = spread
    color = (OURS if name.startswith("ours") else OTHERS)[", " in name]
    axes.barh(place, middle, 0.8, color=color, xerr=[[middle - low], [high - middle]], ecolor=MUTED, capsize=2)
    axes.annotate(f"{middle:.3g}", (high, place), (5, 0), textcoords="offset points", va="center", fontsize=9)


def _draw_curves(axes: Axes, panel: Panel) -> None:
    """One curve for each contender over the batch size."""
    curves: dict[str, list[tuple[int, list[float]]]] = {}
    for result in panel:
        for name, values in result.values.items():
            curves.setdefault(name, []).append((result.batch or 0, quartiles(values)))
    scale, unit = _scale(max(point[2] for curve in curves.values() for _, point in curve), panel[0].unit)
    for number, (name, curve) in enumerate(curves.items()):
        batches, color = [batch for batch, _ in curve], LINES[number % len(LINES)]
        low, middle, high = ([point[i] * scale for _, point in curve] for i in range(3))
        axes.plot(batches, middle, "o-", color=color, label=name, markersize=4)
        axes.fill_between(batches, low, high, color=color, alpha=0.2, linewidth=0)
    ticks = sorted({result.batch or 0 for result in panel})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    if panel[0].unit == "bytes":  # they grow with the batch
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(unit, fontsize=9)
    axes.set_xlabel("batch", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.set_title(panel[0].quantity, fontsize=10, loc="left")
    axes.legend(fontsize=9, frameon=False)

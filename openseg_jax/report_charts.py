"""Line charts as inline SVG: nothing to fetch, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np

# Middle tones that stand out from a white page as well as from a dark one.
SERIES_COLORS = ("#3b82d6", "#e0732e", "#22a06b", "#9768d9", "#d6487e", "#8b8f98")
Point = tuple[float, float]


def line_chart(
    series: dict[str, list[Point]],
    title: str,
    y_label: str,
    x_label: str = "step",
    log_y: bool = False,
) -> str:
    """An inline SVG of one or more curves.

    Args:
        series: `{name: [(x, y), ...]}`, x ascending. NaN and infinite values (with `log_y` also
            those not above zero) are left out; a lone point becomes a dot.
        title: what is shown.
        y_label: the unit of y.
        x_label: the unit of x.
        log_y: a logarithmic y axis.
    """
    curves = {name: drawable(points, log_y) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if points}
    width, height, left, right, top, bottom = 560, 270, 78, 544, 62, 228
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" '
        'fill="currentColor" font-size="12">',
        _text(left, 18, title, "start", 'font-size="14" font-weight="600"'),
    ]
    if not curves:
        return "".join([*parts, _text(width / 2, height / 2, "no data yet"), "</svg>"])

    xs, ys = zip(*(point for points in curves.values() for point in points), strict=True)
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), (_log_ticks if log_y else _ticks)(min(ys), max(ys))
    # The y axis ends on ticks; the x axis ends with the data, so that no curve looks cut short.
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (x_ticks[0], x_ticks[-1])
    scaled = math.log10 if log_y else float
    y_low, y_high = scaled(y_ticks[0]), scaled(y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (scaled(y) - y_low) / (y_high - y_low)
        return round(left + (right - left) * across, 1), round(bottom - (bottom - top) * up, 1)

    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(f'<path d="M{left} {y}H{right}" stroke="currentColor" opacity=".15"/>')
        parts.append(_text(left - 7, y + 4, _short(tick), "end"))
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            parts.append(_text(place(tick, y_ticks[0])[0], bottom + 17, _short(tick)))
    parts.append(f'<path d="M{left} {bottom}H{right}" stroke="currentColor" opacity=".5"/>')
    parts.append(_text((left + right) / 2, height - 6, x_label))
    parts.append(_text(0, 0, y_label, more=f'transform="translate(12 {top + 83}) rotate(-90)"'))

    key_x = float(left)
    for i, (name, points) in enumerate(curves.items()):
        color = SERIES_COLORS[i % len(SERIES_COLORS)]
        key = f"{name}: {points[-1][1]:.4g}"
        parts.append(f'<rect x="{key_x}" y="33" width="14" height="4" rx="2" fill="{color}"/>')
        parts.append(_text(key_x + 19, 39, key, "start"))
        key_x += 36 + 6.5 * len(key)
        shown = _thinned(points)
        places = " ".join("{},{}".format(*place(*point)) for point in shown)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{color}" '
                     'stroke-width="1.8" stroke-linejoin="round"/>')  # fmt: skip
        for x, y in shown if len(shown) <= 40 else ():  # few enough to point at one by one
            a, b = place(x, y)
            parts.append(f'<circle cx="{a}" cy="{b}" r="3" fill="{color}"><title>{escape(name)} '
                         f"{y:.5g} at {x:g}</title></circle>")  # fmt: skip
    return "".join(parts) + "</svg>"


def _thinned(points: list[Point], buckets: int = 250) -> list[Point]:
    """Lowest and highest point of each stretch of a long curve: small, yet no spike is lost."""
    if len(points) <= 2 * buckets:
        return points
    kept = {0, len(points) - 1}
    for stretch in np.array_split(np.arange(len(points)), buckets):
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[i] for i in sorted(kept)]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low and high; from 0 where that wastes little."""
    if low == high:
        low, high = low - abs(low) / 10, high + (abs(high) / 10 or 1)
    if 0 < low < high / 2:
        low = 0.0
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    inner = [f * 10.0**k for k in range(first, last, 1 + (last - first) // 7) for f in factors]
    return [*inner, 10.0**last]


def _short(value: float) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit and abs(value) >= 1e4:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def drawable(points: Iterable[Point], log_y: bool = False) -> list[Point]:
    """The points that have a place on the (logarithmic) axes."""
    return [
        (x, y) for x, y in points
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not log_y)
    ]  # fmt: skip


def running_mean(points: list[Point]) -> list[Point]:
    """The mean over a thirtieth of the run, centred so that it does not lag behind."""
    points = drawable(points)
    window = len(points) // 30 + 1
    sums = np.cumsum([0.0, *(y for _, y in points)])
    means = (sums[window:] - sums[:-window]) / window
    centres = points[window // 2 :][: len(means)]
    return [(x, float(mean)) for (x, _), mean in zip(centres, means, strict=True)]

"""Charts as inline SVG: numbers in, markup out.

Colours come from the page's style sheet by class, so that charts follow the light and dark theme. Horizontal positions
in the one-line charts are percentages, so that they stretch while their strokes do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 40


# Differences this small, absolutely or relatively, are lost in the arithmetic of an axis.
_TINY, _CLOSE = 1e-200, 1e-9


def _alike(low: float, high: float) -> bool:
    return high - low <= max(_TINY, _CLOSE * max(abs(low), abs(high)))


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return at most `about` + 1 round numbers within [low, high]: multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 100)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if _alike(low, high):
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
    return [float(f"{index * size:.12g}") for index in range(first, last + 1)]


def short(value: float) -> str:
    """Return a number as an axis shows it, in at most four significant digits.

    >>> short(0.00002), short(1500.0), short(0.25)
    ('2e-5', '1500', '0.25')
    """
    text = f"{value:.4g}"
    mantissa, found, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if found else text


def extent(values: Sequence[float]) -> tuple[float, float]:
    """Return an axis' range: from the least to the greatest value, with zero when that is near, never empty."""
    low, high = min(values), max(values)
    if 0 < low < 0.5 * high:
        low = 0.0
    if _alike(low, high):
        margin = max(abs(low), abs(high)) / 2 if abs(low) > _TINY else 0.5
        return low - margin, high + margin
    return low, high


def line_chart(points: Sequence[tuple[float, float]], quantity: str, x_label: str = "step") -> Markup:
    """Draw one series as a line with axes.

    Args:
        points: (x, y), by x; at least one.
        quantity: what y is, for the text alternative.
        x_label: what x is.
    """
    x_low, x_high = extent([x for x, _ in points])
    if len({x for x, _ in points}) > 1:
        x_low, x_high = points[0][0], points[-1][0]
    y_low, y_high = extent([y for _, y in points])

    def x_at(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    parts = []
    for tick in ticks(y_low, y_high):
        at = y_at(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    x_ticks = [tick for tick in ticks(x_low, x_high) if tick == int(tick)] or [x_low]
    for tick in x_ticks:
        at = x_at(tick)
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{floor + 17}" text-anchor="middle">{short(tick)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{floor}" y2="{floor}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="tick" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
    path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in points)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if len(points) == 1:
        parts.append(f'<circle class="dot" cx="{x_at(points[0][0]):.1f}" cy="{y_at(points[0][1]):.1f}" r="3"/>')
    first, last = points[0], points[-1]
    label = f"{quantity}: {short(first[1])} at {x_label} {short(first[0])}, {short(last[1])} at {short(last[0])}"
    # All parts are numbers formatted above, or escaped.
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def _line(kind: str, left: float, right: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{left:.2f}%" x2="{right:.2f}%" y1="{y1:g}" y2="{y2:g}"/>'


def interval_bar(score: Mapping[str, object], low: float = 0.0, high: float = 1.0) -> Markup:
    """Draw a score and its interval on the range low to high, in one line.

    Args:
        score: `model`, `pass_at_1` and `ci95`; an empty chart when there is no score.
        low: left end of the axis.
        high: right end of the axis.
    """
    value, interval = score["pass_at_1"], score["ci95"]

    def at(number: float) -> float:
        # A margin on both sides keeps marks at the ends whole.
        return 1 + 98 * (number - low) / (high - low)

    parts = [_line("grid", at(tick), at(tick), 0, 22) for tick in ticks(low, high)]
    label = "no score"
    if isinstance(value, int | float) and isinstance(interval, list | tuple):
        begin, end = interval
        kind = escape(str(score["model"]))
        parts.append(_line(f"interval {kind}", at(begin), at(end), 11, 11))
        parts += [_line(f"interval {kind}", at(edge), at(edge), 7, 15) for edge in (begin, end)]
        parts.append(f'<circle class="point {kind}" cx="{at(value):.2f}%" cy="11" r="5"/>')
        label = f"{value:.3f}, 95 % interval {begin:.3f} to {end:.3f}"
    return Markup(f'<svg class="bar" height="22" role="img" aria-label="{label}">{"".join(parts)}</svg>')


def interval_axis(low: float = 0.0, high: float = 1.0) -> Markup:
    """Draw the numbers below a column of :func:`interval_bar`, in per cent."""
    parts = []
    for tick in ticks(low, high):
        at = 1 + 98 * (tick - low) / (high - low)
        parts.append(f'<text class="tick" x="{at:.2f}%" y="13" text-anchor="middle">{short(100 * tick)} %</text>')
    return Markup(f'<svg class="bar" height="18" aria-hidden="true">{"".join(parts)}</svg>')


def rows_bar(rows_out: int | None, dropped: int, most: int) -> Markup:
    """Draw the rows kept and, after them, the rows dropped, against the most rows of any step."""
    if rows_out is None or not most:
        return Markup("")
    kept, gone = 100 * rows_out / most, 100 * dropped / most
    parts = [f'<rect class="kept" x="0" y="3" width="{kept:.2f}%" height="10"/>']
    if gone:
        parts.append(f'<rect class="dropped" x="{kept:.2f}%" y="3" width="{gone:.2f}%" height="10"/>')
    label = f"{rows_out} kept, {dropped} dropped"
    return Markup(f'<svg class="bar" height="16" role="img" aria-label="{label}">{"".join(parts)}</svg>')

"""The colours of the page and its figures, light and dark, with sufficient contrast."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping

from softadv.training import records

# Text has 4.5:1 on every ground of its scheme, lines 3:1 (WCAG 2.2, 1.4.3 and 1.4.11).
LIGHT = {
    "paper": "#FBFBFA", "card": "#FFFFFF", "head": "#F2F3F6", "ink": "#1F2430", "soft": "#565D6B", "line": "#DFE2E8",
    "link": "#005A92", "band": "#D3E7F6", "edge": "#6A9CC2",
    "holds": "#00604A", "holds-bg": "#E2F3ED", "fails": "#9A3D00", "fails-bg": "#FCEBE0",
    "open": "#6B4E00", "open-bg": "#FAF0D2", "idle": "#4E5563", "idle-bg": "#ECEEF2",
}  # fmt: skip
DARK = {
    "paper": "#14171D", "card": "#1B1F27", "head": "#232833", "ink": "#E6E8EC", "soft": "#A9B1BE", "line": "#323845",
    "link": "#7CC4F0", "band": "#1D3C55", "edge": "#5C93BF",
    "holds": "#6FDCB8", "holds-bg": "#12352B", "fails": "#FFB184", "fails-bg": "#40220F",
    "open": "#ECC94F", "open-bg": "#3A3010", "idle": "#B5BCC9", "idle-bg": "#2B313C",
}  # fmt: skip
LEAST = 3.1  # the contrast of a line or a marker with the ground

# Okabe and Ito's palette; the parts of an epoch are a ramp of one hue, so that they are no method's.
PARTITION = {"verified": "#56B4E9", "unverified": "#E69F00", "misclassified": "#CC79A7"}
PARTS = dict(zip(records.PARTS, ("#2C3E5A", "#6F87A8", "#A9B9D0", "#DCE4EE"), strict=True))


def luminance(color: str) -> float:
    """The relative luminance of "#RRGGBB", in [0, 1], by WCAG 2.2."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in _rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, from 1 to 21, by WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable(color: str, *, on: str, least: float = LEAST) -> str:
    """The colour, darker or lighter by as much as it takes to stand out from the ground `on`."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*_rgb(color))
    step = -0.01 if luminance(on) > 0.5 else 0.01
    for _ in range(101):
        if contrast(color, on) >= least:
            break
        lightness = min(max(lightness + step, 0.0), 1.0)
        color = _hex(colorsys.hls_to_rgb(hue, lightness, saturation))
    return color


def ramp(count: int) -> list[str]:
    """Blues from the lightest to the darkest, for lines that stand in an order; each is told by its label, too."""
    shares = [index / max(count - 1, 1) for index in range(count)]
    return [_hex(colorsys.hls_to_rgb(0.57, 0.55 - 0.33 * share, 0.75)) for share in shares]


def stroke(color: str) -> str:
    """The class of what is drawn with this colour."""
    return f"s-{color.removeprefix('#').upper()}"


def fill(color: str) -> str:
    """The class of what is filled with this colour."""
    return f"f-{color.removeprefix('#').upper()}"


def area(color: str) -> str:
    """The class of an area of exactly this colour, which its outline tells from the ground."""
    return f"part a-{color.removeprefix('#').upper()}"


def stylesheet(drawn: Iterable[str]) -> str:
    """The CSS of figures: their own rules, and those of the colours that they use, in light, dark and print.

    drawn: the figures' SVG. Colours are written out, since not every reader of SVG files knows variables.
    """
    used = sorted({color for text in drawn for color in re.findall(r"\b[sf]-([0-9A-F]{6})\b", text)})
    areas = sorted({color for text in drawn for color in re.findall(r"\ba-([0-9A-F]{6})\b", text)})
    exact = "\n".join(f".figure .a-{color} {{ fill: #{color}; }}" for color in areas)
    light, dark = (f"{_scheme(colors)}\n{_uses(used, colors)}" for colors in (LIGHT, DARK))
    return f"{_RULES}\n{exact}\n{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"


def variables() -> str:
    """The page's own colours as CSS variables, in light, dark and print."""
    light, dark = (" ".join(f"--{name}: {color};" for name, color in scheme.items()) for scheme in (LIGHT, DARK))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


_RULES = """\
.figure text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.figure text { fill: currentColor; font-variant-numeric: tabular-nums; text-rendering: geometricPrecision; }
.figure text { stroke-width: 3; stroke-linejoin: round; paint-order: stroke; }
.figure .title { font-weight: 600; }
.figure .small { font-size: 11px; }
.figure .thin { stroke-width: 1; }
.figure .line, .figure .range { fill: none; stroke-width: 2; stroke-linejoin: round; }
.figure .link { fill: none; stroke-width: 1; }
.figure .shade { fill-opacity: .18; }
.figure .seed { fill: none; stroke-width: 1.2; }
.figure .claimed, .figure .part { stroke-width: 1; }
.figure .dotted { stroke-dasharray: 2 3; }
.figure .hit rect { fill: transparent; }
.figure image { image-rendering: pixelated; }"""


def _scheme(colors: Mapping[str, str]) -> str:
    ink, soft, line = colors["ink"], colors["soft"], colors["line"]
    return "\n".join((
        f".figure {{ color: {ink}; }}",
        f".figure text {{ stroke: {colors['card']}; }}",  # what crosses a text stops short of its letters
        f".figure .ground {{ fill: {colors['card']}; }}",
        f".figure .soft {{ color: {soft}; }}",
        f".figure .thin, .figure .frame {{ stroke: {line}; fill: none; }}",
        f".figure .axis, .figure .zero {{ stroke: {soft}; stroke-width: 1; fill: none; }}",
        f".figure .range {{ stroke: {ink}; }}",
        f".figure .point {{ fill: {ink}; stroke: {colors['card']}; }}",
        f".figure .part {{ stroke: {soft}; }}",
        f".figure .claimed {{ fill: {colors['band']}; stroke: {colors['edge']}; }}",
        f".figure .hit:hover rect, .figure .hit.on rect {{ fill: {ink}; fill-opacity: .09; }}",
    ))  # fmt: skip


def _uses(used: Iterable[str], scheme: Mapping[str, str]) -> str:
    rules = []
    for color in used:
        seen = readable(f"#{color}", on=scheme["card"])
        rules.append(f".figure .s-{color} {{ stroke: {seen}; }} .figure .f-{color} {{ fill: {seen}; }}")
        rules.append(f".swatch.f-{color} {{ background: {seen}; }}")
    return "\n".join(rules)


def _rgb(color: str) -> tuple[float, float, float]:
    value = color.removeprefix("#")
    red, green, blue = (int(value[place : place + 2], 16) / 255 for place in (0, 2, 4))
    return red, green, blue


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * value):02X}" for value in rgb)

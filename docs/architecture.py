"""Draws `architecture.svg`: one edit, from words and pictures to a picture. Needs nothing but Python.

    python3 docs/architecture.py                 # writes docs/architecture.svg
    python3 docs/architecture.py --check         # says whether the file is what would be written

Numbers are those of the published models (`models/flux1-fill-dev/card.toml`, `models/ace-plus-fft/card.toml`).
"""

import sys
from html import escape
from pathlib import Path

WIDTH, HEIGHT = 900, 716
INK, SOFT, LINE = "#1f2933", "#5b6770", "#8a96a0"
NET, NET_LINE = "#e3ecf7", "#5b82b5"
STEP, STEP_LINE = "#f4efe2", "#b59a5b"
TEAL, RED, YELLOW, PURPLE, GREY = "#1d5a63", "#d9443f", "#edc53f", "#8e5bc0", "#9aa3aa"

parts: list[str] = []


def rect(x, y, w, h, fill, stroke="none", radius=0):
    parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>')


def text(x, y, words, size=13, fill=INK, anchor="middle", weight="normal"):
    style = f'font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}"'
    parts.append(f'<text x="{x}" y="{y}" {style}>{escape(words)}</text>')


def box(x, y, w, h, title, note="", fill=NET, stroke=NET_LINE):
    """A rounded box with a title, and a smaller line under it."""
    rect(x, y, w, h, fill, stroke, 6)
    middle = y + h / 2 + 4.5
    text(x + w / 2, middle - 8 if note else middle, title, 13, INK, "middle", "bold")
    if note:
        text(x + w / 2, middle + 8, note, 11, SOFT)


def trapezoid(x, y, w, h, title, widens):
    """An encoder (narrow end below) or a decoder (`widens`)."""
    cut = 16
    top, bottom = (cut, 0) if widens else (0, cut)
    corners = [(x + top, y), (x + w - top, y), (x + w - bottom, y + h), (x + bottom, y + h)]
    points = " ".join(f"{a},{b}" for a, b in corners)
    parts.append(f'<polygon points="{points}" fill="{NET}" stroke="{NET_LINE}"/>')
    text(x + w / 2, y + h / 2 + 4.5, title, 13, INK, "middle", "bold")


def arrow(*points, colour=LINE):
    """A line through points, with a head at the last."""
    path = " ".join(f"{x},{y}" for x, y in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#head)"/>')


def ring(x, y, r, colour):
    parts.append(f'<circle cx="{x}" cy="{y}" r="{r}" fill="none" stroke="{colour}" stroke-width="{r * 0.6:g}"/>')


def triangle(x, y, r, colour):
    parts.append(f'<polygon points="{x},{y - r} {x - r},{y + r} {x + r},{y + r}" fill="{colour}"/>')


def scene(x, y, side, place):
    """The picture that is edited; `place` draws what stands in the part that is to be repainted."""
    rect(x, y, side, side, TEAL)
    triangle(x + side * 0.28, y + side * 0.7, side * 0.15, YELLOW)
    place(x + side * 0.72, y + side * 0.32, side)


def square(x, y, side, colour):
    rect(x - side * 0.2, y - side * 0.2, side * 0.4, side * 0.4, colour)


def red(x, y, side):
    square(x, y, side, RED)


def hole(x, y, side):
    square(x, y, side, GREY)


def item(x, y, side):
    ring(x, y, side * 0.13, PURPLE)


def reference(x, y, side):
    rect(x, y, side, side, "#e9e6df")
    ring(x + side / 2, y + side / 2, side * 0.2, PURPLE)


def mask(x, y, side):
    rect(x, y, side, side, "black")
    square(x + side * 0.72, y + side * 0.32, side, "white")


# What goes in: pictures.
for x, draw, name in [(20, reference, "reference"), (104, lambda x, y, s: scene(x, y, s, red), "image"), (188, mask, "mask")]:
    draw(x, 20, 68)
    text(x + 34, 106, name, 12)
arrow((264, 54), (306, 54))
reference(314, 20, 68)
scene(382, 20, 68, red)
rect(314, 20, 136, 68, "none", INK)
text(382, 106, "canvas: references | image", 12)
text(462, 40, "sides are multiples of 16 pixels,", 11, SOFT, "start")
text(462, 56, "4096 tokens of 16×16 at most;", 11, SOFT, "start")
text(462, 72, "of a larger image the surroundings", 11, SOFT, "start")
text(462, 88, "of the mask, at full resolution", 11, SOFT, "start")

# What goes in: words.
box(706, 20, 174, 44, "instruction", "“put the item in the box”", "white", LINE)
box(706, 128, 174, 44, "T5", "a vector for each piece")
box(706, 190, 174, 44, "CLIP", "a vector for the whole")
arrow((793, 64), (793, 128))
parts.append(f'<polyline points="793,98 694,98 694,212" fill="none" stroke="{LINE}" stroke-width="1.6"/>')
arrow((694, 212), (706, 212))

# The unit: channels of a token to scale, 64 + 64 + 64 + 256 of 640 pixels.
LEFT, SIXTYFOUR = 24, 640 * 64 / 448
BAR, TALL = 300, 40
segments = [
    ("noise", 64, "#dfe3e6"),
    ("masked image", 64, "#bcd9d4"),
    ("change image", 64, "#f3cfc4"),
    ("mask, folded", 256, "#e7e2f1"),
]
x = LEFT
middles = []
for name, channels, fill in segments:
    w = SIXTYFOUR * channels / 64
    rect(round(x, 1), BAR, round(w, 1), TALL, fill, INK)
    text(round(x + w / 2, 1), BAR + 17, name, 12)
    text(round(x + w / 2, 1), BAR + 33, str(channels), 12, SOFT)
    middles.append(round(x + w / 2, 1))
    x += w
text(LEFT + 640, BAR + TALL + 16, "noise and unit: what one token holds, 448 channels", 12, SOFT, "end")
text(LEFT + 640, BAR + TALL + 32, "FLUX-Fill and its LoRAs: 384, no change image", 12, SOFT, "end")

# From the canvas to the unit.
THUMB = 150
w = 72
for middle, draw in [(middles[1], hole), (middles[2], None)]:
    if draw:
        reference(middle - w / 2, THUMB, w / 2)
        scene(middle, THUMB, w / 2, draw)
    else:
        rect(middle - w / 2, THUMB, w, w / 2, GREY)
        red(middle + w / 2 * 0.72, THUMB + w / 2 * 0.32, w / 2)
    rect(middle - w / 2, THUMB, w, w / 2, "none", INK)
rect(middles[3] - w / 2, THUMB, w, w / 2, "black")
square(middles[3] + w / 2 * 0.72, THUMB + w / 2 * 0.32, w / 2, "white")
for middle in middles[1:]:
    arrow((382, 114), (382, 128), (middle, 128), (middle, THUMB - 3))
trapezoid(middles[1] - 42, 208, middles[2] - middles[1] + 84, 36, "autoencoder: encode", False)
box(middles[3] - 80, 208, 160, 36, "fold 8×8 pixels", "", STEP, STEP_LINE)
box(middles[0] - 36, 208, 72, 36, "seed", "", "white", LINE)
arrow((middles[0], 244), (middles[0], BAR))
for middle in middles[1:]:
    arrow((middle, THUMB + w / 2), (middle, 208))
    arrow((middle, 244), (middle, BAR))

# The transformer.
FLUX = 392
rect(24, FLUX, 856, 100, "#f3f7fc", NET_LINE, 8)
text(40, FLUX + 20, "FLUX transformer", 13, INK, "start", "bold")
box(40, FLUX + 34, 330, 50, "double blocks × 19", "words and picture: own weights, one attention")
box(410, FLUX + 34, 220, 50, "single blocks × 38", "one stream of both")
box(706, FLUX + 34, 160, 50, "velocity", "noise − latents", "white", LINE)
arrow((370, FLUX + 59), (410, FLUX + 59))
arrow((630, FLUX + 59), (706, FLUX + 59))
arrow((220, BAR + TALL), (220, FLUX))
text(232, FLUX - 22, "tokens", 12, SOFT, "start")
parts.append(f'<polyline points="880,150 890,150 890,366" fill="none" stroke="{LINE}" stroke-width="1.6"/>')
parts.append(f'<polyline points="793,234 793,366" fill="none" stroke="{LINE}" stroke-width="1.6"/>')
arrow((890, 366), (760, 366), (760, FLUX))
text(800, FLUX - 8, "words", 12, SOFT, "start")

# A step, and the loop.
EULER = 528
box(270, EULER, 300, 44, "one Euler step", "latents + (next time − time) · velocity", STEP, STEP_LINE)
arrow((786, FLUX + 84), (786, EULER + 22), (570, EULER + 22))
arrow((270, EULER + 22), (10, EULER + 22), (10, BAR + 20), (LEFT, BAR + 20))
text(24, EULER + 14, "28 times: time from 1, noise,", 12, SOFT, "start")
text(24, EULER + 40, "down to 0, the latents of the picture", 12, SOFT, "start")

# Back to pixels.
BACK = 620
arrow((420, EULER + 44), (420, BACK))
text(430, EULER + 66, "after the last", 12, SOFT, "start")
trapezoid(330, BACK, 180, 40, "autoencoder: decode", True)
box(545, BACK - 8, 222, 56, "crop, match colours, stitch", "outside the mask: the image’s bytes", STEP, STEP_LINE)
arrow((507, BACK + 20), (545, BACK + 20))
arrow((767, BACK + 20), (800, BACK + 20))
scene(808, BACK - 16, 72, item)
text(844, BACK + 74, "edited image", 12)

SVG = f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif">
<title>One edit of ACE++: words and pictures become tokens, FLUX walks from noise to latents, latents become a picture</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
{chr(10).join(parts)}
</svg>
"""

PATH = Path(__file__).with_suffix(".svg")
if "--check" in sys.argv:
    if PATH.read_text() != SVG:
        sys.exit(f"{PATH} is not what this script draws: run it again")
else:
    PATH.write_text(SVG)

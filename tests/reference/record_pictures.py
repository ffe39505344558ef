#!/usr/bin/env python3
"""Record small picture files of every kind that people have, and what Pillow reads from them, for `ace_plus::picture`.

Made with Python 3.11, pillow 13.0.0, numpy 2.4.6, safetensors 0.8.0. To make them again:

    python3.11 -m venv venv
    venv/bin/python -m pip install pillow==13.0.0 numpy==2.4.6 safetensors==0.8.0
    venv/bin/python tests/reference/record_pictures.py

Files go to `tests/data/pictures/`; `expected.safetensors` there has what is in each, under its name: `[height, width, 3]`
for pictures, `[height, width]` for those whose name begins with `mask`, all uint8. It is what Pillow makes of the file
(`exif_transpose`, `convert`, `paste` on white), except for 16 bits, which Pillow cuts off and we round. Files without an
entry there cannot be read: cut short, empty, no picture, of a kind that is not read, or a header that promises
60000x60000 pixels.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parent.parent / "data" / "pictures"
ORIENTATION = 0x0112
HUGE = 60_000

expected: dict[str, np.ndarray] = {}


def ramps(width: int = 24, height: int = 16) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and different under every turn and flip."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 10, y * 15, 240 - x * 4 - y * 8], -1).astype(np.uint8)


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def as_seen(name: str) -> np.ndarray:
    """RGB, upright, what is transparent on white."""
    image = ImageOps.exif_transpose(Image.open(FOLDER / name))
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return np.array(white)


def save(name: str, image: Image.Image, **options) -> None:
    image.save(FOLDER / name, **options)
    expected[name] = as_seen(name)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *after: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + b"".join(after) + chunk(b"IEND", b"")


def rows_of(array: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in array)


def profile(name: str) -> bytes:
    """Little CMS's sRGB, under another name of as many letters, and without the time of day."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[24:36] = bytes(12)
    ours = "sRGB built-in"
    assert len(name) == len(ours)
    assert ours.encode("utf-16-be") in data
    return bytes(data).replace(ours.encode("utf-16-be"), name.encode("utf-16-be"))


def orientations() -> None:
    image = Image.fromarray(ramps())
    for orientation in range(1, 9):
        save(f"orientation-{orientation}.png", image, exif=oriented(orientation))
    save("orientation-6.jpg", image, exif=oriented(6), quality=95, subsampling=0)
    # Some writers put the JPEG segment's prefix before the Exif of a WebP; Pillow takes one such prefix off.
    prefix = b"Exif\0\0"
    save("orientation-8.webp", image, lossless=True, exif=prefix + prefix + oriented(8).tobytes().removeprefix(prefix))
    # Some writers put the Exif of a PNG behind its pixels.
    exif = chunk(b"eXIf", oriented(5).tobytes().removeprefix(prefix))
    name = "orientation-5-late.png"
    (FOLDER / name).write_bytes(png(24, 16, 8, 2, rows_of(ramps()), exif))
    expected[name] = as_seen(name)


def colours() -> None:
    rgb = ramps()
    image = Image.fromarray(rgb)
    alpha = Image.fromarray(rgb[..., 0])
    save("grey.png", image.convert("L"))
    save("grey.jpg", image.convert("L"), quality=95)
    save("la.png", Image.merge("LA", [image.convert("L"), alpha]))
    save("rgba.png", Image.merge("RGBA", [*image.split(), alpha]))
    save("rgba.webp", Image.merge("RGBA", [*image.split(), alpha]), lossless=True, exact=True)
    save("palette.png", image.quantize(7), transparency=3)
    save("lossless.webp", image, lossless=True)
    save("lossy.webp", image, quality=95)
    save("picture.bmp", image)
    save("progressive.jpg", image, quality=95, progressive=True)
    save("halved.jpg", image, quality=95, subsampling=2)

    y, x = np.mgrid[0:16, 0:24]
    black = Image.fromarray((x * 3 + y * 4).astype(np.uint8))
    save("cmyk.jpg", Image.merge("CMYK", [*ImageOps.invert(image).split(), black]), quality=95)
    # Pillow writes inks inverted and as they are (transform 0); luma and chroma in their place make a YCCK (2).
    inverted = ImageOps.invert(Image.merge("RGB", image.convert("YCbCr").split()))
    content = io.BytesIO()
    Image.merge("CMYK", [*inverted.split(), black]).save(content, "JPEG", quality=95)
    content = bytearray(content.getvalue())
    content[content.index(b"Adobe") + 11] = 2
    (FOLDER / "ycck.jpg").write_bytes(content)
    expected["ycck.jpg"] = as_seen("ycck.jpg")

    deep = np.stack([x * 2849, y * 4369, (x * 16 + y) * 170], -1).astype(np.uint16)
    rounded = np.rint(deep / 257).astype(np.uint8)
    for name, colour, content, eight in [
        ("grey16.png", 0, deep[..., :1], np.repeat(rounded[..., :1], 3, -1)),
        ("rgb16.png", 2, deep, rounded),
    ]:
        (FOLDER / name).write_bytes(png(24, 16, 16, colour, rows_of(content.astype(">u2"))))
        expected[name] = eight


def profiles() -> None:
    image = Image.fromarray(ramps())
    save("srgb.png", image, icc_profile=profile("sRGB built-in"))
    save("profile.png", image, icc_profile=profile("Display P3 v4"))
    save("profile.jpg", image, icc_profile=profile("Display P3 v4"), quality=95, subsampling=0)
    save("profile.webp", image, icc_profile=profile("Display P3 v4"), lossless=True)


def mask(name: str, image: Image.Image, content: Image.Image) -> None:
    image.save(FOLDER / name)
    expected[name] = np.array(content)


def masks() -> None:
    y, x = np.mgrid[0:16, 0:24]
    brush = Image.fromarray(np.clip(x * 40 - 300 + y * 8, 0, 255).astype(np.uint8))
    shapes = Image.fromarray(np.where((x > 8) & (y > 4), 255, 0).astype(np.uint8))
    opaque = Image.new("L", brush.size, 255)
    colourful = Image.fromarray(ramps())
    mask("mask-grey.png", brush, brush)
    mask("mask-colours.png", colourful, colourful.convert("L"))
    mask("mask-opaque.png", Image.merge("LA", [shapes, opaque]), shapes)
    for name, colour in [("white", "white"), ("black", "black"), ("red", "#e01020")]:
        layer = Image.new("RGB", brush.size, colour)
        layer.putalpha(brush)
        mask(f"mask-{name}-brush.png", layer, brush)
    mask("mask-la-brush.png", Image.merge("LA", [Image.new("L", brush.size, 0), brush]), brush)
    # Black and white, and nothing around.
    around = Image.new("L", brush.size, 0)
    around.paste(255, (4, 2, 22, 14))
    inked = Image.merge("LA", [shapes, around])
    mask("mask-inked.png", inked, Image.composite(shapes, Image.new("L", brush.size, 0), around))
    # A photograph with a hole: is the hole repainted or kept?
    colourful.putalpha(brush)
    colourful.save(FOLDER / "mask-hole.png")


def unreadable() -> None:
    image = Image.fromarray(ramps())
    for suffix, kind, options in [
        ("png", "PNG", {}),
        ("jpg", "JPEG", {"quality": 95}),
        ("webp", "WEBP", {"lossless": True}),
        ("bmp", "BMP", {}),
    ]:
        content = io.BytesIO()
        image.save(content, kind, **options)
        whole = content.getvalue()
        (FOLDER / f"truncated.{suffix}").write_bytes(whole[: len(whole) * 3 // 4])
        if suffix == "jpg":
            # Frame header: marker, length, precision, height, width.
            at = whole.index(b"\xff\xc0") + 5
            (FOLDER / "bomb.jpg").write_bytes(whole[:at] + struct.pack(">HH", HUGE, HUGE) + whole[at + 4 :])
        if suffix == "bmp":
            (FOLDER / "bomb.bmp").write_bytes(whole[:18] + struct.pack("<ii", HUGE, HUGE) + whole[26:64])
    (FOLDER / "bomb.png").write_bytes(png(HUGE, HUGE, 8, 2, b"\0" * 64))
    # Within the sides, but two gigabytes of 16-bit colours.
    (FOLDER / "bomb-deep.png").write_bytes(png(16_000, 16_000, 16, 6, b"\0" * 64))
    side = struct.pack("<I", HUGE - 1)[:3]
    frames = b"VP8X" + struct.pack("<I", 10) + bytes(4) + side + side
    frames += b"VP8L" + struct.pack("<I", 8) + b"\x2f" + bytes(7)
    (FOLDER / "bomb.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(frames)) + b"WEBP" + frames)
    image.save(FOLDER / "other.gif")
    (FOLDER / "phone.heic").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic")
    (FOLDER / "words.png").write_bytes(b"not a picture at all\n")
    (FOLDER / "empty.png").write_bytes(b"")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    orientations()
    colours()
    profiles()
    masks()
    unreadable()
    tensors = {name: np.ascontiguousarray(content) for name, content in expected.items()}
    save_file(tensors, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()

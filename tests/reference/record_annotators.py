#!/usr/bin/env python3
"""Record what OpenCV and Pillow make of a few small pictures, for the tests of `ace_plus::annotate`.

Made with Python 3.11, opencv-python-headless 5.0.0.93, pillow 13.0.0, numpy 2.4.6; opencv 4.11.0.86 gives the same
files. To make them again:

    python3.11 -m venv venv
    venv/bin/python -m pip install opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
    venv/bin/python tests/reference/record_annotators.py

Pictures, in `tests/data/annotators/`:

    cat.png    96x80, columns 140..236 and rows 80..160 of scikit-image's `data.chelsea()` (CC0)
    cup.png    200x136, columns 180..380 and rows 20..156 of scikit-image's `data.coffee()` (CC0)
    noise.png  131x70, made here: coarse and fine noise, for edges of every strength and direction

and beside each `<name>-gray.png`, `<name>-mosaic.png`, `<name>-canny.png`. The first two are what they are in the
official code: OpenCV's BGR2GRAY on an RGB array, and a cubic resize to 1/64 with a nearest one back. The cubic resize
of OpenCV with Intel's IPP (its packages for x86) is not that of OpenCV without; `<name>-mosaic-plain.png` is the latter.

`cat-mask.png` is a mask with every grey, `cat-applied.png` what Pillow's `composite` makes of the edges, the picture
and that mask.
"""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "data" / "annotators"
RATIO = 64


def noise() -> np.ndarray:
    rng = np.random.default_rng(64)
    coarse = rng.integers(0, 256, (9, 17, 3), dtype=np.uint8)
    coarse = cv2.resize(coarse, (131, 70), interpolation=cv2.INTER_LINEAR).astype(np.int64)
    return np.clip(coarse + rng.integers(-12, 13, coarse.shape), 0, 255).astype(np.uint8)


def mosaic(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // RATIO, height // RATIO), interpolation=cv2.INTER_CUBIC)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def save(name: str, array: np.ndarray) -> None:
    Image.fromarray(array).save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    save("noise", noise())
    for name in ["cat", "cup", "noise"]:
        image = np.array(Image.open(FOLDER / f"{name}.png"))
        save(f"{name}-gray", cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        save(f"{name}-mosaic", mosaic(image))
        cv2.setUseOptimized(False)  # switches IPP off as well
        save(f"{name}-mosaic-plain", mosaic(image))
        cv2.setUseOptimized(True)
        edges = cv2.Canny(image, 100, 200)
        Image.fromarray(edges).convert("1").save(FOLDER / f"{name}-canny.png", optimize=True)
        if name == "cat":
            rows, columns = np.mgrid[0:80, 0:96]
            mask = ((rows * 96 + columns) % 256).astype(np.uint8)
            save("cat-mask", mask)
            edges = Image.fromarray(edges).convert("RGB")
            Image.composite(edges, Image.fromarray(image), Image.fromarray(mask)).save(FOLDER / "cat-applied.png")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Record the official ACE++ preparation and post-processing, written down after the programs published at
https://github.com/ali-vilab/ACE_plus (`ACEPlusImageProcessor`, `inference/`) with torch, diffusers and Pillow.

The LoRA programs run diffusers' `FluxFillPipeline`, whose pictures are rounded to bytes; the FFT program makes its own
bytes and cuts them off.

Made with torch 2.15.0, diffusers 0.42.1, pillow 13.0.0, numpy 2.4.6, safetensors 0.8.0. To make them again:

    venv/bin/python tests/reference/record_official.py

Each `tests/data/official/<case>.safetensors` has the pictures that went in (`image`, `mask`, `reference`, bytes), what
the networks see (`canvas`, `canvas_mask`, `change`), numbers that stand for what they gave back (`decoded`, hundredths)
and the picture that comes of them (`output`, bytes); whole numbers are stored as float16, settings are in the header.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.numpy import save_file
from torch.nn.functional import interpolate, pad

FOLDER = Path(__file__).resolve().parent.parent / "data" / "official"
TOKEN = 16
SEAM = 30


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth picture with edges and noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 7 + c) * 60 + np.cos(y / (5 + c)) * 50 + 128 for c in range(3)]
    out = np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    out[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
    return out.clip(0, 255).astype(np.uint8)


def mask_of(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A rectangle with a soft rim: greys on both sides of the threshold."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : 3 * height // 4, width // 3 : 5 * width // 6] = 255
    soft = mask.astype(float)
    for _ in range(3):
        soft = (soft + np.roll(soft, 1, 0) + np.roll(soft, 1, 1) + np.roll(soft, -1, 0) + np.roll(soft, -1, 1)) / 5
    return soft.astype(np.uint8)


def planes(image: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.5) / 0.5


def within_aspect(image: torch.Tensor) -> torch.Tensor:
    _, height, width = image.shape
    if height / width > 4:
        kept = int(4 * width)
        top = int(round((height - kept) / 2.0))
        return image[:, top : top + kept]
    if width / height > 4:
        kept = int(4 * height)
        left = int(round((width - kept) / 2.0))
        return image[:, :, left : left + kept]
    return image


def bilinear(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]


def nearest(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return interpolate(image[None], (height, width), mode="nearest-exact")[0]


def whole(side: float) -> int:
    return int(side) // TOKEN * TOKEN


def prepare(case: dict, image, mask, reference):
    if image is None:
        edit = torch.zeros(3, *case["size"])
        edit_mask = torch.ones(1, *case["size"])
    else:
        edit = within_aspect(planes(image))
        if mask is None:
            edit_mask = torch.ones(1, *edit.shape[1:])
        else:
            edit_mask = (torch.from_numpy(mask)[None] > 128).float()
            if edit_mask.sum() == 0:
                edit_mask = torch.ones_like(edit_mask)
    edit = edit * (1 - edit_mask * case["repainting_scale"])
    out_height, out_width = edit.shape[1:]
    slice_width = 0
    canvas, canvas_mask = edit, edit_mask
    if reference is not None:
        beside = within_aspect(planes(reference))
        _, height, width = beside.shape
        if case["keep_pixels"]:
            if height >= 0.8 * out_height:
                new = int(out_height * 0.8)
                beside = bilinear(beside, new, int(width * (new / height)))
            room = out_height - beside.shape[1]
            beside = pad(beside, (0, 0, room // 2, room - room // 2))
        else:
            beside = bilinear(beside, out_height, int(width * (out_height / height)))
        slice_width = beside.shape[2]
        canvas = torch.cat([beside, edit], 2)
        canvas_mask = torch.cat([torch.zeros(1, *beside.shape[1:]), edit_mask], 2)
    height, width = canvas.shape[1:]
    scale = min(1.0, (case["max_seq_len"] / ((height / TOKEN) * (width / TOKEN))) ** 0.5)
    new_height, new_width, slice_width = whole(height * scale), whole(width * scale), whole(slice_width * scale)
    canvas, canvas_mask = nearest(canvas, new_height, new_width), nearest(canvas_mask, new_height, new_width)
    change = None
    if case["use_change"]:
        change, canvas = canvas * canvas_mask, canvas * (1 - canvas_mask)
    return canvas, canvas_mask, change, (out_height, out_width), slice_width


def to_picture(decoded: torch.Tensor, bytes_: str) -> Image.Image:
    if bytes_ == "rounded":
        return VaeImageProcessor().postprocess(decoded[None], output_type="pil")[0]
    cut = (torch.clamp((decoded + 1) / 2, 0, 1) * 255).permute(1, 2, 0).numpy().astype(np.uint8)
    return Image.fromarray(cut)


def finish(decoded: torch.Tensor, out_size: tuple[int, int], slice_width: int, bytes_: str) -> np.ndarray:
    picture = to_picture(decoded, bytes_)
    if slice_width == 0:
        return np.asarray(picture)
    cut = picture.crop((slice_width + SEAM, 0, picture.width, picture.height))
    return np.asarray(cut.resize((out_size[1], out_size[0]), Image.Resampling.BICUBIC))


LORA = {"card": "ace-plus-portrait", "bytes": "rounded", "keep_pixels": False, "use_change": False}
LORA |= {"repainting_scale": 1.0, "max_seq_len": 40}
FFT = {**LORA, "card": "ace-plus-fft", "bytes": "truncated", "keep_pixels": True, "use_change": True}
FFT |= {"repainting_scale": 0.0}
CASES = {
    "lora-reference": {**LORA, "image": (75, 110), "mask": True, "reference": (120, 90), "repainting_scale": 0.5},
    "lora-new": {**LORA, "size": (96, 112), "reference": (64, 40)},
    "lora-alone": {**LORA, "image": (130, 117), "mask": True},
    "lora-black-mask": {**LORA, "image": (64, 80), "mask": "black"},
    "fft-tall-reference": {**FFT, "image": (81, 95), "mask": True, "reference": (400, 77)},
    "fft-small-reference": {**FFT, "image": (90, 100), "mask": True, "reference": (33, 50), "max_seq_len": 400},
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for seed, (name, case) in enumerate(CASES.items()):
        rng = np.random.default_rng(seed)
        image = picture(rng, *case["image"]) if "image" in case else None
        reference = picture(rng, *case["reference"]) if "reference" in case else None
        mask = None
        if case.get("mask"):
            mask = mask_of(rng, *case["image"])
            if case["mask"] == "black":
                mask = (mask // 2).astype(np.uint8)
        canvas, canvas_mask, change, out_size, slice_width = prepare(case, image, mask, reference)
        decoded = rng.integers(-120, 121, canvas.shape).astype(np.int8)
        # Smooth along the rows, as pictures are.
        decoded = ((decoded.astype(int) + np.roll(decoded, 1, 2) + np.roll(decoded, 2, 2)) // 3).astype(np.int8)
        output = finish(torch.from_numpy(decoded).float() / 100, out_size, slice_width, case["bytes"])
        tensors = {"canvas": canvas, "canvas_mask": canvas_mask, "decoded": decoded, "output": output}
        tensors |= {"image": image, "mask": mask, "reference": reference, "change": change}
        whole_numbers = ("image", "mask", "reference", "canvas_mask", "decoded", "output")
        dtypes = {key: np.float16 if key in whole_numbers else np.float32 for key in tensors}
        arrays = {key: np.ascontiguousarray(value, dtype=dtypes[key]) for key, value in tensors.items() if value is not None}
        said = ("card", "bytes", "keep_pixels", "use_change", "repainting_scale", "max_seq_len")
        settings = {key: case[key] for key in said}
        settings |= {"slice_width": slice_width, "size": case.get("size", (0, 0))}
        save_file(arrays, FOLDER / f"{name}.safetensors", {key: str(value) for key, value in settings.items()})
        print(name, tuple(canvas.shape), slice_width, output.shape)


if __name__ == "__main__":
    main()

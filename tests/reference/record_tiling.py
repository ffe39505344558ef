#!/usr/bin/env python3
"""Record what diffusers' tiled autoencoder makes of a picture and of latents, with the autoencoder of `tests/data/fill`.

Made with torch 2.15.0 and diffusers 0.42.1. To make it again:

    venv/bin/python tests/reference/record_tiling.py
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

DATA = Path(__file__).resolve().parent.parent / "data"
CELLS = 8


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(DATA / "fill/vae").eval()
    cell = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling()
    vae.tile_latent_min_size = CELLS
    vae.tile_sample_min_size = CELLS * cell
    height, width = 13, 23
    image = torch.randn(1, 3, height * cell, width * cell).clamp(-2, 2) / 2
    mean = vae.encode(image).latent_dist.mode()
    latents = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    given = torch.randn(1, vae.config.latent_channels, height, width)
    decoded = vae.decode(given / vae.config.scaling_factor + vae.config.shift_factor).sample
    tensors = {"image": image, "latents": latents, "given": given, "decoded": decoded}
    save_file({key: value.contiguous() for key, value in tensors.items()}, DATA / "tiling.safetensors", {"cells": str(CELLS)})
    print({key: tuple(value.shape) for key, value in tensors.items()})


if __name__ == "__main__":
    main()

"""Compares a LoRA that `ace train` wrote with what diffusers and PEFT make of it.

    python tests/reference/check_lora.py FOLDER LORA LATENTS

FOLDER is a FLUX-Fill folder as `record_fill.py` writes it, LORA the adapter, LATENTS what this edit left:

    ace sample --model FOLDER --lora LORA --compat diffusers --image FOLDER/edit/image.png --mask FOLDER/edit/mask.png \
        -p "$(cat FOLDER/edit/instruction.txt)" --noise FOLDER/edit/noise.safetensors --steps 1 --guidance 30 \
        --save-latents LATENTS

One step leads from noise to noise minus velocity, so what the latents differ by, the velocities differ by. Prints the
relative L2 error, and how far the adapter moves the velocity.
"""

import pathlib
import sys

import torch
from diffusers import FluxFillPipeline
from diffusers.pipelines.flux import pipeline_flux_fill
from PIL import Image
from safetensors.torch import load_file


def main(folder, lora, latents):
    folder = pathlib.Path(folder)
    edit = folder / "edit"
    pipe = FluxFillPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    sample = pipeline_flux_fill.retrieve_latents
    pipeline_flux_fill.retrieve_latents = lambda output, generator=None, sample_mode="argmax": sample(
        output, generator, "argmax"
    )
    image, mask = Image.open(edit / "image.png"), Image.open(edit / "mask.png")
    noise = load_file(edit / "noise.safetensors")["noise"]
    packed = pipe._pack_latents(noise, 1, noise.shape[1], *noise.shape[2:])

    def velocity():
        after = pipe(
            prompt=(edit / "instruction.txt").read_text().strip(), image=image, mask_image=mask, height=image.height,
            width=image.width, num_inference_steps=1, guidance_scale=30.0, max_sequence_length=512,
            latents=packed.clone(), output_type="latent",
        ).images
        return packed - after

    plain = velocity()
    pipe.load_lora_weights(str(lora))
    theirs = velocity()
    ours = packed - load_file(latents)["tokens"]
    relative = lambda a, b: ((a - b).norm() / b.norm()).item()
    print(f"velocity: relative L2 error {relative(ours, theirs):.2e}; the adapter moves it by {relative(theirs, plain):.2e}")


if __name__ == "__main__":
    main(*sys.argv[1:])

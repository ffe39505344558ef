"""Records tiny random picture prompts (FLUX.1 Redux): an image encoder, the two layers, and pictures made with them.

    python tests/reference/record_redux.py

Writes tests/data/redux: `image_encoder/` (SigLIP) and `image_embedder/` as `FluxPriorReduxPipeline` saves them, and a folder
for each case with the prompt embeddings (embeds.safetensors) and what FLUX.1-dev or FLUX.1-Fill made of them. Everything else
is that of tests/data/family and tests/data/fill, so `record_fill.py` and `record_family.py` come first.
"""

import pathlib
import shutil

import torch
from diffusers import FluxFillPipeline, FluxPipeline, FluxPriorReduxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux import ReduxImageEncoder, pipeline_flux_fill
from PIL import Image
from safetensors.torch import save_file
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

import record_family as family
from record_family import FILL, ROOT, WORDS, picture

OUT = ROOT / "tests/data/redux"
SIDE = 42  # 3x3 patches of 14


def prior():
    torch.manual_seed(40)
    encoder = SiglipVisionModel(SiglipVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE, patch_size=14,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, attention_dropout=0.0,
    ))
    embedder = ReduxImageEncoder(redux_dim=24, txt_in_features=16)
    extractor = SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    for module, name in ((encoder, "image_encoder"), (embedder, "image_embedder")):
        family.randomize(module).to(torch.bfloat16).save_pretrained(OUT / name)
    parts = family.parts()
    return FluxPriorReduxPipeline(
        image_encoder=SiglipVisionModel.from_pretrained(OUT / "image_encoder", torch_dtype=torch.float32).eval(),
        image_embedder=ReduxImageEncoder.from_pretrained(OUT / "image_embedder", torch_dtype=torch.float32).eval(),
        feature_extractor=extractor,
        **{name: parts[name] for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")},
    )


def embeds(name, pipe, **asked):
    out = pipe(prompt=WORDS, **asked)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    both = {"prompt_embeds": out.prompt_embeds, "pooled_prompt_embeds": out.pooled_prompt_embeds}
    save_file({key: value.contiguous() for key, value in both.items()}, folder / "embeds.safetensors")
    return both


def main():
    pipe = prior()
    first, second = picture(70, 52, 1), picture(96, 50, 2)
    second.save(OUT / "second.png")
    family.OUT = OUT
    dev = FluxTransformer2DModel.from_pretrained(ROOT / "tests/data/family/dev/transformer", torch_dtype=torch.float32)
    words = FluxPipeline(transformer=dev.eval(), **family.parts())
    fill = FluxFillPipeline.from_pretrained(FILL, torch_dtype=torch.float32)
    sample = pipeline_flux_fill.retrieve_latents
    pipeline_flux_fill.retrieve_latents = lambda output, generator=None, sample_mode="argmax": sample(
        output, generator, "argmax"
    )
    for pipeline in (words, fill):
        pipeline.set_progress_bar_config(disable=True)

    def record(name, pipeline, seed, said, **asked):
        drawn, packed = family.noise(pipeline, 64, 48, seed)
        common = dict(height=48, width=64, num_inference_steps=3, **said, **asked)
        latents = pipeline(**common, latents=packed.clone(), output_type="latent").images
        save_file({"noise": drawn}, OUT / name / "noise.safetensors")
        save_file({"tokens": latents.contiguous()}, OUT / name / "result.safetensors")
        print(name, tuple(said["prompt_embeds"].shape), tuple(latents.shape))

    one = embeds("one", pipe, image=first)
    record("one", words, 41, one, guidance_scale=3.5)
    two = embeds(
        "two", pipe, image=[first, second], prompt_embeds_scale=[0.7, 0.4], pooled_prompt_embeds_scale=[0.6, 0.5]
    )
    record("two", words, 42, two, guidance_scale=3.5)
    # The second scale is 1 unless it is said.
    filled = embeds("fill", pipe, image=second, prompt_embeds_scale=0.8)
    image, mask = Image.open(FILL / "edit/image.png"), Image.open(FILL / "edit/mask.png")
    record("fill", fill, 43, filled, image=image, mask_image=mask, guidance_scale=30.0)


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with torch.no_grad():
        main()

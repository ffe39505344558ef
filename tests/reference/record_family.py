"""Records tiny random models of the FLUX.1 family, as diffusers saves them, and edits that diffusers makes with them.

    python tests/reference/record_family.py

Writes tests/data/family: a transformer for each kind of model (`dev`, `schnell`, `control`), the `model_index.json` of each
pipeline, a control adapter, and a folder for each edit with its noise (noise.safetensors), the final latents
(result.safetensors) and the picture (result.png). Autoencoder, text encoders, tokenizers and scheduler are those of
tests/data/fill. Also `fitting.safetensors`: what Pillow's Lanczos and bicubic make of pictures, and to which of Kontext's
sizes diffusers brings a picture.
"""

import json
import pathlib
import random
import shutil

import numpy
import torch
from diffusers import (
    AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlPipeline, FluxKontextPipeline, FluxPipeline,
    FluxTransformer2DModel,
)
from diffusers.pipelines.flux import pipeline_flux_control, pipeline_flux_kontext
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILL = ROOT / "tests/data/fill"
OUT = ROOT / "tests/data/family"
LATENT = 4
LENGTH = 16
WORDS = "make the red circle green"
# Small, and of several ratios; the published list is looked at in `fitting.safetensors`.
SIZES = [(48, 96), (48, 64), (64, 64), (80, 48), (96, 48)]
AREA = 64 * 48


def randomize(module):
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
        if parameter.ndim == 1:
            parameter.data += 0.3
    return module


def transformer(name, seed, in_channels, guidance):
    """A random transformer, written in bf16 and used in f32: a short file of exact numbers."""
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=in_channels, out_channels=4 * LATENT, num_layers=1, num_single_layers=1,
        attention_head_dim=12, num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=12,
        guidance_embeds=guidance, axes_dims_rope=[4, 4, 4],
    )
    randomize(model).to(torch.bfloat16).save_pretrained(OUT / name / "transformer")
    return FluxTransformer2DModel.from_pretrained(OUT / name / "transformer", torch_dtype=torch.float32).eval()


def parts(scheduler=None):
    return dict(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler.from_pretrained(FILL, subfolder="scheduler"),
        text_encoder=CLIPTextModel.from_pretrained(FILL, subfolder="text_encoder", torch_dtype=torch.float32),
        tokenizer=AutoTokenizer.from_pretrained(FILL / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(FILL, subfolder="text_encoder_2", torch_dtype=torch.float32),
        tokenizer_2=AutoTokenizer.from_pretrained(FILL / "tokenizer_2"),
        vae=AutoencoderKL.from_pretrained(FILL, subfolder="vae", torch_dtype=torch.float32),
    )


def index(name, pipe):
    """The pipeline's `model_index.json`, as it writes it."""
    pipe.save_config(OUT / name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(width, height, seed):
    """A smooth coloured picture with a sharp box."""
    y, x = numpy.mgrid[0:height, 0:width]
    waves = numpy.stack([128 + 100 * numpy.sin(x / 9 + seed), 128 + 100 * numpy.cos(y / 7 - seed), 1.5 * (x + y)], -1)
    waves[height // 4 : height // 2, width // 3 : width // 2] = [250, 20 * seed, 0]
    return Image.fromarray(waves.clip(0, 255).astype("uint8"))


def noise(pipe, width, height, seed):
    torch.manual_seed(seed)
    drawn = torch.randn(1, LATENT, 2 * (height // 16), 2 * (width // 16))
    return drawn, pipe._pack_latents(drawn, 1, LATENT, *drawn.shape[2:])


def record(name, pipe, made, seed, **asked):
    """One edit from the noise of a picture of `made` (width, height)."""
    drawn, packed = noise(pipe, *made, seed)
    common = dict(prompt=WORDS, max_sequence_length=LENGTH, **asked)
    latents = pipe(**common, latents=packed.clone(), output_type="latent").images
    result = pipe(**common, latents=packed.clone(), output_type="pil").images[0]
    assert result.size == made, (result.size, made)
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder / "result.png")
    save_file({"noise": drawn}, folder / "noise.safetensors")
    save_file({"tokens": latents.contiguous()}, folder / "result.safetensors")
    print(name, tuple(latents.shape), result.size)


class SeveralPictures(FluxKontextPipeline):
    """Kontext with several pictures, each fitted for itself; `how` they stand is as in ComfyUI: "index" or "offset"."""

    pictures, how = (), "index"

    def prepare_latents(self, image, batch_size, channels, height, width, dtype, device, generator, latents):
        latents, _, latent_ids, _ = super().prepare_latents(
            None, batch_size, channels, height, width, dtype, device, generator, latents
        )
        tokens, ids = [], []
        reach_h = reach_w = 0
        for number, one in enumerate(self.pictures, 1):
            ratio = (one.width - one.width % 16) / (one.height - one.height % 16)
            _, w, h = min((abs(ratio - w / h), w, h) for w, h in SIZES)
            encoded = self._encode_vae_image(self.image_processor.preprocess(one, h, w), generator)
            rows, columns = encoded.shape[2] // 2, encoded.shape[3] // 2
            tokens.append(self._pack_latents(encoded, 1, channels, *encoded.shape[2:]))
            own = self._prepare_latent_image_ids(1, rows, columns, device, dtype)
            own[..., 0] = number if self.how == "index" else 1
            if self.how == "offset":
                if rows + reach_h > columns + reach_w:
                    top, left = 0, reach_w
                else:
                    top, left = reach_h, 0
                own[..., 1] += top
                own[..., 2] += left
                reach_h, reach_w = max(reach_h, rows + top), max(reach_w, columns + left)
            ids.append(own)
        return latents, torch.cat(tokens, 1), latent_ids, torch.cat(ids, 0)


def kontext(dev):
    pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS = SIZES
    pipe = index("kontext", FluxKontextPipeline(transformer=dev, **parts()))
    first, second = picture(70, 52, 1), picture(50, 96, 2)
    first.save(OUT / "first.png")
    second.save(OUT / "second.png")
    common = dict(num_inference_steps=3, guidance_scale=2.5, max_area=AREA)
    size = dict(height=48, width=64)
    record("kontext-text", pipe, (64, 48), 11, **common, **size)
    record("kontext-one", pipe, (64, 48), 12, image=first, **common, **size)
    # 48x80 is brought to the area, in the ratio of its sides and in whole tokens.
    record("kontext-size", pipe, (32, 64), 13, image=second, height=80, width=48, **common)
    width = int(second.width * first.height / second.height + 0.5)
    both = Image.new("RGB", (first.width + width, first.height))
    both.paste(first, (0, 0))
    both.paste(second.resize((width, first.height), Image.Resampling.LANCZOS), (first.width, 0))
    record("kontext-beside", pipe, (64, 48), 14, image=both, **common, **size)
    several = SeveralPictures(transformer=dev, **parts())
    several.set_progress_bar_config(disable=True)
    several.pictures = [first, second, first]
    for how, seed in (("index", 15), ("offset", 16)):
        several.how = how
        record(f"kontext-{how}", several, (64, 48), seed, image=first, **common, **size)


def words(dev):
    pipe = index("dev", FluxPipeline(transformer=dev, **parts()))
    record("dev-text", pipe, (64, 48), 21, height=50, width=70, num_inference_steps=4, guidance_scale=3.5)
    schnell = transformer("schnell", 2, 4 * LATENT, False)
    even = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256, base_shift=0.5, max_image_seq_len=4096, max_shift=1.15, num_train_timesteps=1000,
        shift=1.0, use_dynamic_shifting=False,
    )
    even.save_pretrained(OUT / "schnell/scheduler")
    pipe = index("schnell", FluxPipeline(transformer=schnell, **parts(even)))
    record("schnell-text", pipe, (64, 48), 22, height=48, width=64, num_inference_steps=4, guidance_scale=0.0)


def mode(pipeline):
    """Encoded pictures are the posterior's mode, so that nothing but the given noise is random."""
    encode = pipeline.vae.encode

    def encoded(*arguments, **named):
        output = encode(*arguments, **named)
        output.latent_dist.sample = lambda generator=None: output.latent_dist.mode()
        return output

    pipeline.vae.encode = encoded
    return pipeline


def control(dev):
    model = transformer("control", 3, 8 * LATENT, True)
    pipe = mode(index("control", FluxControlPipeline(transformer=model, **parts())))
    asked = dict(control_image=picture(70, 52, 1), height=48, width=64, num_inference_steps=3, guidance_scale=30.0)
    record("control-one", pipe, (64, 48), 31, **asked)
    # The same by an adapter on the plain transformer: branches with biases on every layer, and new norms.
    torch.manual_seed(4)
    adapter = {}
    for name, module in dev.named_modules():
        if isinstance(module, torch.nn.Linear):
            columns = 8 * LATENT if name == "x_embedder" else module.in_features
            adapter[f"transformer.{name}.lora_A.weight"] = 0.1 * torch.randn(3, columns)
            adapter[f"transformer.{name}.lora_B.weight"] = 0.1 * torch.randn(module.out_features, 3)
            adapter[f"transformer.{name}.lora_B.bias"] = 0.05 * torch.randn(module.out_features)
        elif name.endswith(("norm_q", "norm_k", "norm_added_q", "norm_added_k")):
            adapter[f"transformer.{name}.weight"] = 1 + 0.2 * torch.randn(module.weight.shape)
    adapter = {key: value.to(torch.bfloat16) for key, value in adapter.items()}
    save_file(adapter, OUT / "control-lora.safetensors")
    plain = FluxTransformer2DModel.from_pretrained(OUT / "dev/transformer", torch_dtype=torch.float32)
    pipe = mode(FluxControlPipeline(transformer=plain, **parts()))
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(OUT / "control-lora.safetensors")
    record("control-lora-one", pipe, (64, 48), 32, **asked)


def fitting():
    """Pillow's resizing, and the published sizes of Kontext by diffusers' own rule."""
    tensors = {}
    # Bytes are exact in f16.
    byte = lambda image: torch.from_numpy(numpy.asarray(image).copy()).to(torch.float16)
    generator = numpy.random.default_rng(5)
    # Pillow 13 goes over rows before columns for some pairs of sizes; these are not among them, so that every version agrees.
    wanted = {(37, 23): [(17, 31), (64, 48), (37, 20)], (16, 40): [(64, 48), (16, 20)], (61, 61): [(17, 31), (61, 20)]}
    for number, ((width, height), sizes) in enumerate(wanted.items()):
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype="uint8"))
        tensors[f"{number}.image"] = byte(image)
        for name, method in (("lanczos", Image.Resampling.LANCZOS), ("bicubic", Image.Resampling.BICUBIC)):
            for size in sizes:
                tensors[f"{number}.{name}.{size[0]}x{size[1]}"] = byte(image.resize(size, method))
    random.seed(6)
    rows = []
    for _ in range(400):
        width, height = random.randint(16, 4000), random.randint(16, 4000)
        ratio = (width - width % 16) / (height - height % 16)
        _, w, h = min((abs(ratio - w / h), w, h) for w, h in PUBLISHED)
        rows.append([width, height, w // 16 * 16, h // 16 * 16])
    tensors["kontext"] = torch.tensor(rows)
    save_file(tensors, OUT / "fitting.safetensors")


PUBLISHED = list(pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS)

if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with torch.no_grad():
        dev = transformer("dev", 1, 4 * LATENT, True)
        kontext(dev)
        words(dev)
        control(dev)
        fitting()
    (OUT / "asked.json").write_text(json.dumps({"words": WORDS, "length": LENGTH, "sizes": SIZES, "made": [64, 48]}) + "\n")

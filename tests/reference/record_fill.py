"""Records a tiny random FLUX-Fill folder, as diffusers saves it, and one edit that diffusers makes with it.

    python tests/reference/record_fill.py [FOLDER]

Writes the folder (tests/data/fill unless another is named): the model's own files, sharded, and `edit/` with the inputs
(image.png, mask.png, instruction.txt, noise.safetensors) and what came out (result.safetensors, result.png).
"""

import json
import pathlib
import sys

import numpy
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux import pipeline_flux_fill
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, PreTrainedTokenizerFast, T5Config, T5EncoderModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZERS = ROOT / "models/tiny/tokenizers"

# Every size differs from its neighbours, so that two that are mixed up cannot fit by chance.
DEFAULT = dict(
    seed=0, latent=4, heads=2, head=12, axes=[4, 4, 4], depth=1, single=2, joint=16, pooled=12, groups=2,
    channels=[4, 4, 8, 8], layers=1, width=64, height=48, steps=4, dtype="float32", shard="60KB", guidance=30.0,
    d_kv=6, d_ff=24, t5_layers=2, t5_heads=3, clip_layers=2, clip_heads=3, intermediate=20, eos=2, length=24,
)


def pipeline(o):
    cell = 2 ** (len(o["channels"]) - 1)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=8 * o["latent"] + 4 * cell * cell, out_channels=4 * o["latent"],
        num_layers=o["depth"], num_single_layers=o["single"], attention_head_dim=o["head"],
        num_attention_heads=o["heads"], joint_attention_dim=o["joint"], pooled_projection_dim=o["pooled"],
        guidance_embeds=True, axes_dims_rope=o["axes"],
    )
    levels = len(o["channels"])
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=o["channels"], layers_per_block=o["layers"], latent_channels=o["latent"],
        norm_num_groups=o["groups"], scaling_factor=0.41, shift_factor=0.07, use_quant_conv=False,
        use_post_quant_conv=False,
    )
    t5 = T5EncoderModel(T5Config(
        vocab_size=192, d_model=o["joint"], d_kv=o["d_kv"], d_ff=o["d_ff"], num_layers=o["t5_layers"],
        num_heads=o["t5_heads"], feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    ))
    clip = CLIPTextModel(CLIPTextConfig(
        vocab_size=512, hidden_size=o["pooled"], intermediate_size=o["intermediate"],
        num_hidden_layers=o["clip_layers"], num_attention_heads=o["clip_heads"], max_position_embeddings=32,
        eos_token_id=o["eos"], bos_token_id=0,
    ))
    for module in (transformer, vae, t5, clip):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
            if parameter.ndim == 1:
                parameter.data += 0.3
        module.to(getattr(torch, o["dtype"])).eval()
    clip_tokenizer = CLIPTokenizer.from_pretrained(TOKENIZERS / "clip")
    clip_tokenizer.model_max_length = 32
    t5_tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(TOKENIZERS / "t5/tokenizer.json"), pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256, base_shift=0.5, max_image_seq_len=4096, max_shift=1.15, num_train_timesteps=1000,
        shift=3.0, use_dynamic_shifting=True,
    )
    return FluxFillPipeline(
        scheduler=scheduler, text_encoder=clip, tokenizer=clip_tokenizer, text_encoder_2=t5,
        tokenizer_2=t5_tokenizer, vae=vae, transformer=transformer,
    )


def inputs(o):
    """A smooth coloured picture and an off-centre box, grey at its edge."""
    y, x = numpy.mgrid[0 : o["height"], 0 : o["width"]]
    image = numpy.stack([128 + 100 * numpy.sin(x / 9), 128 + 100 * numpy.cos(y / 7), 2.0 * (x + y)], -1)
    mask = numpy.zeros((o["height"], o["width"]))
    mask[9:38, 21:50] = 255
    mask[9:12, 21:50] = 127  # below one half: kept
    mask[35:38, 21:50] = 128  # one half and more: repainted
    return Image.fromarray(image.clip(0, 255).astype("uint8")), Image.fromarray(mask.astype("uint8"))


def main(out, **changes):
    o = DEFAULT | changes
    torch.manual_seed(o["seed"])
    out = pathlib.Path(out)
    pipe = pipeline(o)
    pipe.save_pretrained(out, max_shard_size=o["shard"])
    pipe = FluxFillPipeline.from_pretrained(out, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    # The posterior's mode, so that nothing but the given noise is random.
    sample = pipeline_flux_fill.retrieve_latents
    pipeline_flux_fill.retrieve_latents = lambda output, generator=None, sample_mode="argmax": sample(
        output, generator, "argmax"
    )
    image, mask = inputs(o)
    instruction = "make the red circle green"
    cell = 2 ** (len(o["channels"]) - 1)
    noise = torch.randn(1, o["latent"], o["height"] // cell, o["width"] // cell)
    packed = pipe._pack_latents(noise, 1, o["latent"], *noise.shape[2:])
    common = dict(
        prompt=instruction, image=image, mask_image=mask, height=o["height"], width=o["width"],
        num_inference_steps=o["steps"], guidance_scale=o["guidance"], max_sequence_length=o["length"],
    )
    latents = pipe(**common, latents=packed.clone(), output_type="latent").images
    picture = pipe(**common, latents=packed.clone(), output_type="pil").images[0]
    edit = out / "edit"
    edit.mkdir(parents=True, exist_ok=True)
    image.save(edit / "image.png")
    mask.save(edit / "mask.png")
    picture.save(edit / "result.png")
    (edit / "instruction.txt").write_text(instruction + "\n")
    save_file({"noise": noise}, edit / "noise.safetensors")
    save_file({"tokens": latents.contiguous()}, edit / "result.safetensors")
    (edit / "edit.json").write_text(json.dumps({k: o[k] for k in ("steps", "guidance", "length")}) + "\n")
    print(out, tuple(latents.shape), picture.size)


if __name__ == "__main__":
    changes = [argument.split("=", 1) for argument in sys.argv[2:]]
    main(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests/data/fill", **{k: json.loads(v) for k, v in changes})

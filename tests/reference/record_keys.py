#!/usr/bin/env python3
"""Record what diffusers and transformers call the weights of networks at full size: those of FLUX.1-Fill-dev, and the vision
transformers that look at pictures (these in the names of the published files, which version 5 shortens in memory).

The networks are made from their published configurations on torch's `meta` device, so nothing is allocated and nothing
is downloaded. Each line of `tests/data/keys/<network>.txt` is a key and its shape; `{0..18}` stands for each of these
numbers, both ends included.

Made with torch 2.15.0, diffusers 0.42.1 and transformers 5.23.0. To make them again:

    venv/bin/python tests/reference/record_keys.py
"""

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

FOLDER = Path(__file__).resolve().parent.parent / "data" / "keys"

TRANSFORMER = {
    "patch_size": 1, "in_channels": 384, "out_channels": 64, "num_layers": 19, "num_single_layers": 38,
    "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
    "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
}
AUTOENCODER = {
    "in_channels": 3, "out_channels": 3, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16, "norm_num_groups": 32, "sample_size": 1024, "scaling_factor": 0.3611,
    "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
}
T5 = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True, "tie_word_embeddings": False,
}
CLIP = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
}
SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 384, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}
DINOV2 = {
    "hidden_size": 384, "mlp_ratio": 4, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518,
    "patch_size": 14, "layer_norm_eps": 1e-6,
}
EYE = {**DINOV2, "out_indices": [3, 6, 9, 12], "apply_layernorm": True, "reshape_hidden_states": False}
DEPTH = {
    "reassemble_hidden_size": 384, "patch_size": 14, "neck_hidden_sizes": [48, 96, 192, 384], "fusion_hidden_size": 64,
    "head_hidden_size": 32,
}
CLIP_VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "projection_dim": 768,
}
# What version 5 calls the layers of DINOv2's attention, and what published files do.
PUBLISHED = {
    "attention.q_proj": "attention.attention.query", "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value", "attention.o_proj": "attention.output.dense",
}


def published(name: str, key: str) -> str:
    """A key of a vision transformer as its published file has it."""
    if name in ("siglip", "clip_vision"):
        return f"vision_model.{key}"
    if name in ("dinov2", "depth"):
        for ours, theirs in PUBLISHED.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
    return key


def folded(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Lines, with the first number of keys that differ in nothing else folded."""
    groups: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for key, shape in shapes.items():
        pattern = re.sub(r"(^|\.)\d+\.", r"\1{}.", key, count=1)
        number = re.search(r"(?:^|\.)(\d+)\.", key)
        groups.setdefault((pattern, shape), []).append(int(number[1]) if number else -1)
    lines = []
    for (pattern, shape), numbers in groups.items():
        size = " ".join(map(str, shape))
        numbers.sort()
        if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            lines.append(f"{pattern.replace('{}', f'{{{numbers[0]}..{numbers[-1]}}}')} {size}")
        else:
            lines.extend(f"{pattern.replace('{}', str(number))} {size}" for number in numbers)
    return sorted(lines)


def main() -> None:
    # It imports this module.
    from record_drawing import Generator

    FOLDER.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        networks = {
            "transformer": FluxTransformer2DModel(**TRANSFORMER),
            "vae": AutoencoderKL(**AUTOENCODER),
            "text_encoder_2": T5EncoderModel(T5Config(**T5)),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**CLIP)),
            "siglip": SiglipVisionModel(SiglipVisionConfig(**SIGLIP)),
            "dinov2": Dinov2Model(Dinov2Config(**DINOV2)),
            "clip_vision": CLIPVisionModel(CLIPVisionConfig(**CLIP_VISION)),
            "depth": DepthAnythingForDepthEstimation(DepthAnythingConfig(**DEPTH, backbone_config=Dinov2Config(**EYE))),
            "contour": Generator(),
        }
    for name, network in networks.items():
        shapes = {published(name, key): tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        lines = folded(shapes)
        (FOLDER / f"{name}.txt").write_text("\n".join(lines) + "\n")
        parameters = sum(torch.Size(shape).numel() for shape in shapes.values())
        print(f"{name}: {len(shapes)} tensors, {parameters} parameters, {len(lines)} lines")


if __name__ == "__main__":
    main()

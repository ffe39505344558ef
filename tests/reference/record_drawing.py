#!/usr/bin/env python3
"""Record parity fixtures of the networks that draw of a picture what an edit is to keep: contours and depths.

As `record.py`, in whose form and folder they are; and what the same networks draw of a picture, through the preparation that
belongs to them (`tests/data/annotators/cat-contour.png`, `cat-depth.png`). Contours come from the generator of "informative drawings", written here
after the description of its layers; depths from transformers' Depth Anything.

    venv/bin/python tests/reference/record_drawing.py              # all cases
    venv/bin/python tests/reference/record_drawing.py contour      # some cases
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import Random, save
from record_keys import published
from torch import nn
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

DRAWN = Path(__file__).resolve().parent.parent / "data" / "annotators"


class Block(nn.Module):
    """Two convolutions over mirrored edges, added to what they see."""

    def __init__(self, channels):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), nn.InstanceNorm2d(channels), nn.ReLU()]
        self.conv_block = nn.Sequential(*layers[:-1])

    def forward(self, x):
        return x + self.conv_block(x)


class Generator(nn.Module):
    """Seven by seven, two halvings, residual blocks, two doublings, seven by seven, a sigmoid."""

    def __init__(self, channels=64, blocks=3):
        super().__init__()
        full, half, quarter = channels, 2 * channels, 4 * channels
        double = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}

        def normed(*layers):
            channels = [layer.out_channels for layer in layers if hasattr(layer, "out_channels")]
            return [*layers, nn.InstanceNorm2d(channels[0]), nn.ReLU()]

        def halved(*channels):
            return normed(nn.Conv2d(*channels, 3, stride=2, padding=1))

        def doubled(*channels):
            return normed(nn.ConvTranspose2d(*channels, **double))

        self.model0 = nn.Sequential(*normed(nn.ReflectionPad2d(3), nn.Conv2d(3, full, 7)))
        self.model1 = nn.Sequential(*halved(full, half), *halved(half, quarter))
        self.model2 = nn.Sequential(*(Block(quarter) for _ in range(blocks)))
        self.model3 = nn.Sequential(*doubled(quarter, half), *doubled(half, full))
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(full, 1, 7), nn.Sigmoid())

    def forward(self, x):
        for part in (self.model0, self.model1, self.model2, self.model3, self.model4):
            x = part(x)
        return x


def contour():
    """Two pictures whose sides are multiples of four, and one whose sides are not: what is made larger is cut."""
    random = Random("contour")
    config = {"channels": 8, "num_blocks": 3}
    model = random.fill(Generator(config["channels"], config["num_blocks"]))
    inputs = {
        f"pixels_{i}": torch.rand(*size, generator=random.generator)
        for i, size in enumerate([(2, 3, 16, 24), (1, 3, 21, 15)])
    }
    outputs = {}
    for name, pixels in inputs.items():
        with torch.no_grad():
            drawn = model(pixels)
        outputs[name.replace("pixels", "contours")] = drawn[..., : pixels.shape[2], : pixels.shape[3]]
    save("contour", config, model.state_dict(), inputs, outputs)
    image = np.asarray(Image.open(DRAWN / "cat.png").convert("RGB"))
    with torch.no_grad():
        drawn = model(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255)
    Image.fromarray((drawn[0, 0] * 255).numpy().astype("uint8")).save(DRAWN / "cat-contour.png")


def depth():
    """Positions as they are learned, and resampled for two other grids, one of them with odd sides."""
    random = Random("depth")
    backbone = {
        "image_size": 42, "patch_size": 14, "hidden_size": 16, "intermediate_size": 32, "num_layers": 5, "num_heads": 2,
        "hidden_act": "gelu", "layer_norm_eps": 1e-6, "class_token": True, "patch_bias": True, "layer_scale": True,
    }  # fmt: skip
    config = {
        "backbone": backbone, "out_layers": [1, 2, 4, 5], "neck_hidden_sizes": [4, 6, 8, 10], "fusion_hidden_size": 8,
        "head_hidden_size": 6,
    }  # fmt: skip
    dinov2 = Dinov2Config(
        image_size=42, patch_size=14, hidden_size=16, mlp_ratio=2, num_hidden_layers=5, num_attention_heads=2,
        layer_norm_eps=1e-6, out_indices=config["out_layers"], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=dinov2, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=config["neck_hidden_sizes"],
            fusion_hidden_size=8, head_hidden_size=6,
        )
    )  # fmt: skip
    random.fill(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("cls_token", "position_embeddings")):
                p.copy_(random.normal(*p.shape))
        # The last ReLU is to let most of it through.
        model.head.conv3.bias.fill_(1.0)
    inputs = {f"pixels_{i}": random.normal(1, 3, *size) for i, size in enumerate([(42, 42), (56, 28), (28, 70)])}
    outputs = {}
    for name, pixels in inputs.items():
        with torch.no_grad():
            near = model(pixels).predicted_depth
        assert (near > 0).float().mean() > 0.5, (near > 0).float().mean()
        outputs[name.replace("pixels", "depth")] = near
    weights = {published("depth", key): tensor for key, tensor in model.state_dict().items()}
    weights = {key: tensor for key, tensor in weights.items() if not key.endswith("mask_token")}
    save("depth", config, weights, inputs, outputs)
    image = Image.open(DRAWN / "cat.png").convert("RGB")
    processor = DPTImageProcessorPil(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    pixels = processor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        near = model(pixels).predicted_depth
    # As transformers' pipeline for depths ends.
    near = nn.functional.interpolate(near[:, None], (image.height, image.width), mode="bicubic", align_corners=False)
    near = (near - near.min()) / (near.max() - near.min())
    Image.fromarray((near[0, 0].numpy() * 255).astype("uint8")).save(DRAWN / "cat-depth.png")
    print(f"cat-depth.png: seen at {tuple(pixels.shape[2:])}")


CASES = {"contour": contour, "depth": depth}

if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sys.argv[1:] or CASES:
        CASES[case]()

#!/usr/bin/env python3
"""Record a small MobileSAM with random weights: its parts for `ace verify`, and the way from a click to a mask.

Made with Python 3.11, torch 2.15.0, timm 1.0.31, transformers 5.23.0, pillow 13.0.0, safetensors 0.8.0. Two files go to
`tests/data/parity/`, beside those of `record.py`, whose random numbers and form they share:

    sam_encoder    timm's TinyViT blocks, the last stage with a stride of one and SAM's neck behind it, as MobileSAM has
                   them. Windows do not fit the sides, and one does exactly.
    sam_decoder    transformers' prompt encoder and mask decoder: clicks, a box, both, and a mask as a prompt.

Weights have MobileSAM's own names. Batch norms have random statistics, windows random biases, and the norms that
transformers gives 1e-6 have the 1e-5 of SAM's own code.

    mask.safetensors in `tests/data/segment/`

has a whole network and what the pipeline below makes of `picture.png` there. It is written from the description of
`ResizeLongestSide` and `SamPredictor`: Pillow's bilinear filter to a longest side of S, mean and deviation, zeros to the
right and below, coordinates scaled by the rounded size; masks to S, cropped, to the picture's size.

    mobile_sam.txt in `tests/data/keys/`

has the names and shapes of the published size, from the same modules on torch's `meta` device.
"""

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from safetensors.torch import save_file
from timm.layers import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

import record
from record import Random
from record_keys import folded

DATA = Path(__file__).resolve().parent.parent / "data"
MADE_WITH = f"torch {torch.__version__}, timm {timm.__version__}, transformers {transformers.__version__}, cpu float32"
record.MADE_WITH = MADE_WITH

ENCODER = {
    "img_size": 80,
    "embed_dims": [8, 16, 24, 32],
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 3, 4],
    "window_sizes": [7, 3, 5, 4],
    "strides": [2, 2, 1],
}
DECODER = {"transformer_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 48, "iou_head_hidden_dim": 24}
SMALL = {"encoder": ENCODER, "decoder": DECODER, "mask_in_chans": 16}
MOBILE = {
    "encoder": {
        "img_size": 1024,
        "embed_dims": [64, 128, 160, 320],
        "depths": [2, 2, 6, 2],
        "num_heads": [2, 4, 5, 10],
        "window_sizes": [7, 7, 14, 7],
        "strides": [2, 2, 1],
    },
    "decoder": {"transformer_dim": 256, "depth": 2, "num_heads": 8, "mlp_dim": 2048, "iou_head_hidden_dim": 256},
    "mask_in_chans": 16,
}
MEAN = torch.tensor([123.675, 116.28, 103.53])
STD = torch.tensor([58.395, 57.12, 57.375])


class Encoder(nn.Module):
    """timm's stages and SAM's neck."""

    def __init__(self, config, width):
        super().__init__()
        names = ("embed_dims", "depths", "num_heads", "window_sizes")
        self.trunk = TinyVit(num_classes=0, drop_path_rate=0.0, **{name: tuple(config[name]) for name in names})
        for stage, stride in zip(list(self.trunk.stages)[1:], config["strides"]):
            stage.downsample.conv2.conv.stride = (stride, stride)
        self.neck = nn.Sequential(
            nn.Conv2d(config["embed_dims"][-1], width, 1, bias=False),
            LayerNorm2d(width, eps=1e-6),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            LayerNorm2d(width, eps=1e-6),
        )

    def forward(self, x):
        return self.neck(self.trunk.forward_features(x))

    def published(self):
        """Weights under MobileSAM's names: what leads to a stage is the end of the one before."""
        named = {}
        for key, tensor in self.state_dict().items():
            if key.endswith("num_batches_tracked") or key.startswith("trunk.head"):
                continue
            key = key.removeprefix("trunk.")
            for own, theirs in ((".conv.", ".c."), ("patch_embed.conv1.", "patch_embed.seq.0."),
                                ("patch_embed.conv2.", "patch_embed.seq.2."), ("stages.", "layers.")):
                key = key.replace(own, theirs)
            if ".downsample." in key:
                _, stage, rest = key.split(".", 2)
                key = f"layers.{int(stage) - 1}.{rest}"
            named[key] = tensor
        return named


def decoder(config):
    """transformers' SAM, of which the encoder is not used."""
    sizes, encoder = config["decoder"], config["encoder"]
    width, image = sizes["transformer_dim"], encoder["img_size"]
    model = SamModel(
        SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=8, output_channels=width, num_hidden_layers=1, num_attention_heads=1, image_size=image,
                patch_size=16, mlp_dim=8, window_size=2, global_attn_indexes=[], num_pos_feats=width // 2,
            ),
            prompt_encoder_config=SamPromptEncoderConfig(
                hidden_size=width, image_size=image, patch_size=16, mask_input_channels=config["mask_in_chans"]
            ),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=width, mlp_dim=sizes["mlp_dim"], num_hidden_layers=sizes["depth"],
                num_attention_heads=sizes["num_heads"], iou_head_hidden_dim=sizes["iou_head_hidden_dim"],
                layer_norm_eps=1e-5,
            ),
        )
    )
    return model.eval()


def published_decoder(model):
    """Weights under SAM's names."""
    named = {"prompt_encoder.pe_layer.positional_encoding_gaussian_matrix":
             model.shared_image_embedding.positional_embedding}
    renames = (
        ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
        ("mask_embed.conv1", "mask_downscaling.0"), ("mask_embed.layer_norm1", "mask_downscaling.1"),
        ("mask_embed.conv2", "mask_downscaling.3"), ("mask_embed.layer_norm2", "mask_downscaling.4"),
        ("mask_embed.conv3", "mask_downscaling.6"), ("upscale_conv1", "output_upscaling.0"),
        ("upscale_layer_norm", "output_upscaling.1"), ("upscale_conv2", "output_upscaling.3"),
        ("layer_norm_final_attn", "norm_final_attn"), ("layer_norm", "norm"),
    )
    for key, tensor in model.state_dict().items():
        if not key.startswith(("prompt_encoder.", "mask_decoder.")) or "shared_embedding" in key:
            continue
        for theirs, own in renames:
            key = key.replace(theirs, own)
        if "output_hypernetworks_mlps" in key or "iou_prediction_head" in key:
            key = key.replace("layers.0.", "layers.1.").replace("proj_in.", "layers.0.")
            key = key.replace("proj_out.", "layers.2.")
        named[key] = tensor
    return named


def fill(random, module):
    """Random parameters, and statistics of batch norms."""
    random.fill(module)
    with torch.no_grad():
        for name, tensor in module.named_buffers():
            if name.endswith("running_mean"):
                tensor.copy_(0.3 * random.normal(*tensor.shape))
            elif name.endswith("running_var"):
                tensor.copy_((1.0 + 0.3 * random.normal(*tensor.shape)).abs() + 0.1)
        for name, p in module.named_parameters():
            if name.endswith("attention_biases"):
                p.copy_(random.normal(*p.shape))
            elif "positional_embedding" in name or name.endswith("token.weight") or name.endswith("tokens.weight"):
                p.copy_(random.normal(*p.shape))
    return module.eval()


def ask(model, embedding, points=None, labels=None, box=None, mask=None):
    """Tokens, all four masks and their scores."""
    boxes = None if box is None else box[None, None]
    places = None if points is None else points[None, None]
    kinds = None if labels is None else labels[None, None]
    with torch.no_grad():
        sparse, dense = model.prompt_encoder(
            input_points=places, input_labels=kinds, input_boxes=boxes, input_masks=mask
        )
        positions = model.get_image_wide_positional_embeddings()
        both = [
            model.mask_decoder(
                image_embeddings=embedding, image_positional_embeddings=positions, sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense, multimask_output=several,
            )
            for several in (False, True)
        ]
    masks = torch.cat([masks[0, 0] for masks, _ in both])
    scores = torch.cat([scores[0, 0] for _, scores in both])
    return sparse[0], masks, scores


def sam_encoder():
    random = Random("sam_encoder")
    encoder = fill(random, Encoder(ENCODER, DECODER["transformer_dim"]))
    inputs = {"image": random.normal(2, 3, 80, 56)}
    with torch.no_grad():
        outputs = {"embedding": encoder(inputs["image"])}
    record.save("sam_encoder", SMALL, encoder.published(), inputs, outputs)


def sam_decoder():
    random = Random("sam_decoder")
    model = fill(random, decoder(SMALL))
    grid = ENCODER["img_size"] // 16
    inputs = {"embedding": random.normal(1, DECODER["transformer_dim"], grid, grid)}
    points, labels = torch.tensor([[12.0, 40.25], [71.0, 3.0]]), torch.tensor([1, 0])
    box = torch.tensor([8.0, 11.5, 60.0, 77.0])
    mask = 4.0 * random.normal(1, 1, 4 * grid, 4 * grid)
    inputs |= {"points": points, "box": box.reshape(2, 2), "mask": mask}
    outputs = {"positions": model.get_image_wide_positional_embeddings()}
    cases = {
        "clicks": {"points": points, "labels": labels},
        "box": {"box": box},
        "both": {"points": points, "labels": labels, "box": box},
        "mask": {"points": points, "labels": labels, "mask": mask},
    }
    for name, prompt in cases.items():
        sparse, masks, scores = ask(model, inputs["embedding"], **prompt)
        outputs |= {f"{name}_tokens": sparse, f"{name}_masks": masks, f"{name}_scores": scores}
    record.save("sam_decoder", SMALL, published_decoder(model), inputs, outputs)


def segment(seed=0):
    """The whole way, for a picture that is larger than the network's square and one that is smaller."""
    random = Random(f"sam_segment {seed}")
    folder = DATA / "segment"
    folder.mkdir(parents=True, exist_ok=True)
    encoder = fill(random, Encoder(ENCODER, DECODER["transformer_dim"]))
    model = fill(random, decoder(SMALL))
    # Random masks are otherwise all picture or nothing.
    with torch.no_grad():
        for layer in (model.mask_decoder.upscale_conv1, model.mask_decoder.upscale_conv2):
            layer.weight.mul_(4.0)
            layer.bias.zero_()
    weights = {f"image_encoder.{key}": tensor for key, tensor in encoder.published().items()}
    weights |= published_decoder(model)
    # What the published file has beside them.
    weights["image_encoder.patch_embed.seq.0.bn.num_batches_tracked"] = torch.tensor(7)
    weights["image_encoder.norm_head.weight"] = random.normal(32)
    side = ENCODER["img_size"]
    tensors = {}
    for name, (width, height) in {"large": (131, 90), "small": (37, 61)}.items():
        y, x = np.mgrid[0:height, 0:width]
        wave = np.sin(x / 9.0) * np.cos(y / 7.0)
        disc = (x - 0.4 * width) ** 2 + (y - 0.55 * height) ** 2 < (0.3 * height) ** 2
        picture = np.stack([120 + 100 * wave, 200 * disc + 20, 2 * y + 0 * x], -1)
        picture = np.clip(picture + 10 * random.normal(height, width, 3).numpy(), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
        scale = side / max(width, height)
        new_width, new_height = int(width * scale + 0.5), int(height * scale + 0.5)
        resized = np.array(Image.fromarray(picture).resize((new_width, new_height), Image.BILINEAR))
        tensors[f"{name}.resized"] = torch.from_numpy(resized).float()
        square = (torch.from_numpy(resized).float() - MEAN) / STD
        square = F.pad(square.permute(2, 0, 1), (0, side - new_width, 0, side - new_height))[None]
        with torch.no_grad():
            embedding = encoder(square)
        ratio = torch.tensor([new_width / width, new_height / height])
        click, out = torch.tensor([[0.4 * width, 0.5 * height]]).floor(), torch.tensor([[3.0, 2.0]])
        box = torch.tensor([[5.0, 7.0], [width - 9.0, height - 12.0]])
        cases = {
            "click": {"points": click * ratio, "labels": torch.tensor([1])},
            "clicks": {"points": torch.cat([click, out]) * ratio, "labels": torch.tensor([1, 0])},
            "box": {"box": (box * ratio).reshape(4)},
        }
        tensors |= {f"{name}.click": click, f"{name}.out": out, f"{name}.corners": box}
        for prompt, what in cases.items():
            _, masks, scores = ask(model, embedding, **what)
            best = 1 + int(scores[1:].argmax()) if prompt == "click" else 0
            low = masks[best][None, None]
            square_mask = F.interpolate(low, (side, side), mode="bilinear", align_corners=False)
            cropped = square_mask[..., :new_height, :new_width]
            logits = F.interpolate(cropped, (height, width), mode="bilinear", align_corners=False)[0, 0]
            inside = (logits > 0).float().mean().item()
            print(f"{name} {prompt}: mask {best}, {inside:.2f} inside, scores {scores.tolist()}")
            tensors |= {f"{name}.{prompt}.low": low[0, 0], f"{name}.{prompt}.logits": logits}
            tensors[f"{name}.{prompt}.score"] = scores[best][None]
    for file, content in (("weights", weights), ("mask", tensors)):
        path = folder / f"{file}.safetensors"
        save_file({key: tensor.detach().clone().contiguous() for key, tensor in content.items()}, path,
                  metadata={"config": json.dumps(SMALL), "made_with": MADE_WITH})
        record.sort_header(path)
        print(path.name, path.stat().st_size, "bytes")


def keys():
    with torch.device("meta"):
        encoder = Encoder(MOBILE["encoder"], 256)
        model = decoder(MOBILE)
    named = {f"image_encoder.{key}": tensor for key, tensor in encoder.published().items()} | published_decoder(model)
    lines = folded({key: tuple(tensor.shape) for key, tensor in named.items()})
    numbers = sum(tensor.numel() for key, tensor in named.items() if ".running_" not in key)
    path = DATA / "keys" / "mobile_sam.txt"
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(named)} tensors, {numbers} parameters, {len(lines)} lines")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["sam_encoder", "sam_decoder", "segment", "keys"]:
        globals()[name]()

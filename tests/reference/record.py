#!/usr/bin/env python3
"""Record parity fixtures from the PyTorch reference implementations.

Every case runs a small, randomly initialised module of diffusers, transformers or PEFT on the CPU in float32 and
writes its weights, inputs and outputs to `tests/data/parity/<case>.safetensors`. The Rust tests load the weights under
the names used by the published checkpoints and compare their outputs with the recorded ones.

Made with Python 3.11, torch 2.15.0, diffusers 0.42.1, transformers 5.23.0, peft 0.21.2, safetensors 0.8.0
(the direct dependencies are pinned in requirements.txt). To make the environment and the files again:

    python3.11 -m venv venv
    venv/bin/python -m pip install -r tests/reference/requirements.txt
    venv/bin/python tests/reference/record.py              # all cases
    venv/bin/python tests/reference/record.py flux t5      # some cases

Contents of a file:

    weights.<key>         parameters; FLUX and the autoencoder in the naming of the original single-file checkpoints
                          (fused qkv, linear1 = q|k|v|mlp, final modulation = shift|scale), T5 and CLIP in the
                          Hugging Face naming
    input.<name>          inputs
    output.<name>         outputs
    cotangent.<output>    where gradients are recorded: the loss is the sum over outputs of sum(cotangent * output)
    grad.weights.<key>    gradient of that loss
    grad.input.<name>     gradient of that loss

Tensors are float32, integer ids are int64. The metadata holds `config` (JSON) and `made_with`.

Every parameter is random, norm scales and biases included, so that no missing or swapped one goes unnoticed.
The random numbers of a case depend only on its name, not on which other cases are recorded.
"""

import json
import os
import sys
import types
import zlib
from pathlib import Path

import diffusers
import numpy as np
import peft
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxTransformer2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.models.upsampling import Upsample2D
from diffusers.pipelines.flux.pipeline_flux_fill import calculate_shift
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.t5.modeling_t5 import T5LayerFF, T5LayerSelfAttention

OUT = Path(__file__).resolve().parent.parent / "data" / "parity"
MADE_WITH = (
    f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
    f"peft {peft.__version__}, cpu float32"
)


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers, saving


class Random:
    """Random tensors from one seed per case."""

    def __init__(self, case):
        self.generator = torch.Generator().manual_seed(zlib.crc32(case.encode()))

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)

    def fill(self, module):
        """Give every parameter of `module` a random value: matrices and convolutions keep the variance of their
        input, embeddings are of order one, norm scales are spread around one, biases around zero."""
        owners = {id(p): m for m in module.modules() for p in m.parameters(recurse=False)}
        with torch.no_grad():
            for name, p in module.named_parameters():
                if "relative_attention_bias" in name:
                    p.copy_(0.7 * self.normal(*p.shape))
                elif isinstance(owners[id(p)], nn.Embedding):
                    p.copy_(self.normal(*p.shape))
                elif p.ndim >= 2:
                    p.copy_(self.normal(*p.shape) / p[0].numel() ** 0.5)
                elif name.endswith("bias"):
                    p.copy_(0.3 * self.normal(*p.shape))
                else:
                    p.copy_(1.0 + 0.3 * self.normal(*p.shape))
        return module.eval()


def sort_header(path):
    """Sort the keys of the header, whose order otherwise differs from run to run."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    path.chmod(0o644)


def save(case, config, weights, inputs, outputs, gradients=None):
    """Write one file; `gradients` is the result of `backward`."""
    groups = {"weights": weights, "input": inputs, "output": outputs, **(gradients or {})}
    tensors = {}
    for group, members in groups.items():
        for name, tensor in members.items():
            tensor = tensor.detach().clone().contiguous()
            assert tensor.dtype in (torch.float32, torch.int64), (case, group, name, tensor.dtype)
            assert torch.isfinite(tensor).all(), (case, group, name)
            tensors[f"{group}.{name}"] = tensor
    path = OUT / f"{case}.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config), "made_with": MADE_WITH})
    sort_header(path)
    loaded = load_file(path)
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[k], tensors[k]) for k in tensors)
    print(f"{path.name:36} {len(tensors):4} tensors {os.path.getsize(path):9} bytes")


def backward(random, module, rename, inputs, outputs):
    """Gradients of sum(cotangent * output) with respect to all parameters and the given inputs.
    `rename` turns a diffusers state dict into the published naming; it is linear, so it maps gradients as well."""
    cotangents = {name: random.normal(*tensor.shape) for name, tensor in outputs.items()}
    loss = sum((cotangents[name] * tensor).sum() for name, tensor in outputs.items())
    loss.backward()
    parameters = {name: p.grad for name, p in module.named_parameters()}
    assert all(g is not None for g in parameters.values()), [n for n, g in parameters.items() if g is None]
    return {
        "cotangent": cotangents,
        "grad.weights": rename(parameters),
        "grad.input": {name: tensor.grad for name, tensor in inputs.items() if tensor.requires_grad},
    }


# ---------------------------------------------------------------------------------------------------------------------
# FLUX: diffusers names -> published names


def take(state, source, target, result, parts=("weight", "bias")):
    """Move `source.weight` and `source.bias` to `target`. Several sources are stacked along the output dimension."""
    sources = [source] if isinstance(source, str) else source
    for part in parts:
        result[f"{target}.{part}"] = torch.cat([state.pop(f"{s}.{part}") for s in sources], dim=0)


def double_block_names(state):
    state, result = dict(state), {}
    streams = {
        "img": ("norm1", "to_{}", "norm_{}", "to_out.0", "ff"),
        "txt": ("norm1_context", "add_{}_proj", "norm_added_{}", "to_add_out", "ff_context"),
    }
    for stream, (modulation, project, norm, out, mlp) in streams.items():
        take(state, f"{modulation}.linear", f"{stream}_mod.lin", result)
        take(state, [f"attn.{project.format(x)}" for x in "qkv"], f"{stream}_attn.qkv", result)
        for x, long in (("q", "query"), ("k", "key")):
            key = f"{stream}_attn.norm.{long}_norm.scale"
            result[key] = state.pop(f"attn.{norm.format(x)}.weight")
        take(state, f"attn.{out}", f"{stream}_attn.proj", result)
        take(state, f"{mlp}.net.0.proj", f"{stream}_mlp.0", result)
        take(state, f"{mlp}.net.2", f"{stream}_mlp.2", result)
    assert not state, list(state)
    return result


def single_block_names(state):
    state, result = dict(state), {}
    take(state, "norm.linear", "modulation.lin", result)
    take(state, ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], "linear1", result)
    take(state, "proj_out", "linear2", result)
    result["norm.query_norm.scale"] = state.pop("attn.norm_q.weight")
    result["norm.key_norm.scale"] = state.pop("attn.norm_k.weight")
    assert not state, list(state)
    return result


def flux_names(state):
    state, result = dict(state), {}
    take(state, "x_embedder", "img_in", result)
    take(state, "context_embedder", "txt_in", result)
    embedders = {"time_in": "timestep_embedder", "guidance_in": "guidance_embedder", "vector_in": "text_embedder"}
    for target, source in embedders.items():
        if f"time_text_embed.{source}.linear_1.weight" in state:
            take(state, f"time_text_embed.{source}.linear_1", f"{target}.in_layer", result)
            take(state, f"time_text_embed.{source}.linear_2", f"{target}.out_layer", result)
    stacks = {
        "transformer_blocks": ("double_blocks", double_block_names),
        "single_transformer_blocks": ("single_blocks", single_block_names),
    }
    for source, (target, rename) in stacks.items():
        for i in range(sum(key.startswith(f"{source}.") and key.endswith("norm_q.weight") for key in state)):
            prefix = f"{source}.{i}."
            block = {key[len(prefix) :]: state.pop(key) for key in list(state) if key.startswith(prefix)}
            result.update({f"{target}.{i}.{key}": tensor for key, tensor in rename(block).items()})
    take(state, "proj_out", "final_layer.linear", result)
    for part in ("weight", "bias"):  # diffusers stores scale first, the published files shift first
        scale, shift = state.pop(f"norm_out.linear.{part}").chunk(2, dim=0)
        result[f"final_layer.adaLN_modulation.1.{part}"] = torch.cat([shift, scale], dim=0)
    assert not state, list(state)
    return result


def grid_ids(height, width):
    """Position ids (0, row, column) of the image tokens, row-major."""
    return torch.tensor([[0, i, j] for i in range(height) for j in range(width)], dtype=torch.int64)


BLOCK = {"hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12], "theta": 10000, "mlp_ratio": 4.0, "qkv_bias": True}
TXT_TOKENS = 5


def flux_block_inputs(random):
    """Batch of 2, 5 text tokens, 2x3 image tokens."""
    inputs = {
        "img": random.normal(2, 6, 64).requires_grad_(),
        "txt": random.normal(2, TXT_TOKENS, 64).requires_grad_(),
        "vec": random.normal(2, 64).requires_grad_(),
        "ids": torch.cat([torch.zeros(TXT_TOKENS, 3, dtype=torch.int64), grid_ids(2, 3)]),
    }
    return inputs, FluxPosEmbed(theta=BLOCK["theta"], axes_dim=BLOCK["axes_dim"])(inputs["ids"])


def flux_double_block():
    """One double-stream block, with gradients. `vec` is the conditioning vector before SiLU."""
    random = Random("flux_double_block")
    block = random.fill(FluxTransformerBlock(64, BLOCK["num_heads"], 32))
    inputs, rope = flux_block_inputs(random)
    txt, img = block(inputs["img"], inputs["txt"], inputs["vec"], image_rotary_emb=rope)
    outputs = {"img": img, "txt": txt}
    gradients = backward(random, block, double_block_names, inputs, outputs)
    save("flux_double_block", BLOCK, double_block_names(block.state_dict()), inputs, outputs, gradients)


def flux_single_block():
    """One single-stream block on `x` = [txt | img], with gradients."""
    random = Random("flux_single_block")
    block = random.fill(FluxSingleTransformerBlock(64, BLOCK["num_heads"], 32))
    inputs, rope = flux_block_inputs(random)
    x = torch.cat([inputs.pop("txt"), inputs.pop("img")], dim=1).detach().requires_grad_()
    inputs["x"] = x
    txt, img = block(x[:, TXT_TOKENS:], x[:, :TXT_TOKENS], inputs["vec"], image_rotary_emb=rope)
    outputs = {"x": torch.cat([txt, img], dim=1)}
    gradients = backward(random, block, single_block_names, inputs, outputs)
    save("flux_single_block", BLOCK, single_block_names(block.state_dict()), inputs, outputs, gradients)


def record_flux(case, config, batch, height, width, timesteps, guidance):
    """A whole transformer. `output.vec` is the conditioning vector, `output.time_sinusoid` and
    `output.guidance_sinusoid` are the inputs of the two embedding networks."""
    random = Random(case)
    model = FluxTransformer2DModel(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        num_layers=config["depth"],
        num_single_layers=config["depth_single_blocks"],
        attention_head_dim=config["hidden_size"] // config["num_heads"],
        num_attention_heads=config["num_heads"],
        joint_attention_dim=config["context_in_dim"],
        pooled_projection_dim=config["vec_in_dim"],
        guidance_embeds=config["guidance_embed"],
        axes_dims_rope=tuple(config["axes_dim"]),
    )
    random.fill(model)
    inputs = {
        "tokens": random.normal(batch, height * width, config["in_channels"]),
        "ids": grid_ids(height, width),
        "prompt_embeds": random.normal(batch, TXT_TOKENS, config["context_in_dim"]),
        "pooled_prompt_embeds": random.normal(batch, config["vec_in_dim"]),
        "timesteps": torch.tensor(timesteps),
    }
    if guidance is not None:
        inputs["guidance"] = torch.tensor(guidance)
    outputs = {}

    def keep(name, index):
        return lambda module, args, result: outputs.__setitem__(name, result if index is None else args[index])

    embed = model.time_text_embed
    embed.register_forward_hook(keep("vec", None))
    embed.timestep_embedder.register_forward_hook(keep("time_sinusoid", 0))
    if guidance is not None:
        embed.guidance_embedder.register_forward_hook(keep("guidance_sinusoid", 0))
    with torch.no_grad():
        outputs["velocity"] = model(
            hidden_states=inputs["tokens"],
            encoder_hidden_states=inputs["prompt_embeds"],
            pooled_projections=inputs["pooled_prompt_embeds"],
            timestep=inputs["timesteps"],
            img_ids=inputs["ids"],
            txt_ids=torch.zeros(TXT_TOKENS, 3, dtype=torch.int64),
            guidance=inputs.get("guidance"),
            return_dict=False,
        )[0]
    save(case, config, flux_names(model.state_dict()), inputs, outputs)


def flux():
    """The Fill layout (384 input features) with guidance, batch of 2."""
    config = {
        "in_channels": 384,
        "out_channels": 64,
        "hidden_size": 64,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [8, 12, 12],
        "theta": 10000,
        "mlp_ratio": 4.0,
        "context_in_dim": 48,
        "vec_in_dim": 40,
        "guidance_embed": True,
        "qkv_bias": True,
    }
    record_flux("flux", config, batch=2, height=2, width=3, timesteps=[0.75, 0.123], guidance=[50.0, 1.0])


def flux_dev():
    """The text-to-image layout (64 input features) without guidance, other head counts, on a 3x4 grid."""
    config = {
        "in_channels": 64,
        "out_channels": 64,
        "hidden_size": 48,
        "num_heads": 3,
        "depth": 1,
        "depth_single_blocks": 3,
        "axes_dim": [4, 6, 6],
        "theta": 10000,
        "mlp_ratio": 4.0,
        "context_in_dim": 48,
        "vec_in_dim": 40,
        "guidance_embed": False,
        "qkv_bias": True,
    }
    record_flux("flux_dev", config, batch=1, height=3, width=4, timesteps=[0.4321], guidance=None)


# ---------------------------------------------------------------------------------------------------------------------
# Autoencoder


def attention_names(state):
    """Attention weights are matrices in diffusers and 1x1 convolutions in the published file."""
    names = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    result = {}
    for key, tensor in state.items():
        module, part = key.rsplit(".", 1)
        matrix = part == "weight" and module != "group_norm"
        result[f"{names[module]}.{part}"] = tensor[:, :, None, None] if matrix else tensor
    return result


def resnet_names(state):
    return {key.replace("conv_shortcut", "nin_shortcut"): tensor for key, tensor in state.items()}


def autoencoder_names(state, levels):
    result = {}
    for key, tensor in state.items():
        side, *path = key.split(".")
        if path[0] in ("down_blocks", "up_blocks"):
            direction = path[0].removesuffix("_blocks")
            level = int(path[1]) if direction == "down" else levels - 1 - int(path[1])
            if path[2] == "resnets":
                member = [f"block.{path[3]}", *path[4:]]
            else:
                member = [f"{direction}sample", *path[4:]]
            path = [direction, str(level), *member]
        elif path[0] == "mid_block" and path[1] == "resnets":
            path = ["mid", f"block_{int(path[2]) + 1}", *path[3:]]
        elif path[0] == "mid_block":
            (name, tensor), = attention_names({".".join(path[3:]): tensor}).items()
            path = ["mid", "attn_1", name]
        elif path[0] == "conv_norm_out":
            path = ["norm_out", *path[1:]]
        key = ".".join([side, *path]).replace("conv_shortcut", "nin_shortcut")
        assert key not in result
        result[key] = tensor
    return result


def autoencoder():
    """Encoder and decoder. `output.latents` = (mean - shift) * scale of the encoded `input.image`;
    `output.image` = decode(`input.latents` / scale + shift)."""
    random = Random("autoencoder")
    config = {
        "in_channels": 3,
        "block_out_channels": [16, 24, 32, 32],
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 8,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    }
    levels = len(config["block_out_channels"])
    model = AutoencoderKL(
        **{key: value for key, value in config.items() if key != "in_channels"},
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    random.fill(model)
    inputs = {"image": random.normal(2, 3, 32, 48), "latents": random.normal(2, 16, 3, 5)}
    scale, shift = config["scaling_factor"], config["shift_factor"]
    with torch.no_grad():
        posterior = model.encode(inputs["image"]).latent_dist
        outputs = {
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "latents": (posterior.mode() - shift) * scale,
            "image": model.decode(inputs["latents"] / scale + shift).sample,
        }
    save("autoencoder", config, autoencoder_names(model.state_dict(), levels), inputs, outputs)


def autoencoder_resnet():
    """Residual block 16 -> 24 channels with the 1x1 shortcut."""
    random = Random("autoencoder_resnet")
    block = random.fill(
        ResnetBlock2D(in_channels=16, out_channels=24, temb_channels=None, groups=8, eps=1e-6, non_linearity="swish")
    )
    inputs = {"x": random.normal(2, 16, 6, 5)}
    outputs = {"x": block(inputs["x"], None)}
    config = {"in_channels": 16, "out_channels": 24, "norm_num_groups": 8}
    save("autoencoder_resnet", config, resnet_names(block.state_dict()), inputs, outputs)


def autoencoder_attention():
    """Single-head attention over all positions, as in the middle of encoder and decoder."""
    random = Random("autoencoder_attention")
    block = random.fill(
        Attention(
            24,
            heads=1,
            dim_head=24,
            rescale_output_factor=1.0,
            eps=1e-6,
            norm_num_groups=8,
            residual_connection=True,
            bias=True,
            upcast_softmax=True,
            _from_deprecated_attn_block=True,
        )
    )
    inputs = {"x": random.normal(2, 24, 4, 5)}
    outputs = {"x": block(inputs["x"])}
    config = {"channels": 24, "norm_num_groups": 8}
    save("autoencoder_attention", config, attention_names(block.state_dict()), inputs, outputs)


def autoencoder_downsample():
    """Stride-2 convolution with padding on the right and the bottom only; `x` has an odd height, `z` an odd width,
    `y` neither."""
    random = Random("autoencoder_downsample")
    block = random.fill(Downsample2D(16, use_conv=True, out_channels=16, padding=0, name="op"))
    weights = {key: block.state_dict()[key] for key in ("conv.weight", "conv.bias")}
    inputs = {"x": random.normal(2, 16, 7, 10), "y": random.normal(1, 16, 8, 6), "z": random.normal(1, 16, 6, 9)}
    outputs = {name: block(tensor) for name, tensor in inputs.items()}
    save("autoencoder_downsample", {"channels": 16}, weights, inputs, outputs)


def autoencoder_upsample():
    """Nearest-neighbour doubling, then a convolution."""
    random = Random("autoencoder_upsample")
    block = random.fill(Upsample2D(16, use_conv=True, out_channels=16))
    inputs = {"x": random.normal(2, 16, 4, 5)}
    save("autoencoder_upsample", {"channels": 16}, block.state_dict(), inputs, {"x": block(inputs["x"])})


# ---------------------------------------------------------------------------------------------------------------------
# Text encoders


T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "num_heads": 3, "d_ff": 48, "num_layers": 2}


def t5_config():
    config = T5Config(
        **T5,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
        attn_implementation="eager",
    )
    assert config.dense_act_fn == "gelu_new" and config.is_gated_act and config.layer_norm_epsilon == 1e-6
    return config


def t5():
    """The encoder without attention mask; 150 tokens, so that distances pass the last bucket boundary."""
    random = Random("t5")
    model = random.fill(T5EncoderModel(t5_config()))
    inputs = {"ids": random.integers(0, T5["vocab_size"], 2, 150)}
    with torch.no_grad():
        outputs = {"hidden": model(input_ids=inputs["ids"]).last_hidden_state}
    weights = {key: tensor for key, tensor in model.state_dict().items() if key != "encoder.embed_tokens.weight"}
    assert "shared.weight" in weights
    save("t5", T5, weights, inputs, outputs)


def t5_attention():
    """Self-attention sublayer: norm, attention with relative position bias, residual."""
    random = Random("t5_attention")
    layer = random.fill(T5LayerSelfAttention(t5_config(), has_relative_attention_bias=True, layer_idx=0))
    inputs = {"x": random.normal(2, 9, T5["d_model"])}
    save("t5_attention", T5, layer.state_dict(), inputs, {"x": layer(inputs["x"])[0]})


def t5_feed_forward():
    """Feed-forward sublayer: norm, gated GELU (tanh), residual."""
    random = Random("t5_feed_forward")
    layer = random.fill(T5LayerFF(t5_config()))
    inputs = {"x": random.normal(2, 9, T5["d_model"])}
    save("t5_feed_forward", T5, layer.state_dict(), inputs, {"x": layer(inputs["x"])})


CLIP = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_heads": 4,
    "num_layers": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
}


def clip_config():
    return CLIPTextConfig(
        vocab_size=CLIP["vocab_size"],
        hidden_size=CLIP["hidden_size"],
        num_attention_heads=CLIP["num_heads"],
        num_hidden_layers=CLIP["num_layers"],
        intermediate_size=CLIP["intermediate_size"],
        max_position_embeddings=CLIP["max_position_embeddings"],
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,  # the value in the published FLUX configuration: pool at the first occurrence of the highest id
        attn_implementation="eager",
    )


def clip():
    """The text model; 99 ends a prompt and pads it. `output.pooled` is the state at the first 99."""
    random = Random("clip")
    model = random.fill(CLIPTextModel(clip_config()))
    ids = random.integers(3, 98, 2, CLIP["max_position_embeddings"])
    ids[:, 0] = 98
    ids[0, 6:] = 99
    ids[1, 11:] = 99
    with torch.no_grad():
        result = model(input_ids=ids)
    outputs = {"hidden": result.last_hidden_state, "pooled": result.pooler_output}
    for row, end in enumerate((6, 11)):
        assert torch.equal(outputs["pooled"][row], outputs["hidden"][row, end])
    # transformers 5 drops the `text_model.` prefix that the published files have.
    weights = {"text_model." + key.removeprefix("text_model."): tensor for key, tensor in model.state_dict().items()}
    weights = {key: tensor for key, tensor in weights.items() if not key.endswith("position_ids")}
    save("clip", CLIP, weights, {"ids": ids}, outputs)


def clip_layer():
    """One encoder layer with the causal mask."""
    random = Random("clip_layer")
    layer = random.fill(CLIPEncoderLayer(clip_config()))
    inputs = {"x": random.normal(2, 9, CLIP["hidden_size"])}
    mask = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1)[None, None]
    save("clip_layer", CLIP, layer.state_dict(), inputs, {"x": layer(inputs["x"], mask)})


# ---------------------------------------------------------------------------------------------------------------------
# Vision transformers


def vit_config(hidden_act, eps, class_token, patch_bias, pre_norm, layer_scale):
    """Our sizes: three layers, heads of 10 features, a grid of 4x4 patches."""
    return {
        "image_size": 18, "patch_size": 4, "hidden_size": 20, "intermediate_size": 44, "num_layers": 3, "num_heads": 2,
        "hidden_act": hidden_act, "layer_norm_eps": eps, "class_token": class_token, "patch_bias": patch_bias,
        "pre_norm": pre_norm, "layer_scale": layer_scale,
    }  # fmt: skip


def vit_sizes(config):
    """The same in transformers' words."""
    names = ("image_size", "patch_size", "hidden_size", "layer_norm_eps")
    sizes = {name: config[name] for name in names}
    return {**sizes, "num_hidden_layers": config["num_layers"], "num_attention_heads": config["num_heads"]}


def record_vit(case, config, model, rename, sizes, **options):
    """`output.last_<i>` and `output.after_<i>` (before the first layer, after the second) for pictures of several sizes: the
    learned grid with pixels left over, then others, whose positions are resampled."""
    random = Random(case)
    random.fill(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("cls_token", "class_embedding", "position_embeddings")):
                p.copy_(random.normal(*p.shape))
    inputs = {f"pixels_{i}": random.normal(2, 3, *size) for i, size in enumerate(sizes)}
    outputs = {}
    for i, pixels in enumerate(inputs.values()):
        with torch.no_grad():
            resample = options if pixels.shape[2:] != (config["image_size"],) * 2 else {}
            result = model(pixels, output_hidden_states=True, **resample)
            last = result.last_hidden_state
            if config["pre_norm"]:  # CLIP's own last state is without the norm, which only its pooling applies.
                last = model.post_layernorm(last)
                assert torch.equal(last[:, 0], result.pooler_output)
        outputs[f"last_{i}"] = last
        outputs[f"before_{i}"] = result.hidden_states[0]
        outputs[f"after_{i}"] = result.hidden_states[2]
    unused = ("head.", "embeddings.mask_token")
    weights = {rename(key): tensor for key, tensor in model.state_dict().items() if not key.startswith(unused)}
    save(case, config, weights, inputs, outputs)


def siglip():
    """SigLIP's vision tower without its pooling head."""
    config = vit_config("gelu_tanh", 1e-6, False, True, False, False)
    sizes = SiglipVisionConfig(
        **vit_sizes(config), intermediate_size=config["intermediate_size"], hidden_act="gelu_pytorch_tanh"
    )
    record_vit(
        "siglip", config, SiglipVisionModel(sizes), lambda key: f"vision_model.{key}", [(18, 18), (24, 13)],
        interpolate_pos_encoding=True,
    )  # fmt: skip


def dinov2():
    """DINOv2 with scaled layers; the names of the published files."""
    config = vit_config("gelu", 1e-6, True, True, False, True)
    config["intermediate_size"] = 40
    sizes = Dinov2Config(**vit_sizes(config), mlp_ratio=2, hidden_act="gelu")
    new = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value", "o_proj": "output.dense"}

    def rename(key):
        for ours, published in new.items():
            key = key.replace(f"attention.{ours}", f"attention.{published}")
        return key

    record_vit("dinov2", config, Dinov2Model(sizes), rename, [(16, 16), (24, 12), (8, 28)])


def clip_vision():
    """CLIP's vision tower, with a norm before the layers and none of its patches' bias."""
    config = vit_config("quick_gelu", 1e-5, True, False, True, False)
    sizes = CLIPVisionConfig(
        **vit_sizes(config), intermediate_size=config["intermediate_size"], hidden_act="quick_gelu"
    )
    record_vit(
        "clip_vision", config, CLIPVisionModel(sizes), lambda key: f"vision_model.{key}", [(18, 18), (12, 24)],
        interpolate_pos_encoding=True,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# LoRA


def lora_linear():
    """A LoRA on a linear layer 12 -> 20: `output.x` with the first adapter alone (the gradients belong to it),
    `output.two` with a second one active as well, whose contribution is further weighted by 0.5.
    `output.merged` and `output.merged_two` are the corresponding merged matrices."""
    random = Random("lora_linear")
    first = {"rank": 3, "alpha": 6.0, "weight": 1.0, "scaling": 2.0}
    second = {"rank": 2, "alpha": 1.0, "weight": 0.5, "scaling": 0.25}

    def lora(adapter):
        return peft.LoraConfig(r=adapter["rank"], lora_alpha=adapter["alpha"], target_modules=["linear"])

    model = peft.get_peft_model(nn.ModuleDict({"linear": nn.Linear(12, 20)}), lora(first), adapter_name="one")
    model.add_adapter("two", lora(second))
    layer = random.fill(model.base_model.model["linear"])
    layer.set_scale("two", second["weight"])
    assert layer.scaling == {"one": first["scaling"], "two": second["scaling"]}

    base = layer.base_layer
    weights = {
        "weight": base.weight,
        "bias": base.bias,
        "lora_A": layer.lora_A["one"].weight,
        "lora_B": layer.lora_B["one"].weight,
        "two.lora_A": layer.lora_A["two"].weight,
        "two.lora_B": layer.lora_B["two"].weight,
    }
    inputs = {"x": random.normal(2, 5, 12).requires_grad_()}
    layer.set_adapter(["one"])
    outputs = {"x": layer(inputs["x"])}
    cotangent = random.normal(*outputs["x"].shape)
    (cotangent * outputs["x"]).sum().backward()
    gradients = {
        "cotangent": {"x": cotangent},
        "grad.weights": {"lora_A": weights["lora_A"].grad, "lora_B": weights["lora_B"].grad},
        "grad.input": {"x": inputs["x"].grad},
    }
    layer.set_adapter(["one", "two"])
    outputs["two"] = layer(inputs["x"])
    outputs["merged"] = base.weight + layer.get_delta_weight("one")
    outputs["merged_two"] = outputs["merged"] + layer.get_delta_weight("two")
    config = {"in_features": 12, "out_features": 20, "bias": True, "adapters": [first, second]}
    save("lora_linear", config, weights, inputs, outputs, gradients)


# ---------------------------------------------------------------------------------------------------------------------
# Pipeline


def fill_conditioning():
    """Packing of mask, latents and position ids for a 64x96 image, by the fill pipeline itself (its autoencoder is
    replaced by one without parameters that returns the recorded latents)."""
    random = Random("fill_conditioning")
    height, width = 64, 96
    inputs = {
        "mask": (random.normal(1, 1, height, width) > 0.3).float(),
        "latents": random.normal(1, 16, height // 8, width // 8),
    }
    tokens = FluxFillPipeline._pack_latents(inputs["latents"], 1, 16, height // 8, width // 8)
    pipeline = types.SimpleNamespace(
        vae_scale_factor=8,
        vae=types.SimpleNamespace(
            encode=lambda image: types.SimpleNamespace(latents=inputs["latents"]),
            config=types.SimpleNamespace(shift_factor=0.0, scaling_factor=1.0),
        ),
        _pack_latents=FluxFillPipeline._pack_latents,
    )
    mask_tokens, latent_tokens = FluxFillPipeline.prepare_mask_latents(
        pipeline,
        mask=inputs["mask"],
        masked_image=torch.zeros(1, 3, height, width),
        batch_size=1,
        num_channels_latents=16,
        num_images_per_prompt=1,
        height=height,
        width=width,
        dtype=torch.float32,
        device="cpu",
        generator=None,
    )
    assert torch.equal(latent_tokens, tokens)
    unpacked = FluxFillPipeline._unpack_latents(tokens, height, width, 8)
    assert torch.equal(unpacked, inputs["latents"])
    ids = FluxFillPipeline._prepare_latent_image_ids(1, height // 16, width // 16, "cpu", torch.float32)
    outputs = {"mask_tokens": mask_tokens, "tokens": tokens, "ids": ids.to(torch.int64)}
    assert torch.equal(outputs["ids"], grid_ids(height // 16, width // 16))
    save("fill_conditioning", {"height": height, "width": width}, {}, inputs, outputs)


def schedule():
    """Noise levels for N image tokens and n steps (`output.sigmas_<N>_<n>`, the final zero included), and three
    Euler steps of the N = 1024, n = 4 schedule with given velocities (`output.sample` after the third)."""
    random = Random("schedule")
    config = {
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    }

    def scheduler(tokens, steps):
        result = FlowMatchEulerDiscreteScheduler(**config)
        mu = calculate_shift(
            tokens,
            config["base_image_seq_len"],
            config["max_image_seq_len"],
            config["base_shift"],
            config["max_shift"],
        )
        result.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return result, mu

    outputs, mus = {}, {}
    for tokens, steps in ((4096, 28), (1024, 4), (16, 20)):
        case, mus[str(tokens)] = scheduler(tokens, steps)
        outputs[f"sigmas_{tokens}_{steps}"] = case.sigmas.float()
    inputs = {"sample": random.normal(1, 6, 16)}
    euler, _ = scheduler(1024, 4)
    sample = inputs["sample"]
    for i in range(3):
        inputs[f"velocity_{i}"] = random.normal(*sample.shape)
        sample = euler.step(inputs[f"velocity_{i}"], euler.timesteps[i], sample, return_dict=False)[0]
        outputs[f"sample_{i}"] = sample
    outputs["sample"] = sample
    save("schedule", {**config, "mu": mus, "euler": {"tokens": 1024, "steps": 4}}, {}, inputs, outputs)


CASES = [
    flux_double_block,
    flux_single_block,
    flux,
    flux_dev,
    autoencoder,
    autoencoder_resnet,
    autoencoder_attention,
    autoencoder_downsample,
    autoencoder_upsample,
    t5,
    t5_attention,
    t5_feed_forward,
    clip,
    clip_layer,
    siglip,
    dinov2,
    clip_vision,
    lora_linear,
    fill_conditioning,
    schedule,
]


def main():
    cases = {case.__name__: case for case in CASES}
    names = sys.argv[1:] or list(cases)
    unknown = [name for name in names if name not in cases]
    if unknown:
        sys.exit(f"no such case: {', '.join(unknown)}; there are: {', '.join(cases)}")
    torch.set_num_threads(1)
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names:
        cases[name]()


if __name__ == "__main__":
    main()

"""Records what PEFT makes of two adapters on the transformer of tests/data/fill, in the files that diffusers saves.

    python tests/reference/record_adapters.py

Writes tests/data/adapters: `first/` and `second/` (one LoRA file each: ranks and alphas that differ from layer to
layer, and plain ones) and `flux.safetensors` with the transformer's inputs, and its output without adapters, with each,
and with both at weights 0.7 and -0.4.
"""

import pathlib

import torch
from diffusers import FluxFillPipeline, FluxTransformer2DModel
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/data/adapters"

# Every linear layer that adapters of the field touch.
LAYERS = [
    "x_embedder", "context_embedder", "norm1.linear", "norm1_context.linear", "norm.linear", "norm_out.linear",
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff.net.0.proj",
    "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out",
]


def transformer():
    return FluxTransformer2DModel.from_pretrained(ROOT / "tests/data/fill/transformer").eval()


def save(name, config, seed):
    """An adapter with random factors in the file that diffusers' own trainers write."""
    model = transformer()
    model.add_adapter(config)
    torch.manual_seed(seed)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    # The header is the only place that says how strong the first one's branches are.
    metadata = _collate_lora_metadata({"transformer": model}) if name == "first" else {}
    FluxFillPipeline.save_lora_weights(
        OUT / name, transformer_lora_layers=get_peft_model_state_dict(model), **metadata
    )


def main():
    varied = LoraConfig(
        r=3, lora_alpha=6, target_modules=LAYERS, rank_pattern={"to_k": 2, "proj_mlp": 5},
        alpha_pattern={"to_k": 5, "transformer_blocks.0.ff.net.2": 1.5},
    )
    plain = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v", "to_out.0", "proj_out"])
    save("first", varied, 1)
    save("second", plain, 2)

    torch.manual_seed(3)
    model = transformer()
    config = model.config
    hidden = torch.randn(1, 12, config.in_channels)
    words = torch.randn(1, 5, config.joint_attention_dim)
    ids = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij"), -1).reshape(-1, 2)
    inputs = dict(
        hidden_states=hidden, encoder_hidden_states=words, pooled_projections=torch.randn(1, config.pooled_projection_dim),
        timestep=torch.tensor([0.6]), guidance=torch.tensor([3.5]),
        img_ids=torch.cat([torch.zeros(12, 1), ids], 1).float(), txt_ids=torch.zeros(5, 3),
    )
    outputs = {}

    def run(name, adapters):
        model = transformer()
        pipe = FluxFillPipeline(*[None] * 6, transformer=model)
        for adapter, _ in adapters:
            pipe.load_lora_weights(OUT / adapter, adapter_name=adapter)
        if adapters:
            pipe.set_adapters([adapter for adapter, _ in adapters], [weight for _, weight in adapters])
        with torch.no_grad():
            outputs[name] = model(**inputs, return_dict=False)[0].contiguous()

    run("none", [])
    run("first", [("first", 1.0)])
    run("second", [("second", 1.0)])
    run("both", [("first", 0.7), ("second", -0.4)])
    tensors = {f"input.{name}": value.contiguous() for name, value in inputs.items()}
    tensors |= {f"output.{name}": value for name, value in outputs.items()}
    save_file(tensors, OUT / "flux.safetensors")
    for name, value in outputs.items():
        change = (value - outputs["none"]).norm() / outputs["none"].norm()
        print(name, float(change))


if __name__ == "__main__":
    main()

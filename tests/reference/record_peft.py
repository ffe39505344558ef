"""Records what PEFT and diffusers make of adapters that `ace train` wrote for them, and an adapter that PEFT wrote itself.

    python tests/reference/record_peft.py

Reads tests/data/adapters/ours: one adapter on the transformer of tests/data/fill in three spellings, as a run of this recipe
wrote it (`save_as = ["kohya", "diffusers", "peft"]`, ranks and alphas that differ from layer to layer, the last layer
included). Writes tests/data/adapters/peft (`save_pretrained`) and tests/data/adapters/peft.safetensors: the velocity with
each, on the inputs of tests/data/adapters/flux.safetensors. Prints how far each moves it; fails if PEFT misses a factor.
diffusers' reader of kohya's spelling knows FLUX.1's own sizes alone, so that one is not asked.
"""

import pathlib

import torch
from diffusers import FluxFillPipeline, FluxTransformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
ADAPTERS = ROOT / "tests/data/adapters"
recorded = load_file(ADAPTERS / "flux.safetensors")
inputs = {name[len("input."):]: value for name, value in recorded.items() if name.startswith("input.")}


def transformer():
    return FluxTransformer2DModel.from_pretrained(ROOT / "tests/data/fill/transformer").eval()


def velocity(model):
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0].contiguous()


def by_diffusers(file):
    model = transformer()
    pipe = FluxFillPipeline(*[None] * 6, transformer=model)
    pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="ours")
    return velocity(model)


def by_peft(folder):
    model = PeftModel.from_pretrained(transformer(), folder)
    # Every factor of the file has a place, and every branch that PEFT made is in the file.
    file = load_file(folder / "adapter_model.safetensors")
    made = [name for name, _ in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]
    assert len(made) == len(file), (len(made), len(file))
    assert all(name.replace(".default", "") in file for name in made)
    return velocity(model.base_model.model)


def written_by_peft():
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_k", "add_v_proj", "norm.linear", "proj_mlp", "ff.net.2"],
        rank_pattern={"to_k": 2}, alpha_pattern={"proj_mlp": 2, "single_transformer_blocks.1.attn.to_q": 9},
    )
    model = get_peft_model(transformer(), config)
    torch.manual_seed(4)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(ADAPTERS / "peft")
    # A model card that nobody reads.
    (ADAPTERS / "peft/README.md").unlink(missing_ok=True)
    return velocity(model.base_model.model)


def main():
    outputs = {
        "diffusers": by_diffusers(ADAPTERS / "ours/ours-diffusers.safetensors"),
        "peft": by_peft(ADAPTERS / "ours/ours-peft"),
        "written_by_peft": written_by_peft(),
    }
    plain = recorded["output.none"]
    for name, value in outputs.items():
        print(name, "moves the velocity by", float((value - plain).norm() / plain.norm()))
    save_file({f"output.{name}": value for name, value in outputs.items()}, ADAPTERS / "peft.safetensors")


if __name__ == "__main__":
    main()

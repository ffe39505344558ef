"""Times LoRA training with diffusers and PEFT on the model that `ace bench train` measures by default.

A random FLUX-Fill transformer (hidden 1024, 4 double and 8 single blocks), LoRA of rank 16 on every linear layer of the
blocks, AdamW, batch 1, 1024 picture and 512 text tokens, f32 on the CPU: latents and embeddings are random numbers that
are there from the start, as if they had been cached. Prints one line of JSON: median and spread of a step, the share of
forward, backward and optimizer, and the most memory that the process held, as the kernel counts it and without the
memory of Python and the libraries themselves.

    python tests/reference/bench_train.py [--checkpointing] [--threads 2] [--steps 5]
"""

import argparse
import json
import resource
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--hidden", type=int, default=1024)
parser.add_argument("--head", type=int, default=128, help="features of one attention head")
parser.add_argument("--double", type=int, default=4)
parser.add_argument("--single", type=int, default=8)
parser.add_argument("--tokens", type=int, default=1024)
parser.add_argument("--text-tokens", type=int, default=512)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--batch", type=int, default=1)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=1)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--checkpointing", action="store_true", help="recompute each block in the backward pass")
args = parser.parse_args()


def resident(field):
    """`VmRSS` or `VmHWM` of this process in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


import torch  # noqa: E402
from diffusers import FluxTransformer2DModel  # noqa: E402
from peft import LoraConfig, inject_adapter_in_model  # noqa: E402

torch.set_num_threads(args.threads)
torch.manual_seed(0)
libraries = resident("VmRSS")

# FLUX-Fill's channels: 64 latents, 64 of the masked picture, 256 of the mask. Text as wide as T5-XXL's and CLIP-L's.
IN_CHANNELS, OUT_CHANNELS, TEXT, POOLED = 384, 64, 4096, 768
axes = (args.head // 8, args.head * 7 // 16, args.head * 7 // 16)
model = FluxTransformer2DModel(
    in_channels=IN_CHANNELS,
    out_channels=OUT_CHANNELS,
    num_layers=args.double,
    num_single_layers=args.single,
    attention_head_dim=args.head,
    num_attention_heads=args.hidden // args.head,
    joint_attention_dim=TEXT,
    pooled_projection_dim=POOLED,
    guidance_embeds=True,
    axes_dims_rope=axes,
)
model.requires_grad_(False)
# Every linear layer of the blocks: the fused ones of other trainers are three or four here.
targets = [
    name
    for name, module in model.named_modules()
    if isinstance(module, torch.nn.Linear) and "transformer_blocks." in name
]
inject_adapter_in_model(LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=targets), model)
if args.checkpointing:
    model.enable_gradient_checkpointing()
model.train()
learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(learned, lr=1e-4)

side = int(args.tokens**0.5)
rows = args.tokens // side
assert side * rows == args.tokens, "tokens must fill a rectangle"
image_ids = torch.zeros(args.tokens, 3)
image_ids[:, 1] = torch.arange(rows).repeat_interleave(side)
image_ids[:, 2] = torch.arange(side).repeat(rows)
text_ids = torch.zeros(args.text_tokens, 3)
latents = torch.randn(args.batch, args.tokens, OUT_CHANNELS)
condition = torch.randn(args.batch, args.tokens, IN_CHANNELS - OUT_CHANNELS)
prompt_embeds = torch.randn(args.batch, args.text_tokens, TEXT)
pooled = torch.randn(args.batch, POOLED)
guidance = torch.ones(args.batch)


def step():
    """One step of flow matching; the seconds of its parts."""
    begin = time.perf_counter()
    times = torch.sigmoid(torch.randn(args.batch))
    noise = torch.randn_like(latents)
    t = times.view(-1, 1, 1)
    noisy = (1 - t) * latents + t * noise
    data = time.perf_counter()
    velocity = model(
        hidden_states=torch.cat([noisy, condition], dim=2),
        encoder_hidden_states=prompt_embeds,
        pooled_projections=pooled,
        timestep=times,
        guidance=guidance,
        img_ids=image_ids,
        txt_ids=text_ids,
        return_dict=False,
    )[0]
    loss = torch.nn.functional.mse_loss(velocity, noise - latents)
    forward = time.perf_counter()
    loss.backward()
    backward = time.perf_counter()
    torch.nn.utils.clip_grad_norm_(learned, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    end = time.perf_counter()
    parts = {"data": data - begin, "forward": forward - data, "backward": backward - forward, "optimizer": end - backward}
    return end - begin, parts


for _ in range(args.warmup):
    step()
processor = time.process_time()
wall = time.perf_counter()
measured = [step() for _ in range(args.steps)]
cores = (time.process_time() - processor) / (time.perf_counter() - wall)
seconds = [total for total, _ in measured]
median = statistics.median(seconds)
stages = {name: sum(parts[name] for _, parts in measured) / sum(seconds) for name in measured[0][1]}
print(
    json.dumps(
        {
            "what": "diffusers + PEFT" + (", checkpointed" if args.checkpointing else ""),
            "torch": torch.__version__,
            "threads": args.threads,
            "hidden": args.hidden,
            "blocks": [args.double, args.single],
            "tokens": [args.tokens, args.text_tokens],
            "batch": args.batch,
            "rank": args.rank,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "learned": sum(parameter.numel() for parameter in learned),
            "step_seconds": median,
            "step_seconds_range": [min(seconds), max(seconds)],
            "samples_per_second": args.batch / median,
            "tokens_per_second": args.batch * (args.tokens + args.text_tokens) / median,
            "stages": stages,
            "cores_busy": cores,
            "peak_resident": resident("VmHWM"),
            "resident_of_libraries": libraries,
        }
    )
)

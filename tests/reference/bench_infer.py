"""Times diffusers on what `ace bench flux|vae|t5|edit|sam` measures: the same sizes, random weights, the same fields of JSON.

`flux` is one pass of a FLUX-Fill transformer (hidden 1024, 4 double and 8 single blocks, 1024 picture and 512 text tokens),
`vae` encoding and decoding with the published autoencoder at 512 x 512, `t5` four layers of the published width, `edit` a whole
edit with the first two, its words embedded beforehand, `sam` a look at a picture with MobileSAM (record_sam.py) and the answer
to a click. Memory is what the process held at most, as the kernel counts it, without
Python and the libraries themselves.

    python tests/reference/bench_infer.py flux [--dtype bf16] [--threads 2] [--repeat 3]
"""

import argparse
import json
import resource
import statistics
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("what", choices=["flux", "vae", "t5", "edit", "sam"])
parser.add_argument("--hidden", type=int, default=1024)
parser.add_argument("--head", type=int, default=128, help="features of one attention head")
parser.add_argument("--blocks", default="4,8", help="double and single blocks")
parser.add_argument("--layers", type=int, default=4, help="layers of T5")
parser.add_argument("--tokens", type=int, default=None, help="picture tokens [default: those of --size]")
parser.add_argument("--text-tokens", type=int, default=512)
parser.add_argument("--size", type=int, default=512, help="pixels of a side")
parser.add_argument("--steps", type=int, default=2, help="steps of a whole edit")
parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="the autoencoder is always in f32")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warmup", type=int, default=1)
parser.add_argument("--repeat", type=int, default=3)
args = parser.parse_args()
double, single = (int(number) for number in args.blocks.split(","))


def resident(field):
    """`VmRSS` or `VmHWM` of this process in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


import torch  # noqa: E402
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import T5Config, T5EncoderModel  # noqa: E402

torch.set_num_threads(args.threads)
torch.set_grad_enabled(False)
torch.manual_seed(0)
libraries = resident("VmRSS")
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]

# FLUX-Fill's channels: 64 latents, 64 of the masked picture, 256 of the mask. Text as wide as T5-XXL's and CLIP-L's.
IN_CHANNELS, OUT_CHANNELS, TEXT, POOLED = 384, 64, 4096, 768
tokens = args.tokens or (args.size // 16) ** 2


def made(build):
    """A network in `dtype` from the start: a wide one beside it would count as memory."""
    torch.set_default_dtype(dtype)
    network = build()
    torch.set_default_dtype(torch.float32)
    return network.eval()


def transformer():
    axes = (args.head // 8, args.head * 7 // 16, args.head * 7 // 16)
    return made(
        lambda: FluxTransformer2DModel(
            in_channels=IN_CHANNELS,
            out_channels=OUT_CHANNELS,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=args.head,
            num_attention_heads=args.hidden // args.head,
            joint_attention_dim=TEXT,
            pooled_projection_dim=POOLED,
            guidance_embeds=True,
            axes_dims_rope=axes,
        )
    )


def autoencoder():
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def rectangle(count):
    side = next(side for side in range(int(count**0.5), 0, -1) if count % side == 0)
    ids = torch.zeros(count, 3)
    ids[:, 1] = torch.arange(side).repeat_interleave(count // side)
    ids[:, 2] = torch.arange(count // side).repeat(side)
    return ids


def flux_work():
    model = transformer()
    given = {
        "encoder_hidden_states": torch.rand(1, args.text_tokens, TEXT, dtype=dtype),
        "pooled_projections": torch.rand(1, POOLED, dtype=dtype),
        "guidance": torch.tensor([30.0]),
        "img_ids": rectangle(tokens),
        "txt_ids": torch.zeros(args.text_tokens, 3),
        "return_dict": False,
    }

    def step(hidden, at):
        return model(hidden_states=hidden.to(dtype), timestep=at, **given)[0]

    return model, step


def works():
    """Names, networks and what is done with them; each takes a function that hears of its parts."""
    if args.what == "flux":
        model, step = flux_work()
        hidden = torch.rand(1, tokens, IN_CHANNELS, dtype=dtype)
        yield "step", [model], lambda lap: (step(hidden, torch.tensor([0.5])), lap("step"))
    if args.what == "vae":
        vae = autoencoder()
        picture = torch.rand(1, 3, args.size, args.size) * 2 - 1
        latents = torch.rand(1, 16, args.size // 8, args.size // 8)
        yield "encode", [vae.encoder], lambda lap: (vae.encode(picture), lap("encode"))
        yield "decode", [vae.decoder], lambda lap: (vae.decode(latents), lap("decode"))
    if args.what == "t5":
        config = T5Config(
            vocab_size=32128,
            d_model=4096,
            d_kv=64,
            d_ff=10240,
            num_layers=args.layers,
            num_heads=64,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
        model = made(lambda: T5EncoderModel(config))
        ids = (torch.arange(args.text_tokens) * 7919 % 32128).unsqueeze(0)
        yield "t5", [model], lambda lap: (model(ids), lap("t5"))
    if args.what == "sam":
        from record_sam import MOBILE, Encoder, decoder

        encoder, model = (one.eval().requires_grad_(False) for one in (Encoder(MOBILE["encoder"], 256), decoder(MOBILE)))
        model.vision_encoder = None
        square = torch.rand(1, 3, 1024, 1024)
        embedding = encoder(square)
        positions = model.get_image_wide_positional_embeddings()
        point, label = torch.tensor([[[[400.0, 300.0]]]]), torch.tensor([[[1]]])

        def click(lap):
            sparse, dense = model.prompt_encoder(
                input_points=point, input_labels=label, input_boxes=None, input_masks=None
            )
            masks, scores = model.mask_decoder(
                image_embeddings=embedding, image_positional_embeddings=positions, sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense, multimask_output=True,
            )
            best = masks[0, 0, scores[0, 0].argmax()][None, None]
            square = torch.nn.functional.interpolate(best, (1024, 1024), mode="bilinear")[..., :768, :]
            torch.nn.functional.interpolate(square, (768, 1024), mode="bilinear") > 0
            lap("click")

        yield "look", [encoder], lambda lap: (encoder(square), lap("look"))
        yield "click", [model], click
    if args.what == "edit":
        model, step = flux_work()
        vae = autoencoder()
        picture = torch.rand(1, 3, args.size, args.size) * 2 - 1
        mask = (torch.arange(args.size) < args.size // 2).float().expand(1, 1, args.size, args.size)
        cells = args.size // 8

        def pack(latents):
            channels = latents.shape[1]
            split = latents.view(1, channels, cells // 2, 2, cells // 2, 2)
            return split.permute(0, 2, 4, 1, 3, 5).reshape(1, tokens, 4 * channels)

        def edit(lap):
            latents = vae.encode(picture * (1 - mask)).latent_dist.mode()
            latents = (latents - vae.config.shift_factor) * vae.config.scaling_factor
            folded = mask.view(1, cells, 8, cells, 8).permute(0, 2, 4, 1, 3).reshape(1, 64, cells, cells)
            unit = torch.cat([pack(latents), pack(folded)], dim=2)
            lap("encode")
            scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
            scheduler.set_timesteps(sigmas=[1 - i / args.steps for i in range(args.steps)], mu=0.63)
            x = pack(torch.randn(1, 16, cells, cells))
            for at in scheduler.timesteps:
                velocity = step(torch.cat([x, unit], dim=2), at.expand(1) / 1000)
                x = scheduler.step(velocity.float(), at, x, return_dict=False)[0]
                lap("step")
            x = x.view(1, cells // 2, cells // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, cells, cells)
            vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor)
            lap("decode")

        yield "edit", [model, vae], edit


def once(work):
    """Seconds, processor seconds in the program and the kernel, and seconds of each part."""
    laps, before, begin = [], resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    last = [begin]

    def lap(name):
        now = time.perf_counter()
        laps.append((name, now - last[0]))
        last[0] = now

    work(lap)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, laps


def peak():
    return resident("VmHWM") - libraries


def matmul(kind):
    """GFLOP/s of a product of two large square matrices."""
    a, b = torch.rand(2048, 2048, dtype=kind), torch.rand(2048, 2048, dtype=kind)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - begin)
    return 2 * 2048**3 / best / 1e9


results = []
for name, networks, work in works():
    with FlopCounterMode(display=False) as counter:
        work(lambda _: None)
    gflop = counter.get_total_flops() / 1e9
    for _ in range(max(args.warmup - 1, 0)):
        work(lambda _: None)
    times = [once(work) for _ in range(args.repeat)]
    seconds = [total for total, *_ in times]
    median = statistics.median(seconds)
    names = {name for *_, laps in times for name, _ in laps}
    parts = {part: [lap for *_, laps in times for found, lap in laps if found == part] for part in names}
    results.append(
        {
            "what": name,
            "parameters": sum(parameter.numel() for network in networks for parameter in network.parameters()),
            "times": len(times),
            "seconds": median,
            "seconds_range": [min(seconds), max(seconds)],
            "processor_seconds": statistics.median(user + kernel for _, user, kernel, _ in times),
            "kernel_seconds": statistics.median(kernel for _, _, kernel, _ in times),
            "laps": {part: statistics.median(laps) for part, laps in sorted(parts.items())},
            "gflop": gflop,
            "gflops": gflop / median,
            "peak_memory": peak(),
        }
    )
highest = resident("VmHWM")
limits = {"f32": matmul(torch.float32)}
if args.dtype == "bf16":
    limits["bf16"] = matmul(torch.bfloat16)
for result in results:
    result["share"] = result["gflops"] / limits[args.dtype]
sizes = {"hidden": args.hidden, "blocks": [double, single], "tokens": [tokens, args.text_tokens], "size": args.size}
print(
    json.dumps(
        {
            "device": f"torch {torch.__version__}, {args.threads} threads",
            "dtype": args.dtype,
            "quantize": None,
            "sizes": sizes | {"steps": args.steps},
            "results": results,
            "matmul_gflops": limits,
            "peak_resident": highest,
            "resident_of_libraries": libraries,
        }
    )
)

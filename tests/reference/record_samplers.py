#!/usr/bin/env python3
"""Record samplers, schedules and caches: `tests/data/parity/{samplers,schedules,caches}.safetensors`.

    venv/bin/python tests/reference/record_samplers.py

Samplers are diffusers' schedulers, driven along given times by a velocity that is a known function of the tokens and the
time, so that no network is needed: v(x, t) = sin(2 x + t) + t^2. A file holds the times and the tokens after every step.
`dpmpp_2m_comfy` is no scheduler of diffusers: it is the formula of ComfyUI's `sample_dpmpp_2m` (comfy/k_diffusion/
sampling.py), written out here in f64.

Schedules `flux`, `beta`, `karras` and `exponential` are diffusers' `FlowMatchEulerDiscreteScheduler` with dynamic shift
(by the number of tokens) and static shift. The others are ComfyUI's formulas (comfy/samplers.py over the table of
`ModelSamplingFlux`, comfy/model_sampling.py), written out here in f64.

`caches` is a small random transformer with diffusers' first-block cache and MagCache, along ten Euler steps: the tokens at
the end, how many steps were computed, and the ratios that MagCache measures of it.
"""

import math

import numpy as np
import scipy.stats
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    FluxTransformer2DModel,
    UniPCMultistepScheduler,
)
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, apply_first_block_cache, apply_mag_cache
from diffusers.hooks.mag_cache import MagCacheBlockHook
from diffusers.schedulers import scheduling_flow_match_lcm as lcm
from record import Random, calculate_shift, flux_names, grid_ids, save

SHIFT = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
STATIC = 3.0


def velocity(x, t):
    return torch.sin(2 * x + t) + t * t


def even(steps):
    return np.linspace(1.0, 1 / steps, steps)


# ---------------------------------------------------------------------------------------------------------------------
# Samplers


def walk(scheduler, sigmas, x):
    """Tokens after every call of `step`, along `sigmas`."""
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float32)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000
    scheduler.num_inference_steps = len(scheduler.timesteps)
    scheduler.set_begin_index(0)
    seen = []
    for t in scheduler.timesteps:
        sigma = scheduler.sigmas[scheduler.step_index or 0]
        x = scheduler.step(velocity(x, sigma), t, x, return_dict=False)[0]
        seen.append(x)
    return seen


def heun(sigmas, x):
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(len(sigmas) - 1)
    inner = torch.tensor(sigmas, dtype=torch.float32)
    doubled = torch.cat([inner[:1], inner[1:-1].repeat_interleave(2), inner[-1:]])
    asked = torch.cat([inner[:1], inner[1:-1].repeat_interleave(2)])
    scheduler.sigmas, scheduler.timesteps = doubled, asked * 1000
    scheduler.set_begin_index(0)
    seen = []
    for i, sigma in enumerate(asked):
        x = scheduler.step(velocity(x, sigma), sigma * 1000, x, return_dict=False)[0]
        # Steps end at every second answer, and at the last.
        if i % 2 == 1 or i + 1 == len(asked):
            seen.append(x)
    return seen


def dpmpp_2m_comfy(sigmas, x):
    x, before, seen = x.double(), None, []
    for i in range(len(sigmas) - 1):
        now, after = sigmas[i], sigmas[i + 1]
        end = x - now * velocity(x, now)
        led = end
        if before is not None and after > 0:
            h_before, h = math.log(sigmas[i - 1]) - math.log(now), math.log(now) - math.log(after)
            r = h_before / h
            led = (1 + 1 / (2 * r)) * end - 1 / (2 * r) * before
        x, before = after / now * x + (1 - after / now) * led, end
        seen.append(x.float())
    return seen


def samplers():
    random = Random("samplers")
    start = random.normal(1, 3, 5)
    fresh = [random.normal(1, 3, 5) for _ in range(6)]
    given = iter(fresh)
    lcm.randn_tensor = lambda *_, **__: next(given)

    shifted = FlowMatchEulerDiscreteScheduler(shift=STATIC)
    shifted.set_timesteps(sigmas=even(6))
    times = shifted.sigmas.tolist()
    # diffusers' own times of DPM and UniPC begin a little below 1.
    dpm = lambda: DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=STATIC, solver_order=2
    )
    own_dpm = dpm()
    own_dpm.set_timesteps(6)
    unipc = UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=STATIC, solver_order=2
    )
    unipc.set_timesteps(sigmas=even(6).copy())
    corrected = unipc.sigmas.tolist()

    def prepared(scheduler):
        scheduler.set_timesteps(6)
        return scheduler

    walks = {
        "euler": walk(prepared(FlowMatchEulerDiscreteScheduler()), times, start),
        "heun": heun(times, start),
        "dpmpp_2m": walk(prepared(dpm()), times, start),
        "dpmpp_2m_own": walk(own_dpm, own_dpm.sigmas.tolist(), start),
        "dpmpp_2m_comfy": dpmpp_2m_comfy(times, start),
        "unipc": walk(unipc, corrected, start),
        "lcm": walk(prepared(FlowMatchLCMScheduler()), times, start),
    }
    inputs = {"start": start, "fresh": torch.stack(fresh), "times": torch.tensor(times)}
    inputs["times_own"] = own_dpm.sigmas.float()
    outputs = {name: torch.stack(seen) for name, seen in walks.items()}
    save("samplers", {"velocity": "sin(2 x + t) + t^2", "static_shift": STATIC}, {}, inputs, outputs)


# ---------------------------------------------------------------------------------------------------------------------
# Schedules


def diffusers_times(steps, mu, **flags):
    dynamic = mu is not None
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic, shift=STATIC, **SHIFT, **flags)
    scheduler.set_timesteps(sigmas=even(steps), mu=mu)
    return scheduler.sigmas.double().numpy()


def comfy_times(steps, factor):
    sigma = lambda t: factor / (factor + (1 / t - 1))
    table = sigma(np.arange(1, 10001) / 10000)
    end = table[0]
    parts = np.linspace(0, 1, steps)
    stride = len(table) / steps
    places = np.rint(scipy.stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6) * 9999)
    half, noise = steps // 2, 0.025
    rest = steps - half
    excess = half - noise * steps
    left = [i * noise / half for i in range(half)]
    square = excess / (half * rest**2)
    slope = noise / half - 2 * excess / rest**2
    left += [square * i * i + slope * i + square * half**2 for i in range(half, steps)]
    return {
        "simple": [table[-(1 + int(i * stride))] for i in range(steps)],
        "normal": sigma(np.linspace(1, end, steps)),
        "sgm_uniform": sigma(np.linspace(1, end, steps + 1)[:-1]),
        "beta_comfy": [table[int(p)] for i, p in enumerate(places) if i == 0 or places[i - 1] != p],
        "linear_quadratic": 1 - np.array(left),
        "kl_optimal": np.tan(parts * math.atan(end) + (1 - parts) * math.atan(table[-1])),
    }


def schedules():
    outputs = {}
    for tokens, steps in ((4096, 28), (90, 12), (1024, 5)):
        mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
        for kind, mu, factor in ((f"{tokens}", mu, math.exp(mu)), ("static", None, STATIC)):
            all_times = {name: np.append(times, 0.0) for name, times in comfy_times(steps, factor).items()}
            all_times["flux"] = diffusers_times(steps, mu)
            for name in ("beta", "karras", "exponential"):
                all_times[name] = diffusers_times(steps, mu, **{f"use_{name}_sigmas": True})
            for name, times in all_times.items():
                outputs[f"{name}_{kind}_{steps}"] = torch.tensor(np.asarray(times), dtype=torch.float32)
    save("schedules", {**SHIFT, "static_shift": STATIC}, {}, {}, outputs)


# ---------------------------------------------------------------------------------------------------------------------
# Caches


def caches():
    random = Random("caches")
    config = {
        "in_channels": 64,
        "out_channels": 64,
        "hidden_size": 24,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [4, 4, 4],
        "theta": 10000,
        "mlp_ratio": 4.0,
        "context_in_dim": 16,
        "vec_in_dim": 12,
        "guidance_embed": False,
        "qkv_bias": True,
    }

    def model(state=None):
        made = FluxTransformer2DModel(
            in_channels=64,
            out_channels=64,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=16,
            pooled_projection_dim=12,
            guidance_embeds=False,
            axes_dims_rope=(4, 4, 4),
        )
        if state is not None:
            made.load_state_dict(state)
        return made.eval()

    state = random.fill(model()).state_dict()
    inputs = {
        "start": random.normal(1, 6, 64),
        "ids": grid_ids(2, 3),
        "prompt_embeds": random.normal(1, 4, 16),
        "pooled_prompt_embeds": random.normal(1, 12),
        "times": torch.tensor(1 - np.linspace(0, 1, 11), dtype=torch.float32),
    }
    ratios = [1.0, 1.01, 1.02, 0.99, 0.97, 1.03, 1.0, 0.95, 0.98, 1.1, 1.0, 0.9]
    inputs["mag_ratios"] = torch.tensor(ratios)

    @torch.no_grad()
    def walk(apply):
        network, computed = model(state), []
        apply(network)
        # Not replaced by a cache's hook: it runs only where its block does.
        network.single_transformer_blocks[0].attn.register_forward_hook(lambda *_: computed.append(1))
        x = inputs["start"]
        for now, after in zip(inputs["times"], inputs["times"][1:]):
            with network.cache_context("walk"):
                velocity = network(
                    hidden_states=x,
                    encoder_hidden_states=inputs["prompt_embeds"],
                    pooled_projections=inputs["pooled_prompt_embeds"],
                    timestep=now[None],
                    img_ids=inputs["ids"],
                    txt_ids=torch.zeros(4, 3, dtype=torch.int64),
                    return_dict=False,
                )[0]
            x = x + (after - now) * velocity
        return x, len(computed)

    measured = []
    keep = MagCacheBlockHook._perform_calibration_step

    def measure(self, walk_state, residual):
        keep(self, walk_state, residual)
        measured.append(walk_state.calibration_ratios[-1])

    MagCacheBlockHook._perform_calibration_step = measure
    mag = lambda **options: lambda network: apply_mag_cache(network, MagCacheConfig(num_inference_steps=10, **options))
    first = lambda threshold: lambda network: apply_first_block_cache(network, FirstBlockCacheConfig(threshold))
    outputs, computed = {}, {}
    for name, apply in {
        "plain": mag(calibrate=True),
        "first_block_1.0": first(1.0),
        "first_block_0.6": first(0.6),
        "mag_0.06": mag(mag_ratios=ratios, threshold=0.06),
        "mag_0.2": mag(mag_ratios=ratios, threshold=0.2),
    }.items():
        outputs[name], computed[name] = walk(apply)
    outputs["mag_ratios"] = torch.tensor(measured)
    print(computed, measured)
    config["computed"] = computed
    save("caches", config, flux_names(state), inputs, outputs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    caches()
    samplers()
    schedules()

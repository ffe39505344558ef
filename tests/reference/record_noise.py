"""Records what torch's generator draws on a CPU with AVX2 from some seeds.

    python tests/reference/record_noise.py

Writes tests/data/noise/torch.safetensors: `<seed>.<count>` in f32, and `<seed>.<count>.sum`, the sum of a long draw's
bit patterns as integers.
"""

import pathlib

import torch
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]


def draw(seed, count):
    return torch.randn(count, generator=torch.Generator("cpu").manual_seed(seed))


def main():
    assert "AVX2" in torch.backends.cpu.get_cpu_capability() or "AVX512" in torch.backends.cpu.get_cpu_capability()
    tensors = {}
    for seed in (0, 1, 4194866942, 2**40 + 5):
        for count in (1, 2, 15, 16, 17, 31, 32, 100, 16 * 8 * 6):
            tensors[f"{seed}.{count}"] = draw(seed, count)
        count = 1_000_003
        bits = draw(seed, count).view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        tensors[f"{seed}.{count}.sum"] = bits.sum().reshape(1)
    out = ROOT / "tests/data/noise/torch.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out, {"made_with": f"torch {torch.__version__}"})


if __name__ == "__main__":
    main()

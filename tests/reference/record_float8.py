#!/usr/bin/env python3
"""Record what torch makes of eight-bit floats, in `tests/data/float8/torch.safetensors`.

For each of `e4m3` (`torch.float8_e4m3fn`) and `e5m2` (`torch.float8_e5m2`):

    <name>.decoded    f32 [256]: the number behind each code
    <name>.values     f32 [n]: numbers to round, with every tie between two neighbours and the numbers beside it
    <name>.encoded    u8 [n]: their codes

Made with torch 2.15.0 and safetensors 0.8.0 on a CPU. To make it again:

    venv/bin/python tests/reference/record_float8.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

OUTPUT = Path(__file__).resolve().parent.parent / "data" / "float8" / "torch.safetensors"
FORMATS = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def values(decoded: torch.Tensor) -> torch.Tensor:
    numbers = decoded[decoded.isfinite()].unique(sorted=True).double()
    # Exact in f32: neighbours of an eight-bit format differ by few bits.
    ties = ((numbers[1:] + numbers[:-1]) / 2).float()
    largest = numbers[-1].float()
    step = (numbers[-1] - numbers[-2]).float()
    up, down = torch.tensor(float("inf")), torch.tensor(float("-inf"))
    edges = torch.cat([numbers.float(), ties, torch.stack([largest + step / 2, largest + step, largest * 2])])
    edges = torch.cat([edges, -edges, edges.nextafter(up), edges.nextafter(down)])
    generator = torch.Generator().manual_seed(7)
    # Every exponent of f32, its subnormals included, and denser where the format has numbers.
    bits = torch.randint(-(2**31), 2**31, (1024,), generator=generator).to(torch.int32).view(torch.float32)
    scales = torch.randint(-20, 18, (2048,), generator=generator)
    dense = torch.randn(2048, generator=generator) * torch.exp2(scales.float())
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), -float("nan"), 1e-40, -1e-45, 3e38])
    return torch.cat([edges, bits, dense, special])


def main() -> None:
    tensors = {}
    for name, dtype in FORMATS.items():
        decoded = torch.arange(256, dtype=torch.uint8).view(dtype).float()
        inputs = values(decoded)
        encoded = inputs.to(dtype).view(torch.uint8)
        # The vectorised loop and the one for single numbers must agree, or there is no one answer to record.
        single = torch.stack([number.to(dtype).view(torch.uint8) for number in inputs])
        assert torch.equal(encoded, single), name
        tensors |= {f"{name}.decoded": decoded, f"{name}.values": inputs, f"{name}.encoded": encoded}
        print(name, len(inputs), "values")
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUTPUT, metadata={"made_with": f"torch {torch.__version__}"})


if __name__ == "__main__":
    main()

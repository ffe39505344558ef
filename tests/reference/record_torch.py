#!/usr/bin/env python3
"""Record small files as `torch.save` writes them, for the reader of `.pth` files, and what is in them as safetensors.

    plain.pth        a state dict with its metadata, of several kinds of numbers; two tensors in one storage
    nested.pth       dictionaries in a dictionary, beside plain values
    transposed.pth   a tensor whose rows do not follow each other: refused
    code.pth         a pickle that asks for a function to be called: refused, and not called
    legacy.pth       the format before torch 1.6: refused

Made with torch 2.15.0 and safetensors 0.8.0. To make them again:

    venv/bin/python tests/reference/record_torch.py
"""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "data" / "torch"


class Code:
    """What becomes of it when it is unpickled is a call."""

    def __reduce__(self):
        return os.system, ("echo this must never be printed",)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(15)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 5))
    plain = network.state_dict()
    both = torch.randn(6, 4)
    plain["upper"], plain["lower"] = both[:2], both[2:]
    plain["half"] = torch.randn(3).half()
    plain["bfloat"] = torch.randn(2, 3).bfloat16()
    plain["double"] = torch.randn(2).double()
    plain["number"] = torch.tensor(7.5)
    torch.save(plain, FOLDER / "plain.pth")
    save_file({key: tensor.clone() for key, tensor in plain.items()}, FOLDER / "plain.safetensors")

    inner = {"weight": torch.randn(2, 2), "layers": {0: {"bias": torch.randn(3)}}}
    state = {"model": inner, "epoch": 3, "best": -(2**40), "lr": 1e-4, "names": ["a", "b"], "done": (True, None), "size": 300}
    torch.save(state, FOLDER / "nested.pth")
    flat = {"model.weight": inner["weight"], "model.layers.0.bias": inner["layers"][0]["bias"]}
    save_file(flat, FOLDER / "nested.safetensors")

    torch.save({"turned": torch.randn(3, 2).t()}, FOLDER / "transposed.pth")
    torch.save({"weight": torch.randn(2), "code": Code()}, FOLDER / "code.pth")
    torch.save({"weight": torch.randn(2)}, FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    for path in sorted(FOLDER.iterdir()):
        path.chmod(0o644)
        print(f"{path.name:20} {path.stat().st_size:6} bytes")


if __name__ == "__main__":
    main()

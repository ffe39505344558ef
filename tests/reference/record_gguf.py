#!/usr/bin/env python3
"""Record a GGUF file with every supported tensor type, and the numbers that the `gguf` package reads from it.

`tests/data/gguf/types.gguf` holds one tensor per type under the type's name, [3, 256] random numbers each: quantised by
`gguf.quants` where it can, otherwise (K-quants) random blocks with moderate f16 scales, so that every bit of a block
counts. Beside them `vector` (one axis), `cube` (three axes) and `folded`, whose true shape stands in the metadata as
the ComfyUI converters write it, and metadata of every kind.
`tests/data/gguf/types.safetensors` holds each tensor's values in f32 under the same name and in its true shape.

Made with gguf 0.19.0, numpy 2.4.6 and safetensors 0.8.0. To make them again:

    venv/bin/python tests/reference/record_gguf.py
"""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parent.parent / "data" / "gguf"
SHAPE = (3, 256)
TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()
# Where a block keeps its f16 scales, in bytes.
SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def random_blocks(rng: np.random.Generator, name: str) -> np.ndarray:
    length, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (SHAPE[0] * SHAPE[1] // length, size), dtype=np.uint8)
    for at in SCALES[name]:
        scale = (rng.standard_normal((len(blocks), 1)) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scale.view(np.uint8)
    return blocks.reshape(SHAPE[0], -1)


def main() -> None:
    rng = np.random.default_rng(7)
    FOLDER.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(FOLDER / "types.gguf", "flux")
    expected = {}

    def add(name: str, data: np.ndarray, kind: GGMLQuantizationType, shape: tuple[int, ...] | None = None) -> None:
        writer.add_tensor(name, data, raw_dtype=kind)
        values = np.ascontiguousarray(dequantize(data, kind), dtype=np.float32)
        expected[name] = values if shape is None else values.reshape(shape)

    for name in TYPES:
        kind = GGMLQuantizationType[name]
        if name in SCALES:
            data = random_blocks(rng, name)
        else:
            data = quantize(rng.standard_normal(SHAPE, dtype=np.float32), kind)
        add(name, data, kind)
    add("vector", rng.standard_normal(7, dtype=np.float32), GGMLQuantizationType.F32)
    add("cube", rng.standard_normal((2, 3, 5), dtype=np.float32).astype(np.float16), GGMLQuantizationType.F16)
    folded = quantize(rng.standard_normal((1, 256), dtype=np.float32), GGMLQuantizationType.Q8_0)
    add("folded", folded, GGMLQuantizationType.Q8_0, (4, 2, 2, 4, 4))
    writer.add_array("comfy.gguf.orig_shape.folded", [4, 2, 2, 4, 4])

    writer.add_uint8("kind.u8", 200)
    writer.add_int8("kind.i8", -100)
    writer.add_uint16("kind.u16", 60000)
    writer.add_int16("kind.i16", -30000)
    writer.add_uint32("kind.u32", 4000000000)
    writer.add_int32("kind.i32", -2000000000)
    writer.add_uint64("kind.u64", 2**64 - 1)
    writer.add_int64("kind.i64", -(2**63))
    writer.add_float32("kind.f32", 0.1)
    writer.add_float64("kind.f64", 0.1)
    writer.add_bool("kind.bool", True)
    writer.add_string("kind.text", "größer")
    writer.add_array("kind.texts", ["a", "", "größer"])
    writer.add_array("kind.bools", [True, False])
    writer.add_array("kind.floats", [0.5, -2.0])
    writer.add_array("kind.nested", [[1, 2], [3]])

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, FOLDER / "types.safetensors", metadata={"made_with": "gguf 0.19.0"})


if __name__ == "__main__":
    main()

"""Reads the event file of a training with the `tensorboard` package and compares it with `log.jsonl`.

    python -m pip install tensorboard==2.21.0
    python tests/reference/check_tensorboard.py out/train/tiny-subject

It fails if a record is damaged, a step is missing or there twice, a number differs from the log, or a preview is no
picture.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

run = Path(sys.argv[1])
# 0 keeps everything: the default would sample.
events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
events.Reload()

logged = {}
for line in (run / "log.jsonl").read_text().splitlines():
    line = json.loads(line)
    for name, value in (line | line.pop("figures", {})).items():
        if name != "step":
            logged.setdefault(name, {})[line["step"]] = value

tags = events.Tags()
for name, values in logged.items():
    scalars = events.Scalars(name)
    steps = [scalar.step for scalar in scalars]
    assert steps == sorted(values), f"{name}: steps {steps}, logged {sorted(values)}"
    for scalar in scalars:
        value = struct.unpack("f", struct.pack("f", values[scalar.step]))[0]
        assert scalar.value == value, f"{name} of step {scalar.step} is {scalar.value}, logged {value}"
assert {"samples_per_second", "memory_gb", "peak_memory_gb"} <= set(tags["scalars"]), tags["scalars"]

pictures = events.Images("preview") if tags["images"] else []
expected = sorted(int(path.stem.removeprefix("preview-")) for path in run.glob("preview-*.png"))
assert [picture.step for picture in pictures] == expected, f"previews of {[picture.step for picture in pictures]}"
for picture in pictures:
    file = run / f"preview-{picture.step:06}.png"
    assert picture.encoded_image_string == file.read_bytes(), file
    width, height = struct.unpack(">II", picture.encoded_image_string[16:24])
    assert (picture.width, picture.height) == (width, height)
print(f"{sum(map(len, logged.values()))} numbers and {len(pictures)} previews agree with the log")

#!/bin/sh
# Times the parts of an edit beside diffusers, in rounds that take turns: what docs/performance.md shows.
#
#   tests/bench.sh OUT [ROUNDS]        with `cargo build` done, and torch, diffusers and transformers in $PYTHON
#
# Nothing else should run beside it. OUT gets a JSON file for each measurement.
set -eu
out=${1:?a folder for the figures}
rounds=${2:-2}
ace=${ACE:-target/debug/ace}
python=${PYTHON:-python3}
reference=$(dirname "$0")/reference/bench_infer.py
mkdir -p "$out"
round=1
while [ "$round" -le "$rounds" ]; do
    "$ace" bench flux --json >"$out/f32-ace-$round.json"
    "$python" "$reference" flux >"$out/f32-diffusers-$round.json"
    "$ace" bench flux --dtype bf16 --json >"$out/bf16-ace-$round.json"
    "$python" "$reference" flux --dtype bf16 >"$out/bf16-diffusers-$round.json"
    for packing in q8_0 q4_k; do
        "$ace" bench flux --quantize $packing --json >"$out/$packing-ace-$round.json"
    done
    "$ace" bench vae --size 512 --repeat 2 --json >"$out/vae-ace-$round.json"
    "$python" "$reference" vae --repeat 2 >"$out/vae-diffusers-$round.json"
    "$ace" bench edit --size 512 --steps 2 --warmup 0 --repeat 2 --json >"$out/edit-ace-$round.json"
    "$python" "$reference" edit --warmup 0 --repeat 2 >"$out/edit-diffusers-$round.json"
    round=$((round + 1))
done

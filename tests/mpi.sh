#!/bin/sh
# Training over MPI, for real: 1, 2 and 4 processes on this machine write the same bytes, a fast sum differs in its last bits
# only, all processes stop together, a killed one ends the run, and nothing hangs.
#
# usage: tests/mpi.sh [ace]
#
# Without a program it builds one with the feature `mpi`; docs/mpi.md says what that needs. It wants mpirun of Open MPI.
set -eu
cd "$(dirname "$0")/.."
command -v mpirun >/dev/null || { echo "mpirun is missing: Debian has it in openmpi-bin" >&2; exit 2; }

if [ $# -gt 0 ]; then
    ace=$1
else
    cargo build -p ace-plus -p ace-nn -p ace-kernels -p ace-weights -p ace-train -p ace-cli --features ace-cli/mpi
    ace=${CARGO_TARGET_DIR:-target}/debug/ace
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$(pwd)

# Small steps with several micro-batches each, pictures of several sizes, an average and a schedule.
recipe() { # name, lines of [optimizer]
    cat > "$work/$1.toml" <<END
name = "$1"
card = "$root/models/tiny"
train = ["flux"]
recompute = false
drop_instruction = 0.5
log_every = 1
save_every = 2
preview_every = 0
[lora]
rank = 4
alpha = 4.0
[data]
world = 64
pool = 24
[optimizer]
batch = 16
accumulate = 8
learning_rate = 2e-4
warmup = 2
ema = 0.9
$2
END
}
recipe exact "steps = 6"
recipe fast "steps = 6
reduce = \"fast\""
recipe long "steps = 100000"

# As root, and with more processes than cores, Open MPI wants to be asked twice. Nothing here may wait for ever.
launch() { # processes, then what `ace train` is told
    processes=$1
    shift
    timeout 300 mpirun --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n "$processes" "$ace" train "$@"
}
fail() {
    echo "FAILED: $1" >&2
    exit 1
}
rate() { # name, seconds
    awk -v name="$1" -v seconds="$2" 'BEGIN { printf "%-28s %5.1f s, %.1f samples/s\n", name, seconds, 6 * 16 / seconds }'
}
timed() { # name, then a command
    name=$1
    shift
    begin=$(date +%s.%N)
    "$@" > "$work/said" 2>&1 || { cat "$work/said" >&2; fail "$name"; }
    rate "$name" "$(echo "$(date +%s.%N) $begin" | awk '{ print $1 - $2 }')"
}

echo "== the same bytes from 1, 2 and 4 processes (times with start, encoding and saving)"
timed "without a launcher" timeout 300 "$ace" train --recipe "$work/exact.toml" --out "$work/alone"
for processes in 1 2 4; do
    timed "$processes under mpirun" launch $processes --recipe "$work/exact.toml" --out "$work/exact-$processes"
    for file in exact.safetensors log.jsonl checkpoint-6/weights.safetensors checkpoint-6/average.safetensors; do
        cmp "$work/alone/$file" "$work/exact-$processes/$file" || fail "$file of $processes processes"
    done
done

echo "== a fast sum"
for processes in 2 4; do
    timed "$processes, reduce = fast" launch $processes --recipe "$work/fast.toml" --out "$work/fast-$processes"
    python3 - "$work/alone/exact.safetensors" "$work/fast-$processes/fast.safetensors" <<'END' || fail "the fast sum"
import array, json, struct, sys
def values(path):
    data = open(path, "rb").read()
    size, = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    body = data[8 + size:]
    header.pop("__metadata__", None)
    return {key: array.array("f", body[slice(*entry["data_offsets"])]) for key, entry in header.items()}
one, other = map(values, sys.argv[1:])
assert one.keys() == other.keys()
worst = max(abs(a - b) for key in one for a, b in zip(one[key], other[key]))
print(f"largest difference of a weight {worst:.1e}")
sys.exit(worst > 1e-6)
END
done

echo "== one word about a mistake, from all processes together"
launch 2 --recipe "$work/exact.toml" --out "$work/exact-2" > "$work/said" 2>&1 && fail "a run was written over"
grep "a run is already here" "$work/said" || { cat "$work/said"; fail "the mistake was not told"; }
[ "$(grep -c "a run is already here" "$work/said")" = 1 ] || fail "the mistake was told twice"

newest() { ls -d "$1"/checkpoint-* | sed 's/.*checkpoint-//' | sort -n | tail -1; }
# Waits until a run has a checkpoint.
saved() { # folder
    tries=0
    until [ -f "$1/checkpoint-$(newest "$1" 2>/dev/null)/state.json" ]; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || fail "no checkpoint in $1"
        sleep 0.1
    done
}
# The processes that write to a folder, but for the launcher.
workers() { pgrep -f "^$ace train .*--out $1\$"; }

echo "== a failure of one process alone ends the others, though they wait for it"
mkdir -p "$work/alone-fails/loss.png"
launch 2 --recipe "$work/exact.toml" --steps 2 --out "$work/alone-fails" > "$work/said" 2>&1 && fail "no failure"
grep "error: rank 0: " "$work/said" || { cat "$work/said"; fail "nobody said who failed"; }

echo "== asked to stop, all stop at one step"
launch 2 --recipe "$work/long.toml" --out "$work/stopped" > "$work/said" 2>&1 &
launcher=$!
saved "$work/stopped"
# The launcher passes it on.
kill -USR1 $(pgrep -f "^mpirun .*--out $work/stopped\$")
wait $launcher && fail "a run that was stopped ended well"
grep "stopped and saved at step" "$work/said" || { cat "$work/said"; fail "it did not stop"; }
[ -z "$(workers "$work/stopped")" ] || fail "a process is left"

for victim in 1 2; do
    echo "== killed: process $victim of 2"
    rm -rf "$work/killed"
    launch 2 --recipe "$work/long.toml" --out "$work/killed" > "$work/said" 2>&1 &
    launcher=$!
    saved "$work/killed"
    kill -KILL $(workers "$work/killed" | sed -n "${victim}p")
    begin=$(date +%s)
    wait $launcher && fail "a run that was killed ended well"
    echo "ended after $(($(date +%s) - begin)) s"
    grep "is saved whole" "$work/said" || { cat "$work/said"; fail "nobody said what can be resumed"; }
    [ -z "$(workers "$work/killed")" ] || fail "a process is left"
    step=$(($(newest "$work/killed") + 2))
    launch 2 --recipe "$work/long.toml" --steps $step --resume --out "$work/killed" > "$work/said" 2>&1 ||
        { cat "$work/said"; fail "it does not go on"; }
    timeout 300 "$ace" train --recipe "$work/long.toml" --steps $step --out "$work/again" > /dev/null 2>&1 || fail "again"
    for file in weights.safetensors average.safetensors; do
        cmp "$work/killed/checkpoint-$step/$file" "$work/again/checkpoint-$step/$file" || fail "$file after a kill"
    done
    echo "resumed to step $step: the bytes of a run without a kill"
    rm -rf "$work/again"
done
echo "all well"

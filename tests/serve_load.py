#!/usr/bin/env python3
"""Load on `ace serve` with the miniature: 1000 edits one after the other, 100 clients at once, memory on the way.

    cargo build --release -p ace-cli
    python3 tests/serve_load.py target/release/ace [EDITS]

Overhead is the time a client waits minus the time the edit itself took (the answer's openai-processing-ms): connection,
form, queue, disk, PNG and base64. Needs nothing but Python.
"""

import base64
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time

PROGRAM = sys.argv[1]
EDITS = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
CLIENTS = 100


def url(path):
    with open(path, "rb") as file:
        return "data:image/png;base64," + base64.b64encode(file.read()).decode()


BODY = {
    "prompt": "make the circle green",
    "task": "recolor",
    "images": [url("models/tiny/examples/image.png")],
    "mask": url("models/tiny/examples/mask.png"),
}


def ask(connection, seed):
    begin = time.perf_counter()
    body = json.dumps({**BODY, "seed": seed})
    connection.request("POST", "/v1/images/edits", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    waited = 1e3 * (time.perf_counter() - begin)
    return answer.status, waited, float(answer.headers.get("openai-processing-ms", "nan"))


def resident(pid):
    with open(f"/proc/{pid}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) / 1024


def share(values, part):
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


with tempfile.TemporaryDirectory() as folder:
    options = ["--listen", "127.0.0.1:0", "--state", folder, "--max-queue", str(CLIENTS)]
    server = subprocess.Popen([PROGRAM, "serve", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = re.search(r"http://(\S+)", server.stdout.readline()).group(1)
    try:
        connection = http.client.HTTPConnection(address)
        overheads, edits = [], []
        for nth in range(EDITS):
            status, waited, took = ask(connection, nth)
            assert status == 200, status
            if nth > 0:
                overheads.append(waited - took)
                edits.append(took)
            if nth in (10, EDITS // 4, EDITS // 2, 3 * EDITS // 4, EDITS - 1):
                print(f"after {nth + 1} edits: {resident(server.pid):.0f} MiB resident")
        print(f"edit: p50 {share(edits, 0.5):.0f} ms, p99 {share(edits, 0.99):.0f} ms")
        print(f"overhead: p50 {share(overheads, 0.5):.1f} ms, p99 {share(overheads, 0.99):.1f} ms")

        answers = []

        def one(seed):
            answers.append(ask(http.client.HTTPConnection(address), seed))

        begin = time.perf_counter()
        threads = [threading.Thread(target=one, args=[seed]) for seed in range(CLIENTS)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        seconds = time.perf_counter() - begin
        good = sum(status == 200 for status, _, _ in answers)
        print(f"{CLIENTS} clients at once: {good} answered with a picture in {seconds:.1f} s, {CLIENTS / seconds:.1f} edits a second")
        print(f"at the end: {resident(server.pid):.0f} MiB resident")
        assert good == CLIENTS
    finally:
        server.terminate()
        server.wait()

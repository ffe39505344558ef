// Holds the model. It computes on this worker's one thread, so nothing is heard while an edit runs: who wants it to stop
// ends the worker.
import init, { Loading } from "./ace_web.js";

let engine = null;

const calls = {
  // Compiles and loads. What was compiled goes back, so that the next worker need not do it again.
  async open({ wasm, files, adapters }) {
    const module = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
    await init({ module_or_path: module });
    const loading = new Loading();
    for (const [name, bytes] of files) loading.add(name, new Uint8Array(bytes));
    engine = loading.open(adapters);
    const example = engine.example();
    return { module, models: JSON.parse(engine.models()), example: example ? JSON.parse(example) : null };
  },

  run({ message, adapters }, tell) {
    for (const [name, bytes] of adapters) engine.addAdapter(name, new Uint8Array(bytes));
    return engine.run(JSON.stringify(message), (name, data) => tell(name, JSON.parse(data)));
  },

  async provenance({ blob }) {
    return JSON.parse(engine.provenance(new Uint8Array(await blob.arrayBuffer())));
  },
};

self.onmessage = async ({ data: { id, call, given } }) => {
  try {
    const value = await calls[call](given, (name, data) => self.postMessage({ id, event: [name, data] }));
    self.postMessage({ id, value });
  } catch (error) {
    // Rust has panicked, or memory is used up: the engine cannot go on.
    const broken = error instanceof WebAssembly.RuntimeError || error instanceof RangeError;
    const message = broken ? `the engine stopped: ${self.aceFailure ?? error.message}` : error.message;
    self.postMessage({ id, error: { message, hint: error.hint ?? null, code: error.code ?? "internal", broken } });
  }
};

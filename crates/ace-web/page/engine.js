// What computes behind the painting page, in place of the HTTP server: a worker with the model in it.
//
// The model is fetched once: its files stay in the browser's cache under their digests. `files.json` lists them.

const HERE = new URL("./", import.meta.url);

/** Fetches and loads everything. `onProgress({loaded, total, what})` hears of bytes. */
export async function open(onProgress = () => {}) {
  const listing = await listed();
  const all = [listing.wasm, ...listing.files];
  const total = all.reduce((sum, file) => sum + file.bytes, 0);
  let loaded = 0;
  const shelf = await Shelf.open(listing);
  const [wasm, ...files] = await Promise.all(
    all.map((file) =>
      shelf.bytes(file, (count) => onProgress({ loaded: (loaded += count), total, what: "the model" })),
    ),
  );
  await shelf.tidy();
  const engine = new Engine(listing, shelf, wasm, files);
  await engine.ready;
  return engine;
}

/** Cancels nothing, waits for nobody: one thing after the other, each answered once. */
class Engine {
  /** The model and its first edit, once the first worker has told. */
  ready;
  #listing;
  #shelf;
  /** What a worker is opened with. */
  #given;
  #told = null;
  /** Bytes of adapters that were fetched, by their names. */
  #adapters = new Map();
  #worker = null;
  /** What was asked, in this order; the first is being answered. */
  #asked = [];
  #count = 0;

  constructor(listing, shelf, wasm, files) {
    this.#listing = listing;
    this.#shelf = shelf;
    const adapters = listing.adapters.map((file) => file.name);
    this.#given = { wasm, files: listing.files.map((file, at) => [file.name, files[at]]), adapters };
    this.ready = this.#start();
    // Whoever opens the engine hears of it.
    this.ready.catch(() => {});
  }

  async models() {
    return this.#told.models;
  }

  async example() {
    return this.#told.example;
  }

  /** What made a picture; null if it does not say. */
  async provenance(blob) {
    try {
      return await this.#ask("provenance", { blob });
    } catch (error) {
      if (error.code === "invalid_request") return null;
      throw error;
    }
  }

  /** One edit. Abort `signal` to cancel it. */
  async run(message, onEvent = () => {}, signal) {
    const adapters = await this.#fetchAdapters(message, onEvent);
    const begin = { at: performance.now() };
    const { pictures, latents, seed, notes } = await this.#ask("run", { message, adapters }, { onEvent, signal, begin });
    // Unlike that of any visit before: the page keeps its turns under it.
    const id = `here-${Date.now().toString(36)}-${(this.#count += 1)}`;
    const seconds = (performance.now() - begin.at) / 1000;
    const blobs = pictures.map((bytes) => new Blob([bytes], { type: "image/png" }));
    return { id, pictures: blobs, latents, seed, seconds, notes };
  }

  /** Files of the adapters that a message names; a worker that has one already keeps its own. */
  async #fetchAdapters(message, onEvent) {
    const names = (message.loras ?? []).map((lora) => lora.name);
    const files = this.#listing.adapters.filter((file) => names.includes(file.name));
    if (files.some((file) => !this.#adapters.has(file.name))) onEvent("stage", { stage: "load" });
    for (const file of files) {
      if (!this.#adapters.has(file.name)) this.#adapters.set(file.name, await this.#shelf.bytes(file, () => {}));
    }
    return files.map((file) => [file.name, this.#adapters.get(file.name)]);
  }

  /** A worker with the model in it. */
  async #start() {
    const worker = new Worker(new URL("worker.js", HERE), { type: "module" });
    this.#worker = worker;
    const opened = await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => (data.error ? reject(failure(data.error)) : resolve(data.value));
      worker.onerror = (event) =>
        reject(failure({ message: `the engine does not start: ${event.message ?? "its worker cannot be loaded"}`, hint: OLD }));
      worker.postMessage({ id: 0, call: "open", given: this.#given });
    });
    const { module, ...told } = opened;
    this.#given.wasm = module;
    this.#told = told;
    worker.onmessage = ({ data }) => this.#hear(data);
    worker.onerror = (event) => this.#hear({ error: { message: event.message, broken: true } });
  }

  #ask(call, given, { onEvent, signal, begin } = {}) {
    return new Promise((resolve, reject) => {
      const task = { call, given, onEvent, begin, resolve, reject };
      const cancel = () => this.#cancel(task);
      task.settled = () => signal?.removeEventListener("abort", cancel);
      if (signal?.aborted) return reject(cancelled());
      signal?.addEventListener("abort", cancel);
      this.#asked.push(task);
      const ahead = this.#asked.length - 1;
      if (ahead > 0) onEvent?.("queued", { position: ahead });
      else this.#next();
    });
  }

  /** Hands the first of what was asked to the worker. */
  async #next() {
    const task = this.#asked[0];
    if (!task) return;
    try {
      await this.ready;
    } catch (error) {
      return this.#settle(task, () => task.reject(error));
    }
    // It may have been cancelled meanwhile, and the next one begun.
    if (task !== this.#asked[0] || task.isWith === this.#worker) return;
    task.isWith = this.#worker;
    if (task.begin) task.begin.at = performance.now();
    this.#worker.postMessage({ id: 0, call: task.call, given: task.given });
  }

  #hear({ event, value, error }) {
    const task = this.#asked[0];
    if (error?.broken) this.#restart();
    if (!task) return;
    if (event) return task.onEvent?.(...event);
    this.#settle(task, () => (error ? task.reject(failure(error)) : task.resolve(value)));
  }

  #settle(task, answer) {
    this.#asked = this.#asked.filter((other) => other !== task);
    task.settled();
    answer();
    this.#next();
  }

  /** Only ending the worker stops what runs in it; the next one has everything at hand. */
  #cancel(task) {
    if (!this.#asked.includes(task)) return;
    if (task.isWith) this.#restart();
    this.#settle(task, () => task.reject(cancelled()));
  }

  #restart() {
    this.#worker.terminate();
    this.ready = this.#start();
    this.ready.catch(() => {});
  }
}

/** Files that are kept from one visit to the next, where the browser allows it: on https and on this machine. */
class Shelf {
  #cache;
  #wanted;

  static async open(listing) {
    const shelf = new Shelf();
    const all = [listing.wasm, ...listing.files, ...listing.adapters];
    shelf.#wanted = new Set(all.map(address));
    // Without it everything is fetched again.
    shelf.#cache = await self.caches?.open(`ace ${HERE.pathname}`).catch(() => null);
    return shelf;
  }

  /** The bytes of a file; `hear` is told of each part's length. */
  async bytes(file, hear) {
    const url = address(file);
    const kept = await this.#cache?.match(url);
    const response = kept ?? (await fetched(url));
    const bytes = new Uint8Array(file.bytes);
    let at = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      if (at + value.length > bytes.length) throw damaged(file);
      bytes.set(value, at);
      at += value.length;
      hear(value.length);
    }
    if (at !== bytes.length || (!kept && !(await fits(bytes, file.sha256)))) throw damaged(file);
    if (!kept) {
      // A full disk is no reason not to edit.
      await this.#cache?.put(url, new Response(bytes)).catch(() => {});
    }
    return bytes;
  }

  /** Throws out what earlier versions of this page have left. */
  async tidy() {
    for (const request of (await this.#cache?.keys()) ?? []) {
      if (!this.#wanted.has(request.url)) await this.#cache.delete(request);
    }
  }
}

const OLD = "a browser with WebAssembly and its vectors is needed: Chrome 91, Firefox 114, Safari 16.4 or later";

/** The digest stands in the address, so that another version of a file is another file to every cache on the way. */
function address(file) {
  return new URL(`${file.path}?${file.sha256.slice(0, 16)}`, HERE).href;
}

async function listed() {
  return (await fetched(new URL("files.json", HERE), { cache: "no-cache" })).json();
}

async function fetched(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw failure({ message: `${url} cannot be fetched: ${error.message}`, hint: "try again when the server answers" });
  }
  if (response.ok) return response;
  throw failure({ message: `${url} cannot be fetched: ${response.status}`, hint: "put the whole folder on the server" });
}

/** Whether bytes have this digest, where the browser computes digests. */
async function fits(bytes, sha256) {
  if (!self.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

function damaged(file) {
  return failure({ message: `${file.path} did not arrive whole`, hint: "load the page again" });
}

function cancelled() {
  return Object.assign(failure({ message: "cancelled", code: "cancelled" }), { name: "AbortError" });
}

function failure({ message, hint = null, code = "internal" }) {
  return Object.assign(new Error(message), { hint, code });
}

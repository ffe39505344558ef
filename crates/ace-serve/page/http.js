// The engine that computes on a server: edits over `ace serve`'s own routes.
//
// What computes is one object with `models`, `example`, `provenance`, `run` and, here, `resume`; a page that has
// `<meta name="ace-engine">` takes another one. A server that is away is waited for: a job is on its disk, and asking
// for it again with the same key makes it once.

/** Milliseconds until the server is asked again, while it is away. */
const WAITS = [500, 1000, 2000, 3000, 5000];
/** Milliseconds without a word after which a stream is opened anew: a line may be dead without saying so. */
const SILENCE = 60_000;
const LAST = ["done", "failed", "cancelled"];

/** What went wrong: `message`, `hint` and `code` are for people. */
export class EngineError extends Error {
  constructor(message, { hint = "", code = "", status = 0 } = {}) {
    super(message);
    Object.assign(this, { hint, code, status });
  }
}

export function cancelled() { return new EngineError("Cancelled.", { code: "cancelled" }); }

const pause = (milliseconds, signal) => new Promise((resolve, reject) => {
  const stop = () => { clearTimeout(timer); reject(cancelled()); };
  const timer = setTimeout(() => { signal?.removeEventListener("abort", stop); resolve(); }, milliseconds);
  if (signal?.aborted) return stop();
  signal?.addEventListener("abort", stop, { once: true });
});

/** `ask(why)` gives the token that the server wants, or null. */
export async function open(_onProgress, ask) { return new Server(ask); }

class Server {
  #ask;
  constructor(ask) { this.#ask = ask; }

  models() { return this.#json("models"); }
  async example() { return this.#json("example").catch(error => missing(error)); }

  provenance(blob) {
    return this.#json("provenance", { method: "POST", headers: { "Content-Type": "image/png" }, body: blob })
      .catch(error => (error.status >= 400 && error.status < 500 && error.status !== 401 ? null : Promise.reject(error)));
  }

  /** Runs an edit; `key` names it, so that it is made once however often it is asked for. */
  async run(message, onEvent, signal, key) {
    const headers = { "Content-Type": "application/json", ...(key && { "Idempotency-Key": key }) };
    const request = { method: "POST", headers, body: JSON.stringify(message) };
    for (let tries = 0; ; tries++) {
      try {
        const job = await this.#json("jobs", request);
        if (tries) onEvent("back", {});
        onEvent("accepted", job);
        return await this.resume(job.id, onEvent, signal);
      } catch (error) {
        if (error.code !== "away" && error.status !== 429) throw error;
        const wait = error.after ?? WAITS[Math.min(tries, WAITS.length - 1)];
        onEvent(error.code === "away" ? "away" : "busy", { seconds: wait / 1000 });
        await pause(wait, signal);
      }
    }
  }

  /** Goes on with an edit that was accepted before. */
  async resume(id, onEvent, signal) {
    const stop = () => this.#json(`jobs/${id}`, { method: "DELETE" }).catch(() => {});
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
    try {
      const job = await this.#follow(id, onEvent, signal);
      if (job.state === "cancelled") throw cancelled();
      if (job.state === "failed") {
        const { message = "The edit failed.", hint, code } = job.error ?? {};
        throw new EngineError(message, { hint: hint ?? "", code: code ?? "failed" });
      }
      const pictures = [];
      for (let at = 0; at < job.pictures.length; at++) pictures.push(await this.#picture(id, at, onEvent, signal));
      return { id, pictures, seed: job.seed, seconds: job.seconds, notes: job.notes ?? [] };
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  // The events of a job until its last, over as many connections as it takes.
  async #follow(id, onEvent, signal) {
    for (let tries = 0, away = false; ; tries++) {
      try {
        const response = await this.#fetch(`jobs/${id}/events`, { headers: { Accept: "text/event-stream" } });
        if (away) onEvent("back", {});
        away = false;
        for await (const [name, data] of events(response.body)) {
          tries = 0;
          if (LAST.includes(name)) return { ...data, state: data.state ?? name };
          onEvent(name, data);
        }
      } catch (error) {
        if (error.status === 404) {
          const hint = "Run it again; the mask and the words are still here.";
          throw new EngineError("The server no longer knows this edit.", { hint, code: "gone", status: 404 });
        }
        if (error instanceof EngineError && error.code !== "away") throw error;
      }
      if (signal?.aborted && away) throw cancelled();
      // A stream that ends early is asked for again at once; where the server does not answer, it is away.
      const wait = WAITS[Math.min(tries, WAITS.length - 1)];
      const answers = await this.#fetch(`jobs/${id}`).then(() => true, error => error.code !== "away");
      if (!answers) {
        away = true;
        onEvent("away", { seconds: wait / 1000 });
      }
      await pause(wait, answers ? undefined : signal);
    }
  }

  async #picture(id, at, onEvent, signal) {
    for (let tries = 0; ; tries++) {
      try {
        return await (await this.#fetch(`jobs/${id}/pictures/${at}`)).blob();
      } catch (error) {
        if (error.code !== "away" && !(error instanceof TypeError)) throw error;
        const wait = WAITS[Math.min(tries, WAITS.length - 1)];
        onEvent("away", { seconds: wait / 1000 });
        await pause(wait, signal);
      }
    }
  }

  async #json(path, request) { return (await this.#fetch(path, request)).json(); }

  async #fetch(path, request = {}) {
    for (let asked = false; ; asked = true) {
      const token = sessionStorage.getItem("ace-token");
      const headers = { ...request.headers, ...(token && { Authorization: `Bearer ${token}` }) };
      let response;
      try {
        response = await fetch(new URL(`ace/v1/${path}`, document.baseURI), { ...request, headers, cache: "no-store" });
      } catch {
        throw new EngineError("The server does not answer.", { hint: "It is asked again until it is back.", code: "away" });
      }
      if (response.ok) return response;
      const { error = {} } = await response.json().catch(() => ({}));
      if (response.status === 401) {
        const given = await this.#ask?.(asked || token ? "The server does not know this token." : "");
        if (given) {
          sessionStorage.setItem("ace-token", given);
          continue;
        }
      }
      // What stands before a server says so while the server itself is away.
      const away = [502, 503, 504].includes(response.status);
      const problem = new EngineError(error.message ?? `The server answered with ${response.status}.`, {
        hint: error.hint ?? "", code: away ? "away" : error.code ?? "", status: response.status,
      });
      const after = Number(response.headers.get("Retry-After"));
      if (after > 0) problem.after = after * 1000;
      throw problem;
    }
  }
}

function missing(error) {
  if (error.status === 404) return null;
  throw error;
}

// Server-sent events, read by hand because EventSource cannot send a token.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      let timer;
      const silence = new Promise(resolve => { timer = setTimeout(() => resolve({ done: true }), SILENCE); });
      const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      text = (text + value).replaceAll("\r\n", "\n");
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const lines = text.slice(0, end).split("\n");
        const field = name => lines.filter(line => line.startsWith(`${name}:`)).map(line => line.slice(name.length + 1).trimStart());
        const data = field("data").join("\n");
        if (data) yield [field("event")[0] ?? "message", JSON.parse(data)];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

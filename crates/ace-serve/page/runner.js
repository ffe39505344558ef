// An edit from the click to its end: sent, watched, cancelled, and gone on with after a reload.

import { message, Missing } from "./asked.js";
import { announce, fail, say } from "./notice.js";
import { fresh } from "./turns.js";

const $ = id => document.getElementById(id);
const STAGES = {
  load: "Loading the model", text: "Reading the words", encode: "Looking at the pictures", denoise: "Painting", decode: "Finishing",
};

export class Runner {
  /** The edit that runs: `{key, id, message, asked, parent, replay}`; `picture` is what it looks like so far. */
  job = null;
  picture = null;
  #abort = null;
  #starting = false;
  /** Quarters of the steps that were said aloud. */
  #quarter = 0;

  /** `hooks`: changed() when an edit begins or ends, preview() with each picture on the way, made(job, result). */
  constructor(engine, store, hooks) { Object.assign(this, { engine, store, hooks }); }

  /** Runs what `put` gives, `{asked, parent, picture, replay}`, unless an edit runs: another click is none then. */
  async begin(put, limits) {
    if (this.job || this.#starting) return;
    this.#starting = $("run").disabled = true;
    try {
      const what = await put();
      if (what) await this.#start(what, limits);
    } catch (error) {
      fail(error);
    } finally {
      this.#starting = $("run").disabled = false;
    }
  }

  async #start({ asked, parent, picture, replay = null }, limits) {
    const whole = await message(asked, picture);
    const most = limits.max_body_bytes;
    if (most && JSON.stringify(whole).length > most) {
      const hint = `More than ${Math.round(most / 1e6)} MB is not taken here.`;
      throw new Missing("Pictures and masks are too large together.", hint);
    }
    say("");
    const job = { key: fresh(), id: null, message: whole, asked, parent, replay };
    await this.#store(job);
    await this.resume(job);
  }

  #store(job) { return this.store.put("state", job, `job ${job.key}`); }

  /** Waits for an edit, new or from before a reload: in one tab of several. */
  async resume(job) {
    if (!navigator.locks) return this.#follow(job);
    return navigator.locks.request(`ace-${job.key}`, { ifAvailable: true }, lock => lock && this.#follow(job));
  }

  async #follow(job) {
    this.job = job;
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    this.#show(true);
    const onEvent = (name, data) => {
      if (name === "accepted") {
        job.id = data.id;
        this.#store(job);
      }
      this.#progress(name, data);
    };
    try {
      const result = job.id && this.engine.resume
        ? await this.engine.resume(job.id, onEvent, signal)
        : await this.engine.run(job.message, onEvent, signal, job.key);
      await this.hooks.made(job, result);
    } catch (error) {
      if (error.code === "cancelled" || signal.aborted) {
        say("Cancelled.", "The mask and the words are still here.");
        announce("Cancelled");
      } else fail(error);
    } finally {
      await this.store.remove("state", `job ${job.key}`);
      this.job = this.picture = null;
      this.#show(false);
    }
  }

  cancel() {
    if (!this.job) return;
    $("cancel").disabled = true;
    $("progress-text").textContent = "Cancelling";
    this.#abort.abort();
  }

  #show(on) {
    $("run").hidden = on;
    $("cancel").hidden = !on;
    $("cancel").disabled = false;
    $("progress-row").hidden = !on;
    $("progress").removeAttribute("value");
    $("progress-text").textContent = "Sending";
    document.title = "ACE++";
    if (on) announce("Running");
    this.hooks.changed();
  }

  #progress(name, data) {
    const [bar, text] = [$("progress"), $("progress-text")];
    if (name === "away") {
      text.textContent = "The server is away. Waiting for it; nothing is lost.";
      say("The server is away.", "The page waits for it and goes on with the same edit.", { stays: true });
      bar.removeAttribute("value");
    } else if (name === "back") {
      say("The server is back.", "The edit goes on.");
    } else if (name === "busy") {
      text.textContent = `The server has much to do. Asked again in ${Math.ceil(data.seconds)} s.`;
    } else if (name === "queued") {
      bar.removeAttribute("value");
      text.textContent = data.position > 0 ? `Waiting, ${data.position} before it` : "Waiting";
      announce(text.textContent);
    } else if (name === "stage") {
      this.#quarter = 0;
      text.textContent = STAGES[data.stage] ?? data.stage;
      if (data.stage === "load") announce(text.textContent);
      if (data.stage !== "denoise" && data.stage !== "decode") bar.removeAttribute("value");
    } else if (name === "step" || name === "preview") {
      bar.max = data.of;
      bar.value = data.done;
      text.textContent = `Step ${data.done} of ${data.of}`;
      document.title = `${Math.round(100 * data.done / data.of)} % · ACE++`;
      const quarter = Math.floor(4 * data.done / data.of);
      if (quarter > this.#quarter) announce(`${quarter * 25} percent`);
      this.#quarter = quarter;
      if (name === "preview") {
        this.picture = data.picture;
        this.hooks.preview();
      }
    }
  }
}

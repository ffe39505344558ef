// The page: pictures in, masks painted, edits run, turns kept. What computes is an engine (http.js, or the one that the
// document names), what is painted is in mask.js and stage.js, what is asked in form.js, what was made in turns.js.

import { dataUrl, fromDataUrl, isSame, maskOf, maskUrl, pixelsOf, readPicture, thumb } from "./files.js";
import { Form, make } from "./form.js";
import * as http from "./http.js";
import { Masks } from "./mask.js";
import { Stage } from "./stage.js";
import { fresh, Store, Turns } from "./turns.js";

const $ = id => document.getElementById(id);
const EXAMPLE = "example";
const STAGES = { load: "Loading the model", text: "Reading the words", encode: "Looking at the pictures", denoise: "Painting", decode: "Finishing" };
/** Milliseconds until what was painted or said is stored. */
const SETTLE = 250;

let engine;
let store;
let turns;
let example = null;
/** What is painted and said on each turn: `{id, masks, words, active, feather}`. */
const drafts = new Map();
let draft = null;
/** The edit that runs: `{key, id, message, asked, parent, replay}` and its AbortController. */
let running = null;
/** Whether one is being put together; another click is none then. */
let starting = false;

const form = new Form({
  changed: () => settle(),
  select: mask => { if (draft && draft.active !== mask) selectMask(mask); },
  removeMask: mask => {
    draft.masks.push({ kind: "remove", mask });
    painted();
  },
  picture: async file => (await take(file))?.blob,
  turn: id => turns.all.get(id)?.picture,
});

const stage = new Stage({
  starts: () => stage.element.classList.remove("looking"),
  painted: () => painted(),
  sized: (size, most) => {
    $("size").max = most;
    $("size").value = size;
    $("size-out").textContent = size;
  },
  pointed: (x, y, isDown) => announce(`${x}, ${y}${isDown ? ", painting" : ""}`),
});

// ---- saying things

let noticeTimer;

/** One clear line, and what can be done about it. */
function say(text, hint = "", { bad = false, stays = bad } = {}) {
  clearTimeout(noticeTimer);
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", bad);
  $("notice").setAttribute("role", bad ? "alert" : "status");
  $("notice-text").textContent = text;
  $("notice-hint").textContent = hint;
  if (text && !stays) noticeTimer = setTimeout(() => say(""), 9000);
}

const fail = error => say(sentence(error.message), error.hint ? sentence(error.hint) : "", { bad: true });
const sentence = text => (text ? text[0].toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".") : "");
function announce(text) { $("live").textContent = text; }

function dialog(id) {
  return new Promise(resolve => {
    $(id).returnValue = "";
    $(id).addEventListener("close", () => resolve($(id).returnValue), { once: true });
    $(id).showModal();
  });
}

async function sure(text, yes) {
  $("ask-text").textContent = text;
  $("ask-ok").textContent = yes;
  return await dialog("ask") === "ok";
}

let asking = null;
/** The token that the server wants, asked for once however many requests wait for it. */
function askToken(why) {
  asking ??= (async () => {
    $("token-why").textContent = why || "Whoever started it has it.";
    $("token-value").value = "";
    const answer = await dialog("token");
    asking = null;
    return answer === "ok" ? $("token-value").value.trim() : null;
  })();
  return asking;
}

// ---- pictures in

/** Reads a picture under the engine's limits, and says what is wrong with it. */
async function take(file) {
  const read = await readPicture(file, form.limits.max_pixels ?? Infinity);
  if (!read) {
    const name = file.name ? `“${file.name}”` : "That";
    say(`${name} is not a picture that this browser can read.`, "PNG, JPEG and WebP are.", { bad: true });
    return null;
  }
  if (read.scaledFrom) {
    const [from, to] = [read.scaledFrom.join(" × "), `${read.width} × ${read.height}`];
    say(`The picture was ${from} and is now ${to} pixels.`, "More is not taken here.");
  }
  return read;
}

async function open(file) {
  const read = await take(file);
  if (!read) return;
  if (!read.scaledFrom) say("");
  const made = await engine.provenance(read.blob).catch(() => null);
  await forgetExample();
  let turn = null;
  for (const known of turns.all.values()) if (await isSame(known.picture, read.blob)) turn = known;
  if (!turn) {
    turn = await newTurn(fresh(), null, read, { words: made?.request?.instruction ?? file.name ?? "", made });
    await turns.add(turn);
  }
  await go(turn.id);
  if (made) await putBack(made);
  else warnOfDomain(read);
}

async function newTurn(id, parent, { blob, width, height }, more) {
  return { id, parent, picture: blob, thumb: await thumb(blob, width, height), width, height, created: Date.now(), ...more };
}

function warnOfDomain({ width, height, scaledFrom }) {
  const { model } = form;
  if (scaledFrom || !model?.max_side || Math.max(width, height) <= model.max_side) return;
  say(`This model knows ${model.about ?? "small pictures"}.`, `A picture of ${width} × ${height} may come back poor.`);
}

/** Puts back the settings that a picture says it was made with. */
async function putBack({ request, version }) {
  const name = request.model?.name ?? (typeof request.model === "string" ? request.model : undefined);
  const known = !name || form.models.some(model => model.id === name);
  form.putBack({
    ...request, model: name,
    loras: request.loras ?? (request.model?.loras ?? []).map(lora => ({ name: lora.file.path.split(/[\\/]/).pop().replace(/\.\w+$/, ""), weight: lora.weight })),
  });
  const regions = request.regions ?? [];
  const words = regions.length ? regions.map(region => region.instruction) : [request.instruction ?? ""];
  while (draft.masks.ids.length < words.length) draft.masks.add();
  draft.masks.ids.forEach((mask, at) => draft.words.set(mask, words[at] ?? ""));
  setFeather(request.feather ?? 0);
  drawWords();
  settle();
  const hint = known ? "Its words and settings are put back." : `Its words and settings are put back, but for the model “${name}”, which is not here.`;
  say(`This picture was made by ace${version ? ` ${version}` : ""}.`, hint);
}

// ---- turns and drafts

/** Shows a turn, with what was painted and said on it. */
async function go(id) {
  await saveDraft();
  await turns.go(id === EXAMPLE ? null : id);
  turns.head = id;
  const turn = turns.current;
  const before = turns.parent(turn);
  draft = await draftOf(turn);
  await stage.show(turns.url(turn), turns.url(before), turn?.width ?? 0, turn?.height ?? 0);
  stage.element.classList.remove("looking");
  $("feather").max = Math.max(8, Math.round(Math.max(turn?.width ?? 64, turn?.height ?? 64) / 8));
  stage.setSize(draft.size ?? Math.max(turn?.width ?? 64, turn?.height ?? 64) / 9);
  setFeather(draft.feather);
  stage.use(draft.masks, draft.active);
  drawAll();
}

async function draftOf(turn) {
  const id = turn?.id ?? "none";
  if (!drafts.has(id)) {
    const pixels = turn ? await pixelsOf(turn.picture) : null;
    const masks = new Masks(turn?.width ?? 1, turn?.height ?? 1, pixels);
    const stored = turn?.id === EXAMPLE ? null : await store.get("drafts", id);
    const one = { id, masks, words: new Map(stored?.words ?? []), active: stored?.active ?? 1, feather: stored?.feather ?? 0, size: stored?.size };
    if (stored) masks.load(stored.masks);
    masks.changed = (mask, box) => { if (draft === one) stage.redraw(mask, box); };
    drafts.set(id, one);
  }
  return drafts.get(id);
}

let settling;
function settle() {
  clearTimeout(settling);
  settling = setTimeout(() => saveDraft(), SETTLE);
}

async function saveDraft() {
  clearTimeout(settling);
  if (!draft || draft.id === EXAMPLE) return;
  const { id, masks, words, active, feather } = draft;
  await store.put("drafts", { masks: masks.save(), words: [...words], active, feather, size: stage.size }, id);
  const { references, map, models } = form;
  if (models.length) await store.put("state", { ...form.settings(), seed: $("seed").value, references, map, tool: stage.tool }, "form");
}

/** The example becomes a turn like any other once something is done with it. */
async function keepExample() {
  const turn = turns.all.get(EXAMPLE);
  if (!turn) return;
  turns.all.delete(EXAMPLE);
  turn.id = fresh();
  drafts.set(turn.id, Object.assign(drafts.get(EXAMPLE), { id: turn.id }));
  drafts.delete(EXAMPLE);
  const isHead = turns.head === EXAMPLE;
  await turns.add(turn);
  if (isHead) await turns.go(turn.id);
  drawAll();
}

async function forgetExample() {
  if (!turns.all.has(EXAMPLE)) return;
  turns.all.delete(EXAMPLE);
  drafts.delete(EXAMPLE);
  draft = null;
  turns.head = null;
}

async function showExample() {
  example ??= await engine.example().catch(() => null);
  if (!example) return drawAll();
  const blob = fromDataUrl(example.image);
  const read = await readPicture(blob);
  turns.all.set(EXAMPLE, await newTurn(EXAMPLE, null, read, { words: "Example" }));
  await go(EXAMPLE);
  if (example.mask) draft.masks.push({ kind: "load", mask: 1, data: await maskOf(example.mask, read.width, read.height) });
  draft.words.set(1, example.instruction ?? "");
  if (example.task) form.setTask(example.task);
  drawAll();
}

async function remove(id) {
  const turn = turns.all.get(id);
  if (!turn) return;
  const after = turns.children(id).length;
  if (!await sure(after ? "Delete this turn and all that follow from it?" : "Delete this turn?", "Delete")) return;
  const back = turn.parent;
  draft = null;
  await turns.remove(id);
  await go(turns.all.has(turns.head) ? turns.head : back ?? [...turns.all.keys()].at(-1) ?? null);
  if (!turns.all.size) await showExample();
}

async function forget() {
  if (!await sure("Forget all turns, masks and settings kept in this browser?", "Forget all")) return;
  running?.abort.abort();
  draft = null;
  drafts.clear();
  for (const id of [...turns.all.keys()]) await turns.remove(id);
  await store.clear();
  await go(null);
  await showExample();
}

function turnUndo() { if (turns.current?.parent) go(turns.current.parent); }
function turnRedo() {
  const next = turns.head && turns.next(turns.head);
  if (next) go(next);
}

// ---- drawing what there is

function drawAll() {
  const turn = turns.current;
  stage.canPaint = Boolean(turn);
  stage.element.classList.toggle("paints", stage.canPaint);
  stage.element.dataset.tool = stage.tool;
  $("welcome").hidden = turns.head !== EXAMPLE || Boolean(running);
  $("turns-row").hidden = !turns.all.size;
  $("download").disabled = !turn;
  const hasBefore = stage.hasBefore;
  for (const id of ["looks", "original"]) $(id).hidden = !hasBefore;
  drawLook();
  drawWords();
  drawTools();
  drawMade(turn);
  drawTurns();
}

function drawLook() {
  for (const button of $("looks").children) button.setAttribute("aria-pressed", button.dataset.look === stage.look);
  $("divide-row").hidden = stage.look !== "slider";
}

function drawWords() {
  if (!draft.masks.all.has(draft.active)) draft.active = stage.active = draft.masks.ids[0];
  form.drawWords(draft.masks.ids, draft.words, draft.active, mask => stage.colour(mask));
  $("add-mask").hidden = !turns.current || draft.masks.ids.length > 5;
}

function drawTools() {
  for (const button of $("tools").querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === stage.tool);
    button.disabled = !turns.current;
  }
  const able = { undo: draft.masks.canUndo, redo: draft.masks.canRedo };
  for (const button of $("tools").querySelectorAll("[data-act]")) button.disabled = !turns.current || able[button.dataset.act] === false;
  for (const input of $("options").querySelectorAll("input")) input.disabled = !turns.current;
  $("size-row").hidden = !["pen", "eraser"].includes(stage.tool);
  $("tolerance-row").hidden = stage.tool !== "fill";
}

function drawTurns() {
  turns.draw($("turns"), { go: id => go(id), remove, busy: running?.parent });
  for (const [act, can] of [["turn-undo", turns.current?.parent], ["turn-redo", turns.head && turns.next(turns.head)]]) {
    document.querySelector(`[data-act="${act}"]`).disabled = !can;
  }
}

function drawMade(turn) {
  $("made").hidden = !turn || turn.id === EXAMPLE;
  if (!turn) return;
  const { request = {}, version, device, seconds } = turn.made ?? {};
  const regions = (request.regions ?? []).map(region => region.instruction).join("; ");
  const rows = {
    Words: regions || request.instruction, Task: request.task?.replaceAll("_", " "),
    Model: request.model?.name ?? (typeof request.model === "string" ? request.model : undefined), Seed: request.seed, Steps: request.num_steps,
    Guidance: request.guidance, Sampler: request.sampler, Made: [version && `ace ${version}`, device].filter(Boolean).join(" on "),
    Time: seconds && `${seconds.toFixed(2)} s`, Notes: turn.made?.notes?.join(" "), Size: `${turn.width} × ${turn.height}`,
  };
  if (!turn.made) Object.assign(rows, { Made: "opened, not made here" });
  const list = Object.entries(rows).filter(([, value]) => value !== undefined && value !== null && value !== "");
  $("made-list").replaceChildren(...list.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  $("reuse").hidden = !turn.made;
  $("replay").hidden = !turn.asked;
  $("again").hidden = !turn.asked || Boolean(running);
  $("copy").hidden = !navigator.clipboard?.write;
}

// ---- painting

function painted() {
  stage.element.classList.remove("looking");
  keepExample().then(() => {
    drawWords();
    drawTools();
    settle();
  });
}

function selectMask(mask) {
  draft.active = stage.active = mask;
  for (const word of $("words").children) word.classList.toggle("active", Number(word.dataset.mask) === mask);
  for (const id of draft.masks.ids) stage.redraw(id, [0, 0, 0, 0]);
}

function setFeather(pixels) {
  draft.feather = stage.feather = Math.min(Number($("feather").max), Math.max(0, Math.round(pixels)));
  $("feather").value = draft.feather;
  $("feather-out").textContent = draft.feather;
  if (stage.masks === draft.masks) for (const id of draft.masks.ids) stage.redraw(id);
  settle();
}

function paint(stroke) {
  if (!turns.current || stage.isPainting) return;
  draft.masks.push({ mask: draft.active, ...stroke });
  painted();
}

function setTool(tool) {
  stage.tool = tool;
  stage.element.dataset.tool = tool;
  if (stage.look === "slider") setLook("result");
  drawTools();
}

function setLook(look) {
  stage.setLook(look);
  drawLook();
}

// ---- running

class Wrong extends Error {
  constructor(message, hint) { super(message); this.hint = hint; }
}

/** What is asked by what stands on the page. */
async function message() {
  const turn = turns.current;
  const { task } = form;
  const named = task ? `“${task.name.replaceAll("_", " ")}”` : "";
  const { size, ...asked } = form.settings();
  const { masks, words, active, feather } = draft;
  const takesImage = form.takesImage && turn;
  const painted = takesImage ? masks.painted : [];
  if (form.needs("image") && !turn) throw new Wrong(`The task ${named} needs a picture.`, "Drop one on the page, or choose one.");
  if (form.needs("mask") && !painted.length) {
    throw new Wrong("Nothing is painted yet.", "Paint over what should change, or press I to take the whole picture.");
  }
  if (form.needs("reference") > form.references.length) {
    const count = form.needs("reference");
    throw new Wrong(`The task ${named} needs ${count === 1 ? "a reference" : `${count} references`}.`, "Drop pictures on the slots under References.");
  }
  const spoken = mask => (words.get(mask) ?? "").trim();
  const silent = painted.find(mask => !spoken(mask));
  if (painted.length > 1 && silent) {
    throw new Wrong(`Mask ${masks.ids.indexOf(silent) + 1} has no words.`, "Say what should be seen there.");
  }
  asked.instruction = spoken(painted[0] ?? active) || spoken(active);
  if (!asked.instruction && (!takesImage || form.needs("mask"))) throw new Wrong("Nothing is said yet.", "Say what should be seen.");
  const url = mask => maskUrl(masks.all.get(mask), masks.width, masks.height);
  if (painted.length > 1) asked.regions = await Promise.all(painted.map(async mask => ({ mask: await url(mask), instruction: spoken(mask) })));
  else if (painted.length) asked.mask = await url(painted[0]);
  if (painted.length && feather) asked.feather = feather;
  if (!takesImage && size) asked.size = size;
  if (form.takesReferences && form.references.length) asked.references = [...form.references];
  if (takesImage && form.map) asked.map = form.map;
  return { asked, parent: takesImage ? turn.id : null };
}

/** `asked` with its pictures as text, as it is sent. */
async function sent(asked, parent) {
  const whole = { ...asked, previews: true };
  if (parent) whole.image = await dataUrl(turns.all.get(parent).picture);
  if (asked.references) whole.references = await Promise.all(asked.references.map(dataUrl));
  if (asked.map) whole.map = await dataUrl(asked.map);
  return whole;
}

const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** Puts an edit together and runs it, unless one runs. */
async function begin(put) {
  if (running || starting) return;
  starting = $("run").disabled = true;
  try {
    const asked = await put();
    if (asked) await start(asked);
  } catch (error) {
    fail(error);
  } finally {
    starting = $("run").disabled = false;
  }
}

const run = () => begin(async () => {
  await keepExample();
  await saveDraft();
  const { asked, parent } = await message();
  asked.seed ??= anySeed();
  return { asked, parent };
});

/** The same edit as made a turn, with another seed. */
const again = () => begin(async () => {
  const turn = turns.current;
  return turn?.asked && { asked: { ...turn.asked, seed: anySeed() }, parent: turns.parent(turn)?.id ?? null };
});

/** A turn made once more, to see whether it comes out the same. */
const replay = () => begin(async () => {
  const turn = turns.current;
  if (!turn?.asked) return null;
  const { n, ...asked } = turn.asked;
  return { asked, parent: turns.parent(turn)?.id ?? null, replay: turn.id };
});

async function start({ asked, parent, replay = null }) {
  const whole = await sent(asked, parent);
  const most = form.limits.max_body_bytes;
  if (most && JSON.stringify(whole).length > most) {
    return fail(new Wrong("Pictures and masks are too large together.", `More than ${Math.round(most / 1e6)} MB is not taken here.`));
  }
  say("");
  const job = { key: fresh(), id: null, message: whole, asked, parent, replay };
  await store.put("state", job, `job ${job.key}`);
  await locked(job);
}

/** An edit is waited for in one tab of several. */
async function locked(job) {
  if (!navigator.locks) return follow(job);
  return navigator.locks.request(`ace-${job.key}`, { ifAvailable: true }, lock => lock && follow(job));
}

/** Waits for an edit, new or from before a reload. */
async function follow(job) {
  running = { ...job, abort: new AbortController(), picture: null };
  busy(true);
  const onEvent = (name, data) => {
    if (name === "accepted") {
      job.id = data.id;
      store.put("state", job, `job ${job.key}`);
    }
    progress(name, data);
  };
  const { signal } = running.abort;
  try {
    const result = job.id && engine.resume
      ? await engine.resume(job.id, onEvent, signal)
      : await engine.run(job.message, onEvent, signal, job.key);
    await (job.replay ? compared(job, result) : finished(job, result));
  } catch (error) {
    if (error.code === "cancelled" || signal.aborted) {
      say("Cancelled.", "The mask and the words are still here.");
      announce("Cancelled");
    } else fail(error);
  } finally {
    await store.remove("state", `job ${job.key}`);
    running = null;
    busy(false);
  }
}

function busy(on) {
  $("run").hidden = on;
  $("cancel").hidden = !on;
  $("cancel").disabled = false;
  $("progress-row").hidden = !on;
  stage.element.classList.toggle("busy", on);
  if (on) {
    $("again").hidden = true;
    $("progress").removeAttribute("value");
    $("progress-text").textContent = "Sending";
    announce("Running");
    // On a phone the button stands far from the picture.
    if (stage.element.getBoundingClientRect().top < 0) scrollTo({ top: 0, behavior: "smooth" });
  } else {
    stage.preview(null);
    document.title = "ACE++";
  }
  drawAll();
}

/** Quarters of the steps that were said aloud. */
let quarter = 0;

function progress(name, data) {
  const bar = $("progress");
  const text = $("progress-text");
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
    quarter = 0;
    text.textContent = STAGES[data.stage] ?? data.stage;
    if (data.stage === "load") announce(text.textContent);
    if (data.stage !== "denoise" && data.stage !== "decode") bar.removeAttribute("value");
  } else if (name === "step" || name === "preview") {
    bar.max = data.of;
    bar.value = data.done;
    text.textContent = `Step ${data.done} of ${data.of}`;
    document.title = `${Math.round(100 * data.done / data.of)} % · ACE++`;
    const now = Math.floor(4 * data.done / data.of);
    if (now > quarter) announce(`${now * 25} percent`);
    quarter = now;
    if (name === "preview" && running) {
      running.picture = data.picture;
      showPreview();
    }
  }
}

/** The preview stands where its result will: over the picture that is edited. */
function showPreview() {
  if (!running?.picture || running.replay) return;
  if (running.parent === turns.head) stage.preview(running.picture);
  else if (!turns.head && !running.parent) {
    const [width, height] = running.asked.size ?? [64, 64];
    if (stage.width !== width) stage.show(null, null, width, height);
    stage.preview(running.picture);
  }
}

/** Keeps what came out, and shows the first of it. */
async function finished(job, { id, pictures, seed, seconds, notes }) {
  let first = null;
  for (const [at, blob] of pictures.entries()) {
    const name = `${id}-${at}`;
    first ??= name;
    if (turns.all.has(name)) continue;
    const read = await readPicture(blob);
    const said = await engine.provenance(blob).catch(() => null);
    const { references, map, mask, regions, ...request } = job.asked;
    const own = said?.request?.seed ?? (seed ?? job.asked.seed) + at;
    const made = { ...said, request: said?.request ?? { ...request, regions, seed: own }, seconds, notes };
    const words = regions?.map(region => region.instruction).join("; ") ?? request.instruction;
    // The bytes of the engine, so that what made it stays in them.
    await turns.add(await newTurn(name, job.parent, { ...read, blob }, { words, made, asked: { ...job.asked, seed: own, n: undefined } }));
    if (turns.all.get(name).created <= turns.all.get(first).created && at) turns.all.get(name).created = turns.all.get(first).created + at;
  }
  const isWatched = turns.head === job.parent || !job.parent || turns.current?.parent === job.parent;
  running = null;
  if (isWatched) await go(first);
  announce(`Done, ${pictures.length === 1 ? "one picture" : `${pictures.length} pictures`}`);
  if (notes?.length) say(sentence(notes[0]), notes.slice(1).map(sentence).join(" "));
}

async function compared(job, { id, pictures }) {
  const turn = turns.all.get(job.replay);
  if (!turn) return;
  if (await isSame(turn.picture, pictures[0])) return say("Made again: the same picture, byte by byte.");
  const [then, now] = await Promise.all([turn.picture, pictures[0]].map(pixelsOf));
  let far = then.length === now.length ? 0 : 255;
  for (let at = 0; at < then.length && far < 255; at++) far = Math.max(far, Math.abs(then[at] - now[at]));
  if (!far) return say("Made again: the same pixels.", "What is written into the file differs.");
  say(`Made again: it differs by up to ${far} of 255.`, "The new one stands beside it.");
  await finished({ ...job, replay: null }, { id, pictures, seed: job.asked.seed });
}

function cancel() {
  if (!running) return;
  $("cancel").disabled = true;
  $("progress-text").textContent = "Cancelling";
  running.abort.abort();
}

// ---- out

function download() {
  const turn = turns.current;
  if (!turn) return;
  const end = turn.picture.type === "image/jpeg" ? "jpg" : "png";
  const seed = turn.made?.request?.seed;
  const link = make("a", { href: turns.url(turn), download: `ace-${seed ?? turn.id.slice(0, 8)}.${end}` });
  link.click();
}

async function copy() {
  const turn = turns.current;
  if (!turn || !navigator.clipboard?.write) return;
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": turn.picture.type === "image/png" ? turn.picture : await (async () => (await readPicture(turn.picture, turn.width * turn.height - 1)).blob)() })]);
    say("Copied.");
  } catch {
    say("This browser does not let the page copy.", "Download it instead.", { bad: true });
  }
}

// ---- keys

const KEYS = [
  ["B", "Pen", () => setTool("pen")], ["E", "Eraser", () => setTool("eraser")], ["R", "Rectangle", () => setTool("rectangle")],
  ["L", "Lasso", () => setTool("lasso")], ["G", "Fill", () => setTool("fill")], ["H", "Move the view", () => setTool("hand")],
  ["[", "Smaller pen", () => stage.resize(false)], ["]", "Larger pen", () => stage.resize(true)], ["Alt drag", "Size of the pen"],
  ["I", "Invert the mask", () => paint({ kind: "invert" })], [".", "Grow the mask", () => paint({ kind: "grow", by: 1 })],
  [",", "Shrink the mask", () => paint({ kind: "grow", by: -1 })], ["F", "More feather", () => setFeather(draft.feather + 1)],
  ["Shift F", "Less feather", () => setFeather(draft.feather - 1)], ["C", "Clear the mask", () => paint({ kind: "clear" })],
  ["M", "Hide or show masks", () => stage.element.classList.toggle("looking")], ["N", "Next mask", () => nextMask()],
  ["Shift N", "New mask", () => addMask()],
  ["Ctrl Z", "Undo painting", () => paintUndo(false)], ["Ctrl Shift Z", "Redo painting", () => paintUndo(true)],
  ["Space drag", "Move the view"], ["Wheel", "Zoom"], ["+", "Zoom in", () => stage.zoom(1.25)], ["−", "Zoom out", () => stage.zoom(0.8)],
  ["0", "Fit the picture", () => stage.fit()], ["1", "One to one", () => stage.actual()],
  ["Tab held", "Original"], ["S", "Result, over, beside", () => nextLook()],
  ["U", "Turn before", turnUndo], ["Shift U", "Turn after", turnRedo],
  ["Shift R", "Run", run], ["Ctrl Enter", "Run", run], ["Shift A", "Try another", again], ["Esc", "Cancel, else fit the picture", () => escape()],
  ["T", "To the words", () => { $(`words-${draft.active}`)?.focus(); }],
  ["O", "Open", () => $("file").click()], ["Ctrl V", "Paste a picture"], ["Ctrl C", "Copy the picture", () => copy()],
  ["D", "Download", download], ["?", "These keys", () => dialog("help")],
];
const BY_KEY = new Map(KEYS.filter(([, , call]) => call).map(([key, , call]) => [key, call]));

function nextMask() {
  const { ids } = draft.masks;
  selectMask(ids[(ids.indexOf(draft.active) + 1) % ids.length]);
}

async function addMask() {
  if (!turns.current || draft.masks.ids.length > 5) return;
  const mask = draft.masks.add();
  await keepExample();
  selectMask(mask);
  drawWords();
  drawTools();
  settle();
  $(`words-${mask}`)?.focus();
}

function paintUndo(isRedo) {
  if (stage.abort()) return;
  draft.masks[isRedo ? "redo" : "undo"]();
  drawWords();
  drawTools();
  settle();
}

function nextLook() {
  const looks = ["result", "slider", "beside"];
  if (stage.hasBefore) setLook(looks[(looks.indexOf(stage.look) + 1) % looks.length]);
}

function escape() {
  if (stage.abort()) return;
  if (!$("notice").hidden) return say("");
  if (running) return cancel();
  if (stage.look !== "result") return setLook("result");
  stage.fit();
}

function named(event) {
  const key = { Escape: "Esc", "-": "−", "=": "+" }[event.key] ?? (event.key.length === 1 ? event.key.toUpperCase() : event.key);
  const isLetter = /^[A-Z]$/.test(key) || key.length > 1;
  return [(event.ctrlKey || event.metaKey) && "Ctrl", isLetter && event.shiftKey && "Shift", key].filter(Boolean).join(" ");
}

let tabSince = 0;
function onKey(event) {
  const { target } = event;
  if (document.querySelector("dialog[open]") || event.altKey || event.isComposing) return;
  const isText = target.matches("textarea, select, input:not([type=range], [type=checkbox])");
  const isFree = target === document.body || target === stage.element;
  const name = named(event);
  if (isText && name !== "Ctrl Enter") {
    if (name === "Esc") stage.element.focus();
    return;
  }
  if (event.key === "Tab" && !event.shiftKey && isFree && stage.hasBefore) {
    event.preventDefault();
    if (!event.repeat) tabSince = performance.now();
    return stage.hold(true);
  }
  if (event.key === " " && isFree) {
    event.preventDefault();
    stage.isHand = true;
    return stage.element.classList.add("hand");
  }
  if (target === stage.element && !event.ctrlKey && !event.metaKey && stage.key(event)) return event.preventDefault();
  if (name === "Ctrl C" && String(getSelection())) return;
  const call = BY_KEY.get(name);
  if (!call || !draft) return;
  event.preventDefault();
  call();
}

function onKeyUp(event) {
  if (event.key === " ") {
    stage.isHand = false;
    stage.element.classList.remove("hand");
  }
  if (event.key === "Tab" && tabSince) {
    stage.hold(false);
    // A tap is no look: it goes on to the next control, as everywhere.
    if (performance.now() - tabSince < 200) {
      const all = [...document.querySelectorAll("button, input, select, textarea, summary, [tabindex='0']")];
      const able = all.filter(element => !element.disabled && element.tabIndex >= 0 && element.offsetParent);
      able[able.indexOf(document.activeElement) + 1]?.focus();
    }
    tabSince = 0;
  }
}

// ---- wiring

const ACTS = {
  invert: () => paint({ kind: "invert" }), grow: () => paint({ kind: "grow", by: 1 }), shrink: () => paint({ kind: "grow", by: -1 }),
  clear: () => paint({ kind: "clear" }), undo: () => paintUndo(false), redo: () => paintUndo(true),
  in: () => stage.zoom(1.25), out: () => stage.zoom(0.8), fit: () => stage.fit(), actual: () => stage.actual(),
  "turn-undo": turnUndo, "turn-redo": turnRedo,
};

function wire() {
  const click = (id, call) => $(id).addEventListener("click", call);
  for (const button of $("tools").querySelectorAll("[data-tool]")) button.addEventListener("click", () => setTool(button.dataset.tool));
  for (const button of document.querySelectorAll("[data-act]")) button.addEventListener("click", () => ACTS[button.dataset.act]());
  for (const button of $("looks").children) button.addEventListener("click", () => setLook(button.dataset.look));
  for (const id of ["open", "choose", "own"]) click(id, () => $("file").click());
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = "";
    if (file) open(file).catch(fail);
  });
  click("try", run);
  click("again", again);
  click("cancel", cancel);
  click("download", download);
  click("copy", copy);
  click("replay", replay);
  click("forget", forget);
  click("delete", () => remove(turns.head));
  click("add-mask", addMask);
  click("help-open", () => dialog("help"));
  click("notice-close", () => say(""));
  click("reuse", () => putBack(turns.current.made));
  click("as-reference", () => {
    form.references.push(turns.current.picture);
    form.drawReferences();
    settle();
    say("It is among the references now.");
  });
  $("panel").addEventListener("submit", event => {
    event.preventDefault();
    run();
  });
  $("size").addEventListener("input", () => stage.setSize(Number($("size").value)));
  $("feather").addEventListener("input", () => setFeather(Number($("feather").value)));
  $("tolerance").addEventListener("input", () => {
    stage.tolerance = Number($("tolerance").value) / 100;
    $("tolerance-out").textContent = $("tolerance").value;
  });
  $("divide").addEventListener("input", () => stage.setDivide(Number($("divide").value)));
  for (const [name, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["keydown", true], ["keyup", false], ["blur", false]]) {
    $("original").addEventListener(name, event => { if (!event.key || event.key === " " || event.key === "Enter") stage.hold(on); });
  }
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", onKeyUp);
  addEventListener("blur", () => stage.hold(false));
  document.addEventListener("paste", event => {
    const [file] = event.clipboardData?.files ?? [];
    if (!file) return;
    event.preventDefault();
    open(file).catch(fail);
  });
  const hasFile = event => [...event.dataTransfer?.types ?? []].includes("Files");
  document.addEventListener("dragover", event => {
    event.preventDefault();
    document.body.classList.toggle("dragging", hasFile(event));
  });
  document.addEventListener("dragleave", event => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
  document.addEventListener("drop", event => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    const [file] = event.dataTransfer.files;
    if (file) open(file).catch(fail);
  });
  addEventListener("pagehide", () => saveDraft());
  $("keys").replaceChildren(...KEYS.map(([key, text]) => make("div", {}, make("span", { textContent: text }), make("kbd", { textContent: key }))));
}

/** The engine's answer to what it can do; a server that is away is waited for. */
async function awaited(call) {
  for (let tries = 0; ; tries++) {
    try {
      const answer = await call();
      if (tries) say("The server is back.");
      return answer;
    } catch (error) {
      if (error.code !== "away") throw error;
      say("The server does not answer.", "The page asks again until it does.", { bad: true });
      await new Promise(resolve => setTimeout(resolve, 1500));
    }
  }
}

async function main() {
  wire();
  const other = document.querySelector('meta[name="ace-engine"]')?.content;
  const onProgress = ({ loaded, total, what }) => {
    const share = total ? ` ${Math.round(100 * loaded / total)} %` : "";
    say(loaded < total || !total ? `Fetching ${what ?? "the model"}${share}` : "", "", { stays: true });
  };
  store = await Store.open(() => say("The browser has no more room for turns.", "Download what you want to keep: it is here until the page is closed.", { bad: true }));
  turns = new Turns(store);
  await turns.load();
  draft = await draftOf(null);
  if (turns.head) await go(turns.head);
  const module = other ? await import(new URL(other, document.baseURI).href) : http;
  engine = await module.open(onProgress, askToken);
  form.setModels(await awaited(() => engine.models()));
  const kept = await store.get("state", "form");
  if (kept) {
    form.references = kept.references ?? [];
    form.map = kept.map ?? null;
    form.putBack(kept);
    if (kept.tool) stage.tool = kept.tool;
  }
  if (turns.head) await go(turns.head);
  else await showExample();
  document.documentElement.dataset.ready = "true";
  // Edits that ran when the page was left go on.
  for (const job of await store.jobs()) await locked(job);
}

main().catch(error => {
  fail(error);
  document.documentElement.dataset.ready = "true";
});

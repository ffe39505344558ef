// From what stands on the page to what is asked: a message as the server takes it, or what is missing for one.

import { dataUrl, maskUrl } from "./files.js";

/** What must be done first. */
export class Missing extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

export const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/**
 * What is asked by a form, a turn (or null) and what is painted and said on it, references still as blobs; with the turn
 * that it is made of, if any.
 */
export async function ask(form, turn, { masks, words, active, feather }) {
  const { task } = form;
  const named = task ? `“${task.name.replaceAll("_", " ")}”` : "";
  const takesImage = form.takesImage && turn;
  const painted = takesImage ? masks.painted : [];
  const references = form.needs("reference");
  if (form.needs("image") && !turn) {
    throw new Missing(`The task ${named} needs a picture.`, "Drop one on the page, or choose one.");
  }
  if (form.needs("mask") && !painted.length) {
    throw new Missing("Nothing is painted yet.", "Paint over what should change, or press I to take the whole picture.");
  }
  if (references > form.references.length) {
    const what = references === 1 ? "a reference" : `${references} references`;
    throw new Missing(`The task ${named} needs ${what}.`, "Drop pictures on the slots under References.");
  }
  const spoken = mask => (words.get(mask) ?? "").trim();
  const silent = painted.find(mask => !spoken(mask));
  if (painted.length > 1 && silent) {
    throw new Missing(`Mask ${masks.ids.indexOf(silent) + 1} has no words.`, "Say what should be seen there.");
  }
  const { size, ...asked } = form.settings();
  asked.instruction = spoken(painted[0] ?? active) || spoken(active);
  if (!asked.instruction && (!takesImage || form.needs("mask"))) {
    throw new Missing("Nothing is said yet.", "Say what should be seen.");
  }
  asked.seed ??= anySeed();
  const url = mask => maskUrl(masks.all.get(mask), masks.width, masks.height);
  if (painted.length > 1) {
    asked.regions = await Promise.all(painted.map(async mask => ({ mask: await url(mask), instruction: spoken(mask) })));
  } else if (painted.length) asked.mask = await url(painted[0]);
  if (painted.length && feather) asked.feather = feather;
  if (!takesImage && size) asked.size = size;
  if (form.takesReferences && form.references.length) asked.references = [...form.references];
  if (takesImage && form.map) asked.map = form.map;
  return { asked, parent: takesImage ? turn.id : null };
}

/** What is asked as it is sent, with its pictures as text; `picture` is the one to edit, if any. */
export async function message(asked, picture) {
  const whole = { ...asked, previews: true };
  if (picture) whole.image = await dataUrl(picture);
  if (asked.references) whole.references = await Promise.all(asked.references.map(dataUrl));
  if (asked.map) whole.map = await dataUrl(asked.map);
  return whole;
}

// Masks: one byte per pixel of the picture, 0 or 255, and everything that is painted into them.
//
// Nothing here knows the page. What is painted is a list of strokes; a snapshot of all masks is kept every sixteen of
// them, so that undoing is going back to a snapshot and painting what came after it again.

/** Strokes from one snapshot to the next. */
const EVERY = 16;
/** Strokes that can be undone. */
const KEPT = 256;
/** Strokes that can still be undone after a reload. */
const STORED = 32;

export class Masks {
  /**
   * Empty masks of a picture's size. `pixels` are the picture's own (RGBA), which the fill looks at; `changed(id, box)`
   * is told where a mask became another, and called with null where there are more or fewer masks.
   */
  constructor(width, height, pixels, changed = () => {}) {
    Object.assign(this, { width, height, pixels, changed });
    this.all = new Map([[1, new Uint8Array(width * height)]]);
    this.strokes = [];
    this.cursor = 0;
    this.first = 0;
    this.snapshots = new Map([[0, this.#copy()]]);
    this.open = null;
  }

  get ids() { return [...this.all.keys()]; }
  get canUndo() { return this.cursor > this.first; }
  get canRedo() { return this.cursor < this.strokes.length; }
  isPainted(id) { return this.all.get(id)?.includes(255) ?? false; }
  get painted() { return this.ids.filter(id => this.isPainted(id)); }

  /** Does a stroke, and notes it. */
  push(stroke) {
    this.strokes.length = this.cursor;
    for (const index of this.snapshots.keys()) if (index > this.cursor) this.snapshots.delete(index);
    this.#apply(stroke);
    this.#note(stroke);
  }

  #note(stroke) {
    this.strokes.push(stroke);
    this.cursor += 1;
    if (this.cursor % EVERY === 0) this.snapshots.set(this.cursor, this.#copy());
    const oldest = Math.floor((this.cursor - KEPT) / EVERY) * EVERY;
    if (oldest > this.first) {
      this.first = oldest;
      for (const index of this.snapshots.keys()) if (index < oldest) this.snapshots.delete(index);
      for (let index = 0; index < oldest; index++) this.strokes[index] = null;
    }
  }

  /** Begins a line of the pen: `points` are x, y and radius, one after another. */
  begin(mask, value, points) {
    this.strokes.length = this.cursor;
    for (const index of this.snapshots.keys()) if (index > this.cursor) this.snapshots.delete(index);
    this.open = { kind: "line", mask, value, points: [...points] };
    this.#apply(this.open);
  }

  /** Goes on with it. */
  extend(points) {
    if (!this.open) return;
    const from = this.open.points.slice(-3);
    this.open.points.push(...points);
    this.#apply({ ...this.open, points: [...from, ...points] });
  }

  /** Ends it. */
  end() {
    if (this.open) this.#note(this.open);
    this.open = null;
  }

  /** Takes it back, as if it had never begun. */
  abort() {
    if (!this.open) return;
    this.open = null;
    this.#goto(this.cursor);
  }

  undo() { if (this.canUndo) this.#goto(this.cursor - 1); }
  redo() { if (this.canRedo) this.#goto(this.cursor + 1); }

  /** Adds an empty mask and says its number. */
  add() {
    const used = this.strokes.filter(stroke => stroke?.kind === "add").map(stroke => stroke.mask);
    const mask = Math.max(...this.ids, ...used) + 1;
    this.push({ kind: "add", mask });
    return mask;
  }

  #copy() { return [...this.all].map(([id, data]) => [id, data.slice()]); }

  #goto(cursor) {
    let from = cursor;
    while (!this.snapshots.has(from)) from -= 1;
    const before = this.ids.join();
    this.all = new Map(this.snapshots.get(from).map(([id, data]) => [id, data.slice()]));
    const { changed } = this;
    this.changed = () => {};
    for (let index = from; index < cursor; index++) this.#apply(this.strokes[index]);
    this.changed = changed;
    this.cursor = cursor;
    if (before !== this.ids.join()) this.changed(null);
    for (const id of this.ids) this.changed(id, [0, 0, this.width, this.height]);
  }

  #apply(stroke) {
    const { kind, mask } = stroke;
    const whole = [0, 0, this.width, this.height];
    if (kind === "add") {
      this.all.set(mask, new Uint8Array(this.width * this.height));
      return this.changed(null);
    }
    if (kind === "remove") {
      this.all.delete(mask);
      return this.changed(null);
    }
    const data = this.all.get(mask);
    if (!data) return;
    let box = whole;
    if (kind === "line") box = this.#line(data, stroke);
    else if (kind === "rectangle") box = this.#rectangle(data, stroke);
    else if (kind === "lasso") box = this.#lasso(data, stroke);
    else if (kind === "fill") this.#fill(data, stroke);
    else if (kind === "invert") for (let at = 0; at < data.length; at++) data[at] = 255 - data[at];
    else if (kind === "clear") data.fill(0);
    else if (kind === "grow") this.#grow(data, stroke.by);
    else if (kind === "load") data.set(stroke.data);
    this.changed(mask, box);
  }

  #line(data, { points, value }) {
    let box = [this.width, this.height, 0, 0];
    if (points.length === 3) points = [...points, ...points];
    for (let at = 0; at + 3 < points.length; at += 3) {
      const [x0, y0, r0, x1, y1, r1] = points.slice(at, at + 6);
      const reach = Math.max(r0, r1, 0.5);
      const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach));
      const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach));
      const right = Math.min(this.width, Math.ceil(Math.max(x0, x1) + reach));
      const bottom = Math.min(this.height, Math.ceil(Math.max(y0, y1) + reach));
      const [dx, dy] = [x1 - x0, y1 - y0];
      const length = dx * dx + dy * dy;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) {
        const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
        const share = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
        const [ox, oy, r] = [px - share * dx, py - share * dy, r0 + share * (r1 - r0)];
        if (ox * ox + oy * oy <= r * r) data[y * this.width + x] = value;
      }
      // A pen finer than a pixel still leaves the pixel under it.
      for (const [x, y] of [[x0, y0], [x1, y1]]) {
        const [px, py] = [Math.floor(x), Math.floor(y)];
        if (px >= 0 && py >= 0 && px < this.width && py < this.height) data[py * this.width + px] = value;
      }
      box = [Math.min(box[0], left), Math.min(box[1], top), Math.max(box[2], right), Math.max(box[3], bottom)];
    }
    return box;
  }

  #rectangle(data, { from, to, value }) {
    const span = (a, b, most) => [Math.max(0, Math.floor(Math.min(a, b))), Math.min(most, Math.ceil(Math.max(a, b)))];
    const [left, right] = span(from[0], to[0], this.width);
    const [top, bottom] = span(from[1], to[1], this.height);
    for (let y = top; y < bottom; y++) data.fill(value, y * this.width + left, y * this.width + Math.max(left, right));
    return [left, top, right, bottom];
  }

  #lasso(data, { points, value }) {
    for (let y = 0; y < this.height; y++) {
      const crossings = [];
      for (let at = 0; at < points.length; at += 2) {
        const next = (at + 2) % points.length;
        const [x0, y0, x1, y1] = [points[at], points[at + 1], points[next], points[next + 1]];
        const middle = y + 0.5;
        if ((y0 <= middle) !== (y1 <= middle)) crossings.push(x0 + (middle - y0) / (y1 - y0) * (x1 - x0));
      }
      crossings.sort((a, b) => a - b);
      for (let at = 0; at + 1 < crossings.length; at += 2) {
        const left = Math.max(0, Math.ceil(crossings[at] - 0.5));
        const right = Math.min(this.width, Math.ceil(crossings[at + 1] - 0.5));
        if (left < right) data.fill(value, y * this.width + left, y * this.width + right);
      }
    }
    return [0, 0, this.width, this.height];
  }

  // Spreads over pixels of a colour like the first one's, up to what is painted; with a tolerance of 1 over all colours.
  #fill(data, { x, y, value, tolerance }) {
    const { width, height, pixels } = this;
    const start = y * width + x;
    const near = tolerance * 255;
    const alike = at => [0, 1, 2].every(c => Math.abs(pixels[at * 4 + c] - pixels[start * 4 + c]) <= near);
    const takes = at => data[at] !== value && (!pixels || near >= 255 || alike(at));
    if (!takes(start)) return;
    const waiting = [start];
    data[start] = value;
    while (waiting.length) {
      const at = waiting.pop();
      const column = at % width;
      const beside = [column > 0 && at - 1, column < width - 1 && at + 1, at >= width && at - width, at + width];
      for (const next of beside) {
        if (next === false || next >= width * height || !takes(next)) continue;
        data[next] = value;
        waiting.push(next);
      }
    }
  }

  // By a disc; shrinking is growing what is not masked, and nothing comes in over the picture's edge.
  #grow(data, by) {
    const { width, height } = this;
    const reach = Math.abs(by);
    const mark = by > 0 ? 255 : 0;
    const far = reach + 1;
    const column = new Uint16Array(data.length).fill(far);
    for (let x = 0; x < width; x++) {
      for (let y = 0, away = far; y < height; y++) {
        away = data[y * width + x] === mark ? 0 : Math.min(far, away + 1);
        column[y * width + x] = away;
      }
      for (let y = height - 1, away = far; y >= 0; y--) {
        away = data[y * width + x] === mark ? 0 : Math.min(far, away + 1);
        column[y * width + x] = Math.min(column[y * width + x], away);
      }
    }
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      if (data[y * width + x] === mark) continue;
      for (let other = Math.max(0, x - reach); other <= Math.min(width - 1, x + reach); other++) {
        const [dx, dy] = [other - x, column[y * width + other]];
        if (dx * dx + dy * dy <= reach * reach) {
          data[y * width + x] = mark;
          break;
        }
      }
    }
  }

  /** What is stored: the masks some strokes ago, and these strokes. */
  save() {
    let from = Math.max(this.first, this.cursor - STORED);
    while (!this.snapshots.has(from)) from -= 1;
    const { width, height } = this;
    return { width, height, base: this.snapshots.get(from), strokes: this.strokes.slice(from), cursor: this.cursor - from };
  }

  /** Puts back what was stored; says whether it is of this size. */
  load(saved) {
    if (saved?.width !== this.width || saved.height !== this.height) return false;
    this.strokes = [...saved.strokes];
    this.first = 0;
    this.snapshots = new Map([[0, saved.base.map(([id, data]) => [id, data.slice()])]]);
    this.#goto(saved.cursor);
    this.changed(null);
    return true;
  }
}

/** The edges between masked and other pixels, as the path of an SVG in pixels of the picture. */
export function outline(data, width, height) {
  const parts = [];
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] !== 0;
  for (let y = 0; y <= height; y++) {
    for (let x = 0, from = -1; x <= width; x++) {
      const edge = x < width && at(x, y - 1) !== at(x, y);
      if (edge && from < 0) from = x;
      if (!edge && from >= 0) {
        parts.push(`M${from} ${y}H${x}`);
        from = -1;
      }
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0, from = -1; y <= height; y++) {
      const edge = y < height && at(x - 1, y) !== at(x, y);
      if (edge && from < 0) from = y;
      if (!edge && from >= 0) {
        parts.push(`M${x} ${from}V${y}`);
        from = -1;
      }
    }
  }
  return parts.join("");
}

/** How much of the edit is seen at each pixel, 0 to 255, where it fades over `feather` pixels outside the mask. */
export function faded(data, width, height, feather) {
  if (!feather) return data;
  const distance = new Uint16Array(data.length).fill(feather + 1);
  const pass = (from, to, step, beside) => {
    for (let y = from(height); y !== to(height); y += step) for (let x = from(width); x !== to(width); x += step) {
      const here = y * width + x;
      if (data[here]) distance[here] = 0;
      else for (const [dx, dy] of beside) {
        const [ox, oy] = [x + dx, y + dy];
        if (ox < 0 || oy < 0 || ox >= width || oy >= height) continue;
        distance[here] = Math.min(distance[here], distance[oy * width + ox] + 1);
      }
    }
  };
  pass(() => 0, most => most, 1, [[-1, 0], [-1, -1], [0, -1], [1, -1]]);
  pass(most => most - 1, () => -1, -1, [[1, 0], [1, 1], [0, 1], [-1, 1]]);
  return Uint8Array.from(distance, away => Math.round(255 * (1 - away / (feather + 1))));
}

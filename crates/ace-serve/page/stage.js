// The stage: the picture in the middle, what is painted over it, and the ways to look at it.
//
// Everything lies in one element in the picture's own pixels, which is panned and zoomed by a CSS transform. So neither the
// picture nor a mask is ever resampled, and a point of the pointer is a point of the picture.

import { faded, outline } from "./mask.js";

/** Colours of the masks, in their order. */
export const COLOURS = [[46, 120, 245], [214, 51, 132], [16, 158, 130], [233, 104, 22], [120, 88, 250], [168, 128, 0]];
/** From this many screen pixels a picture's pixel on, its edges are shown. */
const CRISP = 2.5;
const MARGIN = 24;
const SVG = "http://www.w3.org/2000/svg";

const $ = id => document.getElementById(id);

export class Stage {
  masks = null;
  active = 1;
  tool = "pen";
  size = 8;
  tolerance = 0.12;
  feather = 0;
  canPaint = false;
  look = "result";
  width = 0;
  height = 0;
  #x = 0;
  #y = 0;
  #scale = 1;
  #isFit = true;
  #pointers = new Map();
  #doing = null;
  #keys = null;
  #stale = new Set();
  #frame = 0;

  /** `hooks` are told what happens: starts(), painted(), sized(size, most), pointed(x, y, isDown). */
  constructor(hooks) {
    this.hooks = hooks;
    this.element = $("stage");
    this.view = $("view");
    const on = (name, call, options) => this.element.addEventListener(name, call, options);
    on("pointerdown", event => this.#down(event));
    on("pointermove", event => this.#move(event));
    on("pointerup", event => this.#up(event));
    on("pointercancel", event => this.#up(event, true));
    on("pointerleave", () => { if (!this.#keys) $("brush").hidden = true; });
    on("contextmenu", event => event.preventDefault());
    on("wheel", event => this.#wheel(event), { passive: false });
    on("blur", () => {
      this.element.classList.remove("pointed");
      this.#dropKeys();
    });
    new ResizeObserver(() => (this.#isFit ? this.fit() : this.#place())).observe(this.element);
  }

  /** Shows a picture; `before` is what it was made of. */
  async show(picture, before, width, height) {
    this.abort();
    const same = width === this.width && height === this.height;
    Object.assign(this, { width, height });
    for (const [id, url] of [["picture", picture], ["before", before]]) {
      const image = $(id);
      image.hidden = !url;
      if (url) image.src = url;
      else image.removeAttribute("src");
      image.width = width;
      image.height = height;
    }
    this.preview(null);
    this.view.style.width = `${width}px`;
    this.view.style.height = `${height}px`;
    this.element.classList.toggle("empty", !width);
    this.hasBefore = Boolean(before);
    if (!before) this.setLook("result");
    if (same && !this.#isFit) this.#place();
    else this.fit();
    await $("picture").decode?.().catch(() => {});
  }

  /** Shows what an edit looks like so far; null takes it away. */
  preview(url) {
    $("preview").hidden = !url;
    if (url) $("preview").src = url;
    else $("preview").removeAttribute("src");
    $("preview").width = this.width;
    $("preview").height = this.height;
  }

  /** Which masks are painted on from now on. */
  use(masks, active) {
    Object.assign(this, { masks, active });
    $("masks").replaceChildren();
    $("lines").replaceChildren();
    if (!masks) return;
    for (const id of masks.ids) this.redraw(id);
  }

  colour(id) { return COLOURS[Math.max(0, this.masks?.ids.indexOf(id) ?? 0) % COLOURS.length]; }

  /** Draws a mask again, or with null all of them. */
  redraw(id, box) {
    if (id === null) return this.use(this.masks, this.active);
    const { width, height } = this.masks;
    const data = this.masks.all.get(id);
    if (!data) return;
    let canvas = $("masks").querySelector(`[data-mask="${id}"]`);
    if (!canvas) {
      canvas = Object.assign(document.createElement("canvas"), { width, height });
      canvas.dataset.mask = id;
      $("masks").append(canvas);
      box = null;
    }
    // What fades reaches out of the box, and is drawn once the stroke is over.
    if (this.feather && !this.#doing) box = null;
    const [left, top, right, bottom] = box ?? [0, 0, width, height];
    if (right > left && bottom > top) {
      const seen = this.feather && !this.#doing ? faded(data, width, height, this.feather) : data;
      const part = new ImageData(right - left, bottom - top);
      const [red, green, blue] = this.colour(id);
      for (let y = top, at = 0; y < bottom; y++) for (let x = left; x < right; x++, at += 4) {
        const here = seen[y * width + x];
        if (here) part.data.set([red, green, blue, here], at);
      }
      canvas.getContext("2d").putImageData(part, left, top);
    }
    this.#stale.add(id);
    this.#frame ||= requestAnimationFrame(() => this.#outlines());
  }

  #outlines() {
    this.#frame = 0;
    if (!this.masks) return;
    const { width, height } = this.masks;
    // Tracing a large mask takes longer than a frame, so it waits for the end of the stroke.
    if (this.#doing && width * height > 1 << 20) return;
    for (const id of this.#stale) {
      const data = this.masks.all.get(id);
      if (!data) continue;
      let lines = $("lines").querySelector(`[data-mask="${id}"]`);
      if (!lines) {
        lines = document.createElementNS(SVG, "g");
        lines.dataset.mask = id;
        lines.append(document.createElementNS(SVG, "path"), document.createElementNS(SVG, "path"));
        lines.firstChild.setAttribute("class", "light");
        $("lines").append(lines);
      }
      lines.classList.toggle("active", id === this.active);
      const path = outline(data, width, height);
      for (const line of lines.children) line.setAttribute("d", path);
      lines.lastChild.setAttribute("stroke", `rgb(${this.colour(id).join()})`);
    }
    this.#stale.clear();
  }

  // ---- panning and zooming

  /** Whether a stroke is under way. */
  get isPainting() { return Boolean(this.#doing); }

  get shift() { return this.look === "beside" && this.hasBefore ? this.width * 1.04 : 0; }

  fit() {
    if (!this.width) return;
    const { clientWidth, clientHeight } = this.element;
    const margin = Math.min(MARGIN, clientWidth / 24);
    const whole = this.width + this.shift;
    let scale = Math.min((clientWidth - 2 * margin) / whole, (clientHeight - 2 * margin) / this.height);
    if (scale > CRISP) scale = Math.floor(scale * 4) / 4;
    this.#scale = Math.max(scale, 0.01);
    this.#x = (clientWidth - whole * this.#scale) / 2 + this.shift * this.#scale;
    this.#y = (clientHeight - this.height * this.#scale) / 2;
    this.#isFit = true;
    this.#place();
  }

  zoom(factor, x = this.element.clientWidth / 2, y = this.element.clientHeight / 2) {
    const least = Math.min(0.1, 16 / Math.max(1, this.width));
    const scale = Math.min(64, Math.max(least, this.#scale * factor));
    this.#x = x - (x - this.#x) * scale / this.#scale;
    this.#y = y - (y - this.#y) * scale / this.#scale;
    this.#scale = scale;
    this.#isFit = false;
    this.#place();
  }

  /** One pixel of the picture on one of the screen. */
  actual() { this.zoom(1 / this.#scale); }

  pan(dx, dy) {
    this.#x += dx;
    this.#y += dy;
    this.#isFit = false;
    this.#place();
  }

  #place() {
    this.view.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})`;
    this.view.style.setProperty("--pixel", `${1 / this.#scale}px`);
    this.view.classList.toggle("crisp", this.#scale >= CRISP);
    $("lines").setAttribute("viewBox", `0 0 ${this.width || 1} ${this.height || 1}`);
    $("zoom").textContent = `${Math.round(this.#scale * 100)} %`;
    if (this.#keys) this.#brush(this.#keys);
    if (this.look === "slider") this.setDivide(this.divide);
  }

  #wheel(event) {
    event.preventDefault();
    if (!this.width) return;
    const box = this.element.getBoundingClientRect();
    const turn = event.deltaMode === 1 ? event.deltaY * 20 : event.deltaY;
    if (event.shiftKey) return this.pan(-turn || -event.deltaX, 0);
    this.zoom(Math.exp(-turn / 400), event.clientX - box.left, event.clientY - box.top);
  }

  // ---- looking

  /** `result`, `slider` (one over the other) or `beside`. */
  setLook(look) {
    $("brush").hidden = true;
    this.look = this.hasBefore ? look : "result";
    this.element.dataset.look = this.look;
    this.setDivide(this.divide ?? 50);
    if (this.#isFit) this.fit();
  }

  /** Where the slider stands, in hundredths from the left: left of it is what was before. */
  setDivide(percent) {
    this.divide = Math.min(100, Math.max(0, percent));
    this.view.style.setProperty("--divide", `${this.divide}%`);
    $("divide").value = this.divide;
    const line = $("divider").style;
    line.transform = `translate(${this.#x + this.width * this.#scale * this.divide / 100}px, ${this.#y}px)`;
    line.height = `${this.height * this.#scale}px`;
  }

  /** Shows what was before, as long as a key is held. */
  hold(on) { this.element.classList.toggle("held", on && this.hasBefore); }

  // ---- painting

  #at(event) {
    const box = this.element.getBoundingClientRect();
    return [(event.clientX - box.left - this.#x) / this.#scale, (event.clientY - box.top - this.#y) / this.#scale];
  }

  #radius(event) {
    // A mouse has no pressure and says a half.
    return (event.pointerType === "pen" ? Math.max(0.5, this.size * event.pressure) : this.size) / 2;
  }

  #down(event) {
    if (!this.width) return;
    this.element.classList.add("pointed");
    this.element.focus({ preventScroll: true });
    this.#dropKeys();
    this.#pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.element.setPointerCapture(event.pointerId);
    event.preventDefault();
    if (this.#pointers.size === 2) {
      this.abort();
      this.#doing = { kind: "pinch" };
    } else if (this.#pointers.size > 2) {
      return;
    } else if (this.isHand || event.button === 1 || this.tool === "hand") {
      this.#doing = { kind: "pan" };
    } else if (this.look === "slider") {
      this.#doing = { kind: "divide" };
      this.setDivide(100 * this.#at(event)[0] / this.width);
    } else if (event.altKey && event.button === 0 && this.tool !== "fill") {
      this.#doing = { kind: "size", from: event.clientX, size: this.size };
    } else if (this.canPaint && this.look !== "slider" && (event.button === 0 || event.button === 2)) {
      this.#start(this.#at(event), this.#radius(event), event.button === 2 || (event.altKey && this.tool === "fill"));
    }
  }

  #start([x, y], radius, erase) {
    const isEraser = this.tool === "eraser";
    const value = erase !== isEraser ? 0 : 255;
    const mask = this.active;
    this.hooks.starts();
    if (this.tool === "fill") {
      const [column, row] = [Math.floor(x), Math.floor(y)];
      if (column < 0 || row < 0 || column >= this.width || row >= this.height) return;
      this.masks.push({ kind: "fill", mask, value, x: column, y: row, tolerance: this.tolerance });
      return this.hooks.painted();
    }
    this.#doing = { kind: this.tool, value, mask, from: [x, y], to: [x, y], points: [x, y] };
    if (this.tool === "pen" || isEraser) {
      this.#doing.kind = "line";
      this.masks.begin(mask, value, [x, y, radius]);
    } else this.#drawShape();
  }

  #extend(x, y, radius) {
    const doing = this.#doing;
    if (doing.kind === "line") this.masks.extend([x, y, radius]);
    else if (doing.kind === "rectangle") doing.to = [x, y];
    else doing.points.push(x, y);
  }

  #drawShape() {
    const { kind, from, to, points } = this.#doing;
    const corners = kind === "rectangle" ? [...from, to[0], from[1], ...to, from[0], to[1]] : points;
    $("shape").setAttribute("points", corners.join(" "));
  }

  #finish() {
    const doing = this.#doing;
    this.#doing = null;
    $("shape").removeAttribute("points");
    if (!doing) return;
    const { kind, value, mask, from, to, points } = doing;
    if (kind === "line") this.masks.end();
    else if (kind === "rectangle") this.masks.push({ kind, mask, value, from, to });
    else if (kind === "lasso" && points.length > 4) this.masks.push({ kind, mask, value, points });
    else return;
    this.redraw(mask);
    this.hooks.painted();
  }

  /** Takes back what is being painted. Says whether anything was. */
  abort() {
    const doing = this.#doing;
    this.#doing = null;
    $("shape").removeAttribute("points");
    if (doing?.kind === "line") this.masks.abort();
    return Boolean(doing);
  }

  #move(event) {
    const last = this.#pointers.get(event.pointerId);
    this.#brush(this.#at(event));
    if (!last || !this.#doing) return;
    const now = [event.clientX, event.clientY];
    const { kind } = this.#doing;
    if (kind === "pinch") {
      const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const box = this.element.getBoundingClientRect();
        const away = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
        this.zoom(away(now) / away(last), (now[0] + other[0]) / 2 - box.left, (now[1] + other[1]) / 2 - box.top);
        this.pan((now[0] - last[0]) / 2, (now[1] - last[1]) / 2);
      }
    } else if (kind === "pan") this.pan(now[0] - last[0], now[1] - last[1]);
    else if (kind === "divide") this.setDivide(100 * this.#at(event)[0] / this.width);
    else if (kind === "size") this.setSize(this.#doing.size + (now[0] - this.#doing.from) / this.#scale);
    else {
      const all = event.getCoalescedEvents?.() ?? [];
      for (const each of all.length ? all : [event]) this.#extend(...this.#at(each), this.#radius(each));
      if (kind !== "line") this.#drawShape();
    }
    this.#pointers.set(event.pointerId, now);
  }

  #up(event, isLost = false) {
    if (!this.#pointers.delete(event.pointerId)) return;
    // A finger that is gone points nowhere.
    if (event.pointerType === "touch") $("brush").hidden = true;
    const kind = this.#doing?.kind;
    if (kind === "pinch" || kind === "pan" || kind === "divide" || kind === "size") {
      if (!this.#pointers.size) this.#doing = null;
    } else if (isLost) this.abort();
    else this.#finish();
  }

  setSize(size) {
    const most = Math.max(16, Math.round(Math.max(this.width, this.height) / 2));
    this.size = Math.round(Math.min(most, Math.max(1, size)));
    this.hooks.sized(this.size, most);
    if (this.#keys) this.#brush(this.#keys);
  }

  /** One step larger or smaller. */
  resize(up) { this.setSize(up ? Math.max(this.size + 1, this.size * 1.2) : Math.min(this.size - 1, this.size / 1.2)); }

  #brush([x, y]) {
    const brush = $("brush");
    const isRound = this.tool === "pen" || this.tool === "eraser";
    brush.hidden = !this.canPaint || this.look === "slider" || this.tool === "hand" || !(isRound || this.#keys);
    const side = Math.max(6, isRound ? this.size * this.#scale : 10);
    brush.style.width = brush.style.height = `${side}px`;
    brush.style.transform = `translate(${this.#x + x * this.#scale - side / 2}px, ${this.#y + y * this.#scale - side / 2}px)`;
  }

  // ---- painting without a pointer: arrows move, Enter begins and ends

  key(event) {
    const step = event.shiftKey ? 8 : 1;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const move = moves[event.key];
    if (move && this.look === "slider") return this.setDivide(this.divide + Math.sign(move[0]) * step * 2), true;
    if (!this.canPaint || !(move || event.key === "Enter")) return false;
    this.element.classList.remove("pointed");
    this.#keys ??= [Math.floor(this.width / 2) + 0.5, Math.floor(this.height / 2) + 0.5];
    const keys = this.#keys;
    if (move) {
      keys[0] = Math.min(this.width - 0.5, Math.max(0.5, keys[0] + move[0]));
      keys[1] = Math.min(this.height - 0.5, Math.max(0.5, keys[1] + move[1]));
      if (this.#doing) {
        this.#extend(...keys, this.size / 2);
        if (this.#doing.kind !== "line") this.#drawShape();
      }
    } else if (this.#doing) this.#finish();
    else this.#start(keys, this.size / 2, false);
    this.#brush(keys);
    this.hooks.pointed(Math.floor(keys[0]), Math.floor(keys[1]), Boolean(this.#doing));
    return true;
  }

  #dropKeys() {
    if (this.#keys && this.#doing) this.#finish();
    this.#keys = null;
    $("brush").hidden = true;
  }
}

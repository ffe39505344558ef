// The tree of turns: every picture, what it was made of, and what is being painted on it. Kept in the browser's database,
// so that a reload loses nothing.

/** A turn's picture in the strip, in pixels. */
const CELL = 64;
const GAP = [30, 14];

const promise = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** Numbers of its own for turns and jobs; `crypto.randomUUID` is not there on plain http. */
export function fresh() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("");
}

/** Three stores: `turns`, `drafts` (by turn: masks and words), `state` (settings, references, the job that runs). */
export class Store {
  /** `full` is called where the browser takes no more. */
  static async open(full) {
    const store = new Store();
    store.full = full;
    try {
      const request = indexedDB.open("ace", 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore("turns", { keyPath: "id" });
        request.result.createObjectStore("drafts");
        request.result.createObjectStore("state");
      };
      store.base = await promise(request);
    } catch {
      // Some private windows have no database: the page works, and forgets.
      store.base = null;
    }
    return store;
  }

  async #do(name, mode, call) {
    if (!this.base) return undefined;
    return promise(call(this.base.transaction(name, mode).objectStore(name)));
  }

  turns() { return this.#do("turns", "readonly", store => store.getAll()).then(all => all ?? []); }
  get(name, key) { return this.#do(name, "readonly", store => store.get(key)); }
  put(name, value, key) {
    const put = this.#do(name, "readwrite", store => (key === undefined ? store.put(value) : store.put(value, key)));
    return put.catch(error => (error.name === "QuotaExceededError" ? this.full() : Promise.reject(error)));
  }
  /** Edits that were running when the page was left. */
  jobs() { return this.#do("state", "readonly", store => store.getAll(IDBKeyRange.bound("job ", "job ~"))).then(all => all ?? []); }
  remove(name, key) { return this.#do(name, "readwrite", store => store.delete(key)); }
  async clear() { for (const name of ["turns", "drafts", "state"]) await this.#do(name, "readwrite", store => store.clear()); }
}

/** The turns themselves: `{id, parent, picture, thumb, width, height, words, made, created}`. */
export class Turns {
  all = new Map();
  head = null;
  /** Where redoing goes, by turn. */
  last = new Map();
  #urls = new Map();

  constructor(store) { this.store = store; }

  async load() {
    for (const turn of await this.store.turns()) this.all.set(turn.id, turn);
    const head = await this.store.get("state", "head");
    this.head = this.all.has(head) ? head : [...this.all.keys()].at(-1) ?? null;
  }

  get current() { return this.all.get(this.head) ?? null; }
  parent(turn) { return this.all.get(turn?.parent) ?? null; }
  children(id) { return [...this.all.values()].filter(turn => turn.parent === id).sort((a, b) => a.created - b.created); }

  async add(turn) {
    this.all.set(turn.id, turn);
    await this.store.put("turns", turn);
  }

  async go(id) {
    this.head = id;
    const turn = this.current;
    if (turn?.parent) this.last.set(turn.parent, id);
    await this.store.put("state", id, "head");
  }

  /** Takes a turn away, with all that follow. */
  async remove(id) {
    for (const child of this.children(id)) await this.remove(child.id);
    this.all.delete(id);
    await this.store.remove("turns", id);
    await this.store.remove("drafts", id);
    for (const key of [id, `${id} small`]) {
      URL.revokeObjectURL(this.#urls.get(key));
      this.#urls.delete(key);
    }
  }

  next(id) { return this.last.get(id) ?? this.children(id).at(-1)?.id ?? null; }

  url(turn, small = false) {
    if (!turn) return null;
    const key = small ? `${turn.id} small` : turn.id;
    if (!this.#urls.has(key)) this.#urls.set(key, URL.createObjectURL((small && turn.thumb) || turn.picture));
    return this.#urls.get(key);
  }

  /** Rows and columns: the first that follows stays in the row, each other begins one. */
  places() {
    const places = [];
    let row = -1;
    const visit = (turn, column, from) => {
      places.push({ turn, column, row, from });
      const here = [column, row];
      this.children(turn.id).forEach((child, index) => {
        if (index) row += 1;
        visit(child, column + 1, here);
      });
    };
    const roots = [...this.all.values()].filter(turn => !this.all.has(turn.parent));
    roots.sort((a, b) => b.created - a.created);
    for (const root of roots) {
      row += 1;
      visit(root, 0, null);
    }
    return places;
  }

  /** Draws the tree into `element`; `go(id)` is called for the one that is chosen. */
  draw(element, { go, remove, busy }) {
    const places = this.places();
    const [left, top] = [column => 8 + column * (CELL + GAP[0]), row => 8 + row * (CELL + GAP[1])];
    const columns = Math.max(0, ...places.map(place => place.column));
    const rows = Math.max(0, ...places.map(place => place.row));
    const inner = document.createElement("div");
    inner.className = "tree";
    inner.style.width = `${left(columns + 1)}px`;
    inner.style.height = `${top(rows + 1)}px`;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    svg.setAttribute("width", left(columns + 1));
    svg.setAttribute("height", top(rows + 1));
    inner.append(svg);
    const path = new Set();
    for (let turn = this.current; turn; turn = this.parent(turn)) path.add(turn.id);
    places.forEach(({ turn, column, row, from }, index) => {
      if (from) {
        const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
        const [x0, y0] = [left(from[0]) + CELL, top(from[1]) + CELL / 2];
        const [x1, y1] = [left(column), top(row) + CELL / 2];
        const bend = x0 + GAP[0] / 2;
        line.setAttribute("d", y0 === y1 ? `M${x0} ${y0}H${x1}` : `M${x0} ${y0}H${bend - 6}q6 0 6 6V${y1 - 6}q0 6 6 6H${x1}`);
        if (path.has(turn.id)) line.setAttribute("class", "path");
        svg.append(line);
      }
      const button = document.createElement("button");
      const isHead = turn.id === this.head;
      button.className = "turn";
      button.type = "button";
      button.dataset.turn = turn.id;
      button.setAttribute("role", "treeitem");
      button.setAttribute("aria-level", column + 1);
      button.setAttribute("aria-selected", isHead);
      button.tabIndex = isHead ? 0 : -1;
      button.title = turn.made ? turn.words || "Made" : turn.words || "Opened";
      button.setAttribute("aria-label", `Turn ${index + 1}: ${button.title}`);
      button.classList.toggle("busy", busy === turn.id);
      button.draggable = true;
      button.style.left = `${left(column)}px`;
      button.style.top = `${top(row)}px`;
      const image = document.createElement("img");
      image.alt = "";
      image.src = this.url(turn, true);
      image.draggable = false;
      image.classList.toggle("crisp", Math.max(turn.width, turn.height) <= CELL);
      button.append(image);
      button.addEventListener("click", () => go(turn.id));
      button.addEventListener("dragstart", event => event.dataTransfer.setData("text/x-ace-turn", turn.id));
      button.addEventListener("keydown", event => {
        const beside = places.filter(place => place.column === column).map(place => place.turn.id);
        const at = beside.indexOf(turn.id);
        const target = {
          ArrowLeft: turn.parent, ArrowRight: this.next(turn.id), ArrowUp: beside[at - 1], ArrowDown: beside[at + 1],
        }[event.key];
        if (event.key === "Delete") remove(turn.id);
        else if (event.key.startsWith("Arrow")) element.querySelector(`[data-turn="${target}"]`)?.focus();
        else return;
        event.preventDefault();
        event.stopPropagation();
      });
      inner.append(button);
    });
    const had = element.contains(document.activeElement);
    element.replaceChildren(inner);
    const head = element.querySelector('[aria-selected="true"]');
    // By hand, because `scrollIntoView` would move the page, too.
    if (head) {
      const [x, y] = [head.offsetLeft, head.offsetTop];
      const inside = (from, to, side) => Math.max(to + CELL + GAP[1] - side, Math.min(from, to - GAP[1]));
      element.scrollTo(inside(element.scrollLeft, x, element.clientWidth), inside(element.scrollTop, y, element.clientHeight));
    }
    if (had) head?.focus();
  }
}

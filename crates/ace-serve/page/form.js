// The form at the right: words, task, references, settings. It knows what is asked, and nothing of pictures or turns.

const $ = id => document.getElementById(id);
const SAMPLERS = ["euler", "heun", "dpmpp-2m", "dpmpp-2m-comfy", "unipc", "lcm"];
const SCHEDULES = [
  "flux", "simple", "normal", "sgm-uniform", "beta", "beta-comfy", "linear-quadratic", "kl-optimal", "karras", "exponential",
];
const NUMBERS = ["num_steps", "guidance", "repainting_scale", "shift", "tile"];
const spaced = name => name.replaceAll("_", " ");

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class Form {
  models = [];
  limits = {};
  /** Pictures to take something from. */
  references = [];
  /** The user's own drawing, or null. */
  map = null;
  #urls = new Map();

  /** `hooks`: changed(), select(mask), removeMask(mask), picture(file) and turn(id), which give a blob. */
  constructor(hooks) {
    this.hooks = hooks;
    for (const element of $("settings").querySelectorAll("input, select")) {
      element.addEventListener("change", () => {
        if (element.id === "model") this.#describe();
        this.#changed();
      });
    }
    $("task").addEventListener("change", () => {
      $("repainting_scale").value = "";
      this.#describeTask();
      this.#changed();
    });
    $("reset").addEventListener("click", () => {
      for (const element of $("settings").querySelectorAll(".grid input")) element.value = "";
      for (const id of ["sampler", "schedule"]) $(id).value = "";
      $("keep_outside").checked = true;
      this.#setLoras([]);
      this.#changed();
    });
  }

  #changed() {
    this.#sum();
    this.hooks.changed();
  }

  /** What the server or the browser can do. */
  setModels({ models, limits = {} }) {
    Object.assign(this, { models, limits });
    $("model").replaceChildren(...models.map(model => new Option(model.id, model.id)));
    $("model-row").hidden = models.length < 2;
    this.#describe();
  }

  get model() { return this.models.find(model => model.id === $("model").value) ?? this.models[0]; }
  get task() { return this.model?.tasks.find(task => task.name === $("task").value) ?? null; }
  needs(what) { return this.task?.needs?.filter(need => need === what).length ?? 0; }
  /** Whether a picture goes in: a task that does not speak of one takes none. */
  get takesImage() { return !this.task || this.needs("image") > 0; }
  get takesReferences() { return !this.task || this.needs("reference") > 0; }

  #describe() {
    const { model } = this;
    if (!model) return;
    $("about").textContent = model.description || model.about || "";
    $("about").title = [model.id, model.licence].filter(Boolean).join(", ");
    const had = $("task").value;
    const options = model.tasks.map(task => new Option(spaced(task.name), task.name));
    $("task").replaceChildren(new Option("as the words say", ""), ...options);
    $("task-row").hidden = !model.tasks.length;
    const usual = model.tasks.find(task => [...task.needs].sort().join() === "image,mask") ?? model.tasks[0];
    $("task").value = model.tasks.some(task => task.name === had) ? had : usual?.name ?? "";
    const listed = (id, names, own) => {
      const had = $(id).value;
      $(id).replaceChildren(new Option(own ?? "the card’s", ""), ...names.filter(name => name !== own).map(name => new Option(name, name)));
      if (names.includes(had)) $(id).value = had;
    };
    listed("sampler", model.samplers ?? SAMPLERS, model.sampler);
    listed("schedule", model.schedules ?? SCHEDULES, model.schedule);
    $("num_steps").placeholder = model.num_steps ?? "";
    $("guidance").placeholder = model.guidance ?? "";
    [$("width").placeholder, $("height").placeholder] = model.size ?? ["", ""];
    $("loras").replaceChildren(...(model.loras ?? []).map(lora => {
      const box = make("input", { type: "checkbox", value: lora.name });
      const weight = make("input", { type: "number", step: "any", placeholder: "1", ariaLabel: `Weight of ${lora.name}` });
      for (const element of [box, weight]) element.addEventListener("change", () => this.#changed());
      return make("label", {}, box, `LoRA ${lora.name}`, weight);
    }));
    this.#describeTask();
    this.#sum();
  }

  #describeTask() {
    const { task } = this;
    const [takes, example] = (task?.about ?? "").split(/:\s+/);
    let text = task?.about ?? "The model decides by what it is given.";
    text = text[0].toUpperCase() + text.slice(1);
    $("task-about").textContent = example ? `Takes ${takes}. Say for example “${example}”.` : text;
    if (task && !this.takesImage) $("task-about").textContent += " The picture on the stage stays as it is.";
    $("repainting_scale").placeholder = task?.repainting_scale ?? "";
    for (const field of $("words").querySelectorAll("textarea")) field.placeholder = example ? `For example: ${example}` : "Say what should be seen";
    this.drawReferences();
  }

  #sum() {
    const seed = $("seed").value && `seed ${$("seed").value}`;
    const steps = `${$("num_steps").value || this.model?.num_steps || "?"} steps`;
    $("settings-sum").textContent = [steps, seed].filter(Boolean).join(", ");
  }

  // ---- words, one field for each mask

  /** Shows a field for each mask. `words` is kept by the caller, by mask. */
  drawWords(masks, words, active, colour) {
    const several = masks.length > 1;
    const had = document.activeElement?.closest?.(".word")?.dataset.mask;
    $("words").replaceChildren(...masks.map((mask, index) => {
      const field = make("textarea", { id: `words-${mask}`, rows: 3, value: words.get(mask) ?? "" });
      const swatch = make("span", { className: "swatch" });
      swatch.style.backgroundColor = `rgb(${colour(mask).join()})`;
      swatch.style.color = swatch.style.backgroundColor;
      const label = make("label", { htmlFor: field.id }, ...(several ? [swatch, `Mask ${index + 1}`] : ["What should be seen?"]));
      if (several) {
        const remove = make("button", { type: "button", className: "quiet icon", title: "Remove this mask", ariaLabel: `Remove mask ${index + 1}` }, icon("close"));
        remove.addEventListener("click", event => {
          event.preventDefault();
          this.hooks.removeMask(mask);
        });
        label.append(remove);
      }
      field.addEventListener("input", () => {
        words.set(mask, field.value);
        this.hooks.changed();
      });
      const word = make("div", { className: "word" }, label, field);
      word.dataset.mask = mask;
      word.classList.toggle("active", mask === active);
      word.addEventListener("focusin", () => this.hooks.select(mask));
      word.addEventListener("click", () => this.hooks.select(mask));
      return word;
    }));
    this.#describeTask();
    if (had) $(`words-${had}`)?.focus();
  }

  // ---- references

  /** One slot for each reference, those that the task needs, and one more. */
  drawReferences() {
    const most = this.limits.max_references ?? 16;
    const needed = this.needs("reference");
    const shown = Math.min(most, Math.max(needed, this.references.length + (this.takesReferences ? 1 : 0)));
    const names = (this.model?.placeholders ?? []).filter(name => name !== "{image}");
    const slots = Array.from({ length: shown }, (_, at) => this.#slot({
      blob: this.references[at], name: names[at] ?? `${at + 1}`, needed: at < needed,
      put: blob => this.references.splice(Math.min(at, this.references.length), this.references[at] ? 1 : 0, blob),
      drop: () => this.references.splice(at, 1),
    }));
    $("references").replaceChildren(...slots);
    $("references-row").hidden = !slots.length;
    $("references-title").textContent = this.takesReferences ? "References" : "References (this task takes none)";
    $("drawing-row").hidden = !this.takesImage;
    $("drawing-slot").replaceChildren(this.#slot({
      blob: this.map, name: "drawing", put: blob => { this.map = blob; }, drop: () => { this.map = null; },
    }));
  }

  #slot({ blob, name, needed, put, drop }) {
    const set = async picture => {
      const read = await picture;
      if (!read) return;
      put(read);
      this.drawReferences();
      this.hooks.changed();
    };
    const label = blob ? `Picture ${name}: change` : `Add picture ${name}`;
    const main = make("button", { type: "button", ariaLabel: label, title: `${label}: drop a picture or a turn, or click` });
    const slot = make("div", { className: `slot${blob ? " full" : ""}${needed ? " needed" : ""}` }, main);
    slot.setAttribute("role", "listitem");
    if (blob) {
      if (!this.#urls.has(blob)) this.#urls.set(blob, URL.createObjectURL(blob));
      main.append(make("img", { src: this.#urls.get(blob), alt: "" }));
      const remove = make("button", { type: "button", className: "drop", ariaLabel: `Remove picture ${name}`, title: "Remove" }, icon("close"));
      remove.addEventListener("click", () => {
        drop();
        this.drawReferences();
        this.hooks.changed();
      });
      slot.append(remove);
    } else main.append(icon("plus"));
    slot.append(make("small", { textContent: name }));
    main.addEventListener("click", () => {
      const input = make("input", { type: "file", accept: "image/*" });
      input.addEventListener("change", () => input.files[0] && set(this.hooks.picture(input.files[0])));
      input.click();
    });
    const over = event => {
      event.preventDefault();
      event.stopPropagation();
      slot.classList.toggle("over", event.type === "dragover");
    };
    slot.addEventListener("dragover", over);
    slot.addEventListener("dragleave", over);
    slot.addEventListener("drop", event => {
      over(event);
      document.body.classList.remove("dragging");
      const turn = event.dataTransfer.getData("text/x-ace-turn");
      if (turn) set(this.hooks.turn(turn));
      else if (event.dataTransfer.files[0]) set(this.hooks.picture(event.dataTransfer.files[0]));
    });
    return slot;
  }

  // ---- settings

  #setLoras(loras) {
    for (const label of $("loras").children) {
      const [box, weight] = label.querySelectorAll("input");
      const found = loras.find(lora => lora.name === box.value);
      box.checked = Boolean(found);
      weight.value = found && found.weight !== 1 ? found.weight : "";
    }
  }

  /** What is set, for the message; what is left to the card is not in it. */
  settings() {
    const message = { model: this.model?.id };
    const task = $("task").value;
    if (task) message.task = task;
    for (const id of NUMBERS) if ($(id).value !== "") message[id] = Number($(id).value);
    for (const id of ["sampler", "schedule"]) if ($(id).value) message[id] = $(id).value;
    if ($("seed").value.trim() !== "") message.seed = Number($("seed").value);
    if (Number($("n").value) > 1) message.n = Number($("n").value);
    if (!$("keep_outside").checked) message.keep_outside = false;
    const loras = [...$("loras").children].map(label => [...label.querySelectorAll("input")])
      .filter(([box]) => box.checked).map(([box, weight]) => ({ name: box.value, weight: weight.value === "" ? 1 : Number(weight.value) }));
    if (loras.length) message.loras = loras;
    const size = ["width", "height"].map((id, at) => Number($(id).value || (this.model?.size?.[at] ?? 0)));
    if (size[0] && size[1]) message.size = size;
    return message;
  }

  /** Puts settings back, whatever of them the form knows. What is as the model has it anyway stays unsaid. */
  putBack(settings) {
    if (settings.model && this.models.some(model => model.id === settings.model)) $("model").value = settings.model;
    this.#describe();
    const { model } = this;
    if (settings.task !== undefined) $("task").value = model.tasks.some(task => task.name === settings.task) ? settings.task : "";
    this.#describeTask();
    const own = { ...model, repainting_scale: this.task?.repainting_scale, tile: 0 };
    for (const id of NUMBERS) {
      const value = settings[id];
      // Numbers of 32 bits come back with more digits than they had.
      const isOwn = value === null || value === undefined || Math.abs(value - own[id]) < 1e-6;
      $(id).value = isOwn ? "" : Number(value.toPrecision(7));
    }
    for (const id of ["sampler", "schedule"]) $(id).value = settings[id] && settings[id] !== model[id] ? settings[id] : "";
    $("seed").value = settings.seed ?? "";
    $("n").value = settings.n > 1 ? settings.n : "";
    $("keep_outside").checked = settings.keep_outside ?? true;
    ["width", "height"].forEach((id, at) => {
      const side = settings.size?.[at];
      $(id).value = side && side !== model.size?.[at] ? side : "";
    });
    this.#setLoras(settings.loras ?? []);
    this.#sum();
  }

  setTask(name) {
    if (![...$("task").options].some(option => option.value === name)) return;
    $("task").value = name;
    this.#describeTask();
  }
}

// The keyboard: which key does what, and the two that are held.

/** Milliseconds for which Tab is a tap. */
const TAP = 200;

/** What is pressed, as the help writes it. */
function named(event) {
  const known = { Escape: "Esc", "-": "−", "=": "+" }[event.key];
  const key = known ?? (event.key.length === 1 ? event.key.toUpperCase() : event.key);
  const hasCase = /^[A-Z]$/.test(key) || key.length > 1;
  return [(event.ctrlKey || event.metaKey) && "Ctrl", hasCase && event.shiftKey && "Shift", key].filter(Boolean).join(" ");
}

/** Goes on to the next control, as Tab does everywhere. */
function focusNext() {
  const all = [...document.querySelectorAll("button, input, select, textarea, summary, [tabindex='0']")];
  const able = all.filter(element => !element.disabled && element.tabIndex >= 0 && element.offsetParent);
  able[able.indexOf(document.activeElement) + 1]?.focus();
}

/**
 * Listens for keys; `table` has rows of a key, what it does in words, and the call. Tab shows what was before and Space
 * moves the view for as long as they are held, unless a control has the focus.
 */
export function listen(table, stage) {
  const calls = new Map(table.filter(([, , call]) => call).map(([key, , call]) => [key, call]));
  let tabSince = 0;

  document.addEventListener("keydown", event => {
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
      return stage.holdHand(true);
    }
    const isPlain = !event.ctrlKey && !event.metaKey;
    if (target === stage.element && isPlain && stage.key(event)) return event.preventDefault();
    // Words that are selected are copied as everywhere.
    if (name === "Ctrl C" && String(getSelection())) return;
    const call = calls.get(name);
    if (!call) return;
    event.preventDefault();
    call();
  });

  document.addEventListener("keyup", event => {
    if (event.key === " ") stage.holdHand(false);
    if (event.key !== "Tab" || !tabSince) return;
    stage.hold(false);
    // A tap is no look.
    if (performance.now() - tabSince < TAP) focusNext();
    tabSince = 0;
  });

  addEventListener("blur", () => {
    stage.hold(false);
    stage.holdHand(false);
  });
}

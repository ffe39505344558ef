// What the page says: one clear line with what can be done about it, words for those who do not see it, and questions.

const $ = id => document.getElementById(id);
/** Milliseconds for which a line stands that needs no answer. */
const STANDS = 9000;

let timer;

/** One clear line, and what can be done about it. */
export function say(text, hint = "", { bad = false, stays = bad } = {}) {
  clearTimeout(timer);
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", bad);
  $("notice").setAttribute("role", bad ? "alert" : "status");
  $("notice-text").textContent = text;
  $("notice-hint").textContent = hint;
  if (text && !stays) timer = setTimeout(() => say(""), STANDS);
}

export function isSaying() { return !$("notice").hidden; }

/** What went wrong, in its own words. */
export function fail(error) { say(sentence(error.message), sentence(error.hint ?? ""), { bad: true }); }

/** With a capital, unless it begins with a field's name, and a stop. */
export function sentence(text) {
  if (!text) return "";
  const begin = /^\w*_/.test(text) ? text[0] : text[0].toUpperCase();
  return begin + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");
}

/** For screen readers alone. */
export function announce(text) { $("live").textContent = text; }

/** Shows a dialog until it is closed; gives the value of the button. */
export function dialog(id) {
  return new Promise(resolve => {
    $(id).returnValue = "";
    $(id).addEventListener("close", () => resolve($(id).returnValue), { once: true });
    $(id).showModal();
  });
}

export async function sure(text, yes) {
  $("ask-text").textContent = text;
  $("ask-ok").textContent = yes;
  return await dialog("ask") === "ok";
}

let asking = null;

/** The token that the server wants, asked for once however many requests wait for it. */
export function askToken(why) {
  asking ??= (async () => {
    $("token-why").textContent = why || "Whoever started it has it.";
    $("token-value").value = "";
    const answer = await dialog("token");
    asking = null;
    return answer === "ok" ? $("token-value").value.trim() : null;
  })();
  return asking;
}

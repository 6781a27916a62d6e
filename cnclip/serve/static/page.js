// The page's texts, and small helpers to build it. All text is set as text, never as HTML.

import texts from "./words.js";

export const language = document.documentElement.lang.startsWith("zh") ? "zh" : "en";
const words = texts[language];

// A text of the page with its values filled in: {name}.
export function say(name, values = {}) {
  return words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

export const byId = (id) => document.getElementById(id);

// An element with attributes, properties that begin with a dot, and children.
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children);
  return made;
}

// Fill in the texts of the page in its language.
export function translate() {
  for (const [attribute, set] of [
    ["data-word", (part, text) => { part.textContent = text; }],
    ["data-label", (part, text) => part.setAttribute("aria-label", text)],
    ["data-placeholder", (part, text) => part.setAttribute("placeholder", text)],
  ]) {
    for (const part of document.querySelectorAll(`[${attribute}]`)) {
      set(part, words[part.getAttribute(attribute)]);
    }
  }
}

// Show notes: each is a text, or {text, kind} with kind "cut" or "warning".
export function show(place, notes) {
  place.replaceChildren(...notes.map((note) => {
    const { text, kind } = typeof note === "string" ? { text: note } : note;
    return element("p", { class: kind ? `note ${kind}` : "note", role: kind ? "alert" : null }, text);
  }));
}

// A place of answers is busy from its newest request until the answer is on the page. Then its
// data-answered equals its data-request, which counts the requests.
export function begin(place) {
  place.dataset.request = Number(place.dataset.request ?? 0) + 1;
  place.setAttribute("aria-busy", "true");
}

export function finish(place) {
  place.dataset.answered = place.dataset.request;
  place.removeAttribute("aria-busy");
}

// The reason of an error for people.
export function reasonOf(error) {
  if (error.code === "invalid_item" && /^(image|labels)/.test(error.param ?? "image")) {
    return say("bad_image");
  }
  return say("failed", { error: error.message });
}

const CJK = "\\u2e80-\\u2fdf\\u3005-\\u3007\\u3040-\\u30ff\\u31f0-\\u31ff\\u3400-\\u4dbf" +
  "\\u4e00-\\u9fff\\uf900-\\ufaff\\u{20000}-\\u{3ffff}";
const WORD = new RegExp(`[${CJK}]|(?:(?![${CJK}])[\\p{L}\\p{N}\\p{M}_])+`, "gu");
export const MAX_WORDS = 75;
const MAX_CHARACTERS = 1000;
const SHOWN = 12;

// The number of words: each Chinese character, and each run of other letters and digits.
export const countWords = (text) => (text.match(WORD) ?? []).length;

// Why a text is too long for the page, or null.
export function tooLong(text) {
  const characters = [...text].length;
  if (characters > MAX_CHARACTERS) {
    return say("too_many_characters", {
      characters: characters.toLocaleString("en"), limit: MAX_CHARACTERS.toLocaleString("en"),
    });
  }
  const count = countWords(text);
  return count > MAX_WORDS ? say("too_many_words", { words: count, limit: MAX_WORDS }) : null;
}

export const ending = (text) => [...text].length <= SHOWN ? text : "…" + [...text].slice(-SHOWN).join("");
export const beginning = (text) => [...text].length <= SHOWN ? text : [...text].slice(0, SHOWN).join("") + "…";
export const percent = (share) => `${(100 * share).toFixed(1)}%`;

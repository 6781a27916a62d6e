// Results as tiles: image or text, caption, score, and what one can do with each.

import { file, imageUrl } from "./api.js";
import { byId, element, percent, say } from "./page.js";

// For the browser to save a file.
const KEPT_MS = 60_000;

// A score with three decimals. One below the threshold does not look equal to it.
export function scoreText(score, threshold) {
  const text = score.toFixed(3);
  const misses = threshold !== null && score < threshold && Number(text) >= Number(threshold.toFixed(3));
  return misses ? (Number(text) - 0.001).toFixed(3) : text;
}

export function tile(result, threshold, { like, copied, failed }) {
  const reaches = result.score !== null && threshold !== null && result.score >= threshold;
  const parts = result.text === null ? [picture(result), element("b", { title: result.path }, result.caption)]
                                     : [element("q", {}, result.text)];
  if (result.score !== null) {
    const share = result.probability === null ? "" : ` · ${percent(result.probability)}`;
    parts.push(element("small", { title: reaches ? say("reaches") : null },
      element("em", {}, scoreText(result.score, threshold)), share,
      ...(reaches ? [" ", element("span", { class: "mark", role: "img", "aria-label": say("reaches") }, "✓")] : [])));
  }
  parts.push(element("p", { class: "actions" },
    element("button", { type: "button", class: "like", onclick: () => like(result) }, say("like")),
    element("button", { type: "button", class: "copy", title: result.path, onclick: async ({ target }) => {
      if (await copy(result.text ?? result.path, target)) copied();
    } }, say(result.text === null ? "copy_path" : "copy_text")),
    ...(result.image === null ? [] : [element("button", { type: "button", class: "download", onclick: () => download(result, failed) },
      say("download"))])));
  return element("article", { class: reaches ? "reaches" : null }, ...parts);
}

function picture(result) {
  const image = element("img", { alt: result.caption, loading: "lazy", decoding: "async" });
  const button = element("button", { type: "button", class: "open", title: say("enlarge"),
    "aria-label": `${say("enlarge")}: ${result.caption}`, onclick: () => enlarge(result) }, image);
  const missing = () => button.replaceWith(element("span", { class: "none" }, say("no_image")));
  image.addEventListener("error", missing);
  if (result.thumbnail === null) missing();
  else imageUrl(result.thumbnail).then((url) => { image.src = url; }, missing);
  return button;
}

// Whether a text was copied. Browsers have `navigator.clipboard` on this machine and with https only.
async function copy(text, button) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const field = element("textarea", { class: "unseen", "aria-hidden": "true" }, text);
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  button.focus();
  return done;
}

async function download(result, failed) {
  try {
    const { url, name } = await file(result.image);
    element("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
  } catch (error) {
    failed(error);
  }
}

async function enlarge(result) {
  const dialog = byId("enlarged");
  const image = dialog.querySelector("img");
  image.alt = dialog.querySelector("p").textContent = result.caption;
  image.src = await imageUrl(`${result.thumbnail}&size=1024`);
  await image.decode().catch(() => {}); // until then, it would show the previous image
  dialog.showModal();
}

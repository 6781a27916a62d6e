// A field for one image: choose, drop, paste, look at it, remove it.

import { element, say } from "./page.js";

export class ImageField {
  #input; #preview; #remove; #place;
  file = null;

  constructor(place, label, changed = () => {}) {
    this.#place = place;
    this.changed = changed;
    const id = `${place.id}-file`;
    this.#input = element("input", { type: "file", accept: "image/*", id, "aria-label": say(label) });
    this.#preview = element("img", { alt: "", hidden: true });
    this.#remove = element("button", { type: "button", class: "remove", "aria-label": say("remove"), hidden: true }, "×");
    place.append(
      element("label", { for: id }, element("span", { class: "title" }, say(label)),
        element("span", { class: "how" }, say("upload_how")), this.#preview),
      this.#input, this.#remove,
    );
    this.#input.addEventListener("change", () => this.set(this.#input.files[0] ?? null));
    this.#remove.addEventListener("click", () => this.set(null));
    place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
    place.addEventListener("dragleave", () => place.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      place.classList.remove("over");
      const file = imageOf(event.dataTransfer);
      if (file) this.set(file);
    });
    document.addEventListener("paste", (event) => {
      const file = place.checkVisibility() ? imageOf(event.clipboardData) : null;
      if (file) { event.preventDefault(); this.set(file); }
    });
  }

  set(file) {
    if (this.#preview.src) URL.revokeObjectURL(this.#preview.src);
    this.file = file;
    this.#input.value = "";
    this.#preview.hidden = this.#remove.hidden = !file;
    this.#preview.alt = file?.name ?? ""; // shown where the file is no image
    this.#place.classList.toggle("full", Boolean(file));
    if (file) this.#preview.src = URL.createObjectURL(file);
    else this.#preview.removeAttribute("src");
    this.changed();
  }
}

const imageOf = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? null;

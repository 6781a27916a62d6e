// The probabilities of labels for an image.

import { ApiError, imageUrl, post } from "./api.js";
import { begin, beginning, byId, element, ending, finish, percent, reasonOf, say, show, tooLong } from "./page.js";
import { ImageField } from "./upload.js";

const MAX_LABELS = 100;
const MIN_BAR = 0.004;
const BETWEEN = /[\n\r,，、;；]+/;

export class Labels {
  #image; #number = 0; #collection = null;

  constructor() {
    this.#image = new ImageField(byId("label-image"), "label_image");
    byId("label-form").addEventListener("submit", (event) => { event.preventDefault(); this.#compute(); });
    byId("example").addEventListener("click", () => this.#example());
  }

  open(collections) {
    this.#collection = collections.find((one) => one.examples.image !== null) ?? null;
    byId("example").hidden = this.#collection === null;
  }

  async #example() {
    const { name, examples } = this.#collection;
    const query = new URLSearchParams({ collection: name, id: examples.image });
    const number = this.#begin();
    try {
      const response = await fetch(await imageUrl(`v1/thumbnail?${query}`));
      if (!response.ok) throw new ApiError(response.status, null);
      const image = new File([await response.blob()], "example.webp", { type: "image/webp" });
      if (number !== this.#number) return;
      this.#image.set(image);
      byId("labels").value = examples.labels.join("\n");
    } catch (error) {
      if (number === this.#number) this.#fail(reasonOf(error));
      return;
    }
    await this.#compute();
  }

  async #compute() {
    const given = byId("labels").value.split(BETWEEN).map((one) => one.trim()).filter(Boolean);
    const labels = [...new Set(given)], number = this.#begin();
    const problem = this.#problem(labels);
    if (problem) {
      this.#fail(problem);
      return;
    }
    try {
      const answer = await post("v1/classify", { labels }, this.#image.file);
      if (number !== this.#number) return;
      this.#draw(answer.labels, labels.length < given.length);
      finish(byId("shares"));
    } catch (error) {
      if (number !== this.#number) return;
      this.#fail(reasonOf(error));
    }
    if (innerWidth < 768) byId("shares").scrollIntoView();
  }

  #begin() {
    begin(byId("shares"));
    return ++this.#number;
  }

  #fail(reason) {
    show(byId("label-note"), [{ text: reason, kind: "warning" }]);
    byId("bars").replaceChildren();
    finish(byId("shares"));
  }

  #problem(labels) {
    if (!this.#image.file) return say("no_label_image");
    if (labels.length < 2) return say("too_few_labels");
    if (labels.length > MAX_LABELS) return say("too_many_labels", { labels: labels.length, limit: MAX_LABELS });
    return labels.map(tooLong).find(Boolean) ?? null;
  }

  #draw(labels, merged) {
    byId("bars").replaceChildren(...labels.map(({ label, probability }) => {
      const bar = element("i");
      bar.style.width = `${100 * Math.max(probability, MIN_BAR)}%`;
      return element("li", {}, element("span", { class: "name" }, label), element("b", {}, percent(probability)), bar);
    }));
    const notes = [];
    for (const { label, text } of labels) {
      if (text.unknown) notes.push({ text: say("unknown_label", { label: beginning(label) }), kind: "cut" });
      if (text.kept !== null) {
        notes.push({ text: say("cut_label", { label: beginning(label), limit: text.limit, kept: ending(text.kept) }), kind: "cut" });
      }
    }
    if (merged) notes.push(say("dropped"));
    show(byId("label-note"), notes);
  }
}

// The probabilities of labels for an image.

import { imageUrl, post } from "./api.js";
import { beginning, byId, element, ending, percent, reasonOf, say, show, tooLong } from "./page.js";
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
    const response = await fetch(await imageUrl(`v1/thumbnail?${query}`));
    this.#image.set(new File([await response.blob()], "example.webp", { type: "image/webp" }));
    byId("labels").value = examples.labels.join("\n");
    await this.#compute();
  }

  async #compute() {
    const given = byId("labels").value.split(BETWEEN).map((one) => one.trim()).filter(Boolean);
    const labels = [...new Set(given)], number = ++this.#number;
    const problem = this.#problem(labels);
    if (problem) {
      show(byId("label-note"), [{ text: problem, kind: "warning" }]);
      byId("bars").replaceChildren();
      return;
    }
    try {
      const answer = await post("v1/classify", { labels }, this.#image.file);
      if (number !== this.#number) return;
      this.#draw(answer.labels, labels.length < given.length);
    } catch (error) {
      if (number !== this.#number) return;
      show(byId("label-note"), [{ text: reasonOf(error), kind: "warning" }]);
      byId("bars").replaceChildren();
    }
    if (innerWidth < 768) byId("shares").scrollIntoView();
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

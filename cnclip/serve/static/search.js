// The search: a query of text, image or both, or a result to find similar ones; pages of results.

import { call, post } from "./api.js";
import { begin, byId, element, ending, finish, reasonOf, say, show, tooLong } from "./page.js";
import { tile } from "./tiles.js";
import { ImageField } from "./upload.js";

export class Search {
  #image; #collections = []; #state = null; #aborter = null; #results = []; #busy = false; #observer;

  constructor() {
    this.#image = new ImageField(byId("image"), "image");
    byId("ask").addEventListener("submit", (event) => { event.preventDefault(); this.#ask(); });
    byId("query").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        byId("ask").requestSubmit();
      }
    });
    byId("query").addEventListener("input", fitQuery);
    for (const name of ["weight", "count"]) {
      byId(name).addEventListener("input", ({ target }) => {
        target.parentElement.querySelector("output").value = target.value;
      });
    }
    byId("more").addEventListener("click", () => this.#load());
    this.#observer = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.#load();
    }, { rootMargin: "400px" });
    this.#selector.addEventListener("change", () => { this.#image.set(null); this.start({ collection: this.#selector.value }); });
  }

  get #selector() { return byId("collection").querySelector("select"); }
  get collection() { return this.#collections.find((one) => one.name === this.#selector.value); }

  // Take the collections; the page offers a choice where there are several.
  open(collections) {
    this.#collections = collections;
    this.#selector.replaceChildren(...collections.map((one) => element("option", { value: one.name }, one.name)));
    byId("collection").hidden = collections.length < 2;
  }

  // Search for what an address has, or show a part of the collection.
  restore(parameters) {
    const name = parameters.get("collection");
    this.#selector.value = this.#collections.some((one) => one.name === name) ? name : this.#collections[0].name;
    const text = parameters.get("q") ?? "", like = parameters.get("like");
    byId("query").value = text;
    fitQuery();
    this.#image.set(null);
    this.#examples();
    if (text || like) this.#run({ text: text || null, like, image: null });
    else this.#run(null);
  }

  // Begin anew, and put it into the address, so that the way back leads here.
  start(fields) {
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(fields)) if (value) parameters.set(name, value);
    if (this.#collections.length > 1 && !parameters.has("collection")) parameters.set("collection", this.#selector.value);
    const query = parameters.toString();
    history.pushState(null, "", query ? `?${query}` : location.pathname);
    this.restore(parameters);
  }

  #ask() {
    const text = byId("query").value.trim(), image = this.#image.file;
    const problem = !text && !image ? say("nothing_asked") : tooLong(text);
    if (problem) {
      this.#cancel();
      begin(byId("results"));
      show(byId("note"), [{ text: problem, kind: "warning" }]);
      byId("found").replaceChildren();
      finish(byId("results"));
    } else if (image) { // an image is not part of an address
      this.#run({ text: text || null, like: null, image });
    } else {
      this.start({ q: text });
    }
  }

  #examples() {
    byId("examples").replaceChildren(...this.collection.examples.queries.map((text) =>
      element("button", { type: "button", onclick: () => this.start({ q: text }) }, text)));
  }

  #cancel() {
    this.#aborter?.abort();
    this.#aborter = new AbortController();
    this.#busy = false;
    this.#state = null;
    byId("more").hidden = true;
  }

  // Show the first results of a query; of null, a part of the collection.
  #run(query) {
    this.#cancel();
    this.#results = [];
    const settings = { collection: this.#selector.value, k: Number(byId("count").value),
                       weight: query?.text && query.image ? Number(byId("weight").value) : undefined };
    this.#state = { query, settings };
    begin(byId("results"));
    this.#load();
  }

  async #load() {
    if (this.#busy || !this.#state) return;
    const { query, settings } = this.#state, first = this.#results.length === 0;
    const signal = this.#aborter.signal;
    this.#busy = true;
    try {
      const answer = query === null
        ? await call(`v1/sample?${new URLSearchParams({ collection: settings.collection, count: settings.k })}`, {}, { signal })
        : await post("v1/search", { ...settings, text: query.text, like: query.like, offset: this.#results.length }, query.image, { signal });
      if (signal.aborted) return; // by a newer query, which has the page now
      this.#results.push(...answer.results);
      this.#draw(answer, first);
    } catch (error) {
      if (signal.aborted) return;
      show(byId("note"), [{ text: reasonOf(error), kind: "warning" }]);
      if (first) byId("found").replaceChildren();
      byId("more").hidden = true;
      this.#state = null;
    }
    this.#busy = false;
    if (first) {
      finish(byId("results"));
      if (innerWidth < 768 && query !== null) byId("results").scrollIntoView();
    }
    // Observed again, the end of the page is reported even if it is still in view.
    this.#observer.unobserve(byId("more"));
    this.#observer.observe(byId("more"));
  }

  #draw(answer, first) {
    const actions = { like: (result) => this.start({ like: result.id }),
                      copied: () => { byId("status").textContent = say("copied"); },
                      failed: (error) => show(byId("status"), [{ text: reasonOf(error), kind: "warning" }]) };
    const tiles = answer.results.map((result) => tile(result, answer.threshold, actions));
    if (first) byId("found").replaceChildren(element("div", { class: "tiles" }, ...tiles));
    else byId("found").firstElementChild.append(...tiles);
    show(byId("note"), this.#notes(answer));
    byId("more").hidden = !answer.more;
  }

  #notes(answer) {
    const notes = [], text = answer.text, threshold = answer.threshold;
    if (text?.unknown) notes.push({ text: say("unknown"), kind: "cut" });
    if (text && text.kept !== null) {
      notes.push({ text: say("cut", { ids: text.tokens, limit: text.limit, kept: ending(text.kept) }), kind: "cut" });
    }
    if (this.#state.query === null) {
      const { count, contents } = this.collection;
      const name = count === 1 ? { images: "one_image", texts: "one_text" }[contents] : contents;
      notes.push(`${say("glimpse")} · ${say(name, { count: count.toLocaleString("en") })}`);
    } else if (this.#results.length === 0) {
      notes.push(say("found_nothing"));
    } else {
      if (this.#state.query.like) notes.push(say("similar"));
      if (threshold !== null) {
        const above = this.#results.filter((one) => one.score >= threshold).length;
        notes.push(say("reach", { above, count: this.#results.length, threshold: threshold.toFixed(3) }));
      }
    }
    return notes;
  }
}

function fitQuery() {
  const query = byId("query");
  query.style.height = "auto";
  query.style.height = `${Math.min(query.scrollHeight + 2, 140)}px`;
}

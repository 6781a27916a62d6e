// The application: two tabs, and the address of the page, which a link or the way back restores.

import { call } from "./api.js";
import { Labels } from "./labels.js";
import { byId, language, MAX_WORDS, reasonOf, say, show, translate } from "./page.js";
import { Search } from "./search.js";

const TABS = ["search", "labels"];

translate();
byId("hint").textContent = say("query_hint", { limit: MAX_WORDS });
const other = byId("other");
const search = new Search(), labels = new Labels();
let isOpen = false;

function select(name, focus = false) {
  for (const one of TABS) {
    const tab = byId(`${one}-tab`), chosen = one === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(`${one}-panel`).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
}

for (const name of TABS) {
  byId(`${name}-tab`).addEventListener("click", () => select(name));
  byId(`${name}-tab`).addEventListener("keydown", (event) => {
    if (["ArrowLeft", "ArrowRight"].includes(event.key)) select(TABS.find((one) => one !== name), true);
  });
}

function restore() {
  other.href = `../${language === "zh" ? "en" : "zh"}/${location.search}`;
  if (isOpen) search.restore(new URLSearchParams(location.search));
}
addEventListener("popstate", restore);
other.addEventListener("click", () => { other.href = `../${language === "zh" ? "en" : "zh"}/${location.search}`; });
for (const dialog of document.querySelectorAll("dialog#enlarged")) {
  dialog.addEventListener("click", ({ target }) => { if (target !== dialog.querySelector("p")) dialog.close(); });
}

try {
  const status = byId("status");
  const { data } = await call("v1/collections", {}, { opening: () => { status.textContent = say("opening"); } });
  status.textContent = "";
  labels.open(data);
  if (data.length) {
    search.open(data);
    isOpen = true;
    restore();
  } else { // only models are served
    byId("search-tab").hidden = true;
    select("labels");
  }
} catch (error) {
  show(byId("status"), [{ text: reasonOf(error), kind: "warning" }]);
}

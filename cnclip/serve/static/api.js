// Requests to the server. An error has the server's `code`, and a message for people.

const KEY = "cnclip-key";
const BASE = new URL("../", import.meta.url);
const WAIT_MS = 700;

export class ApiError extends Error {
  constructor(status, content) {
    super(content?.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = content?.code ?? null;
    this.param = content?.param ?? null;
  }
}

export const urlOf = (path) => new URL(path, BASE).href;

function withKey(headers = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

// The JSON of an answer. While the server opens its models, asks again; without a right key, asks
// the user for one.
export async function call(path, options = {}, { signal, opening } = {}) {
  for (;;) {
    const response = await fetch(urlOf(path), { ...options, headers: withKey(options.headers), signal });
    if (response.ok) return response.json();
    const error = new ApiError(response.status, (await contentOf(response, signal))?.error);
    if (error.code === "opening") {
      opening?.();
      await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    } else if (response.status === 401) {
      sessionStorage.setItem(KEY, await askForKey());
    } else {
      throw error;
    }
  }
}

// The content of an answer that reports an error. A proxy's own answers are not JSON.
async function contentOf(response, signal) {
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    return null;
  }
}

export const post = (path, fields, file, settings) =>
  file ? call(path, { method: "POST", body: formOf(fields, file) }, settings)
       : call(path, { method: "POST", headers: { "Content-Type": "application/json" },
                      body: JSON.stringify(fields) }, settings);

function formOf(fields, file) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined) form.append(name, one);
  }
  form.append("file", file);
  return form;
}

let asking = null; // several requests share one question

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key-dialog");
    dialog.addEventListener("close", () => {
      asking = null;
      resolve(document.getElementById("key").value.trim());
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

// Images are requested by script where a key is needed, since an <img> sends none.
export const imageUrl = async (path) => sessionStorage.getItem(KEY) ? (await file(path)).url : urlOf(path);

// A file of the server in memory, and the name that the server gives it.
export async function file(path) {
  const response = await fetch(urlOf(path), { headers: withKey() });
  if (!response.ok) throw new ApiError(response.status, (await contentOf(response))?.error);
  const name = decodeURIComponent(response.headers.get("Content-Disposition")?.split("''")[1] ?? "");
  return { url: URL.createObjectURL(await response.blob()), name };
}

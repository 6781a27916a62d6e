// The description of the API, drawn from the server's own openapi.json.

import { byId, element } from "./page.js";

const description = await (await fetch("openapi.json")).json();
byId("summary").textContent = `${description.info.summary} · ${description.info.version}`;

// The schema that a reference names.
function resolved(schema) {
  const path = schema?.$ref;
  return path ? path.slice(2).split("/").reduce((part, key) => part[key], description) : schema;
}

function kindOf(schema) {
  const { type, anyOf, items, enum: values, const: value } = schema ?? {};
  if (schema?.$ref) return schema.$ref.split("/").pop();
  if (value !== undefined) return JSON.stringify(value);
  if (values) return values.map((one) => JSON.stringify(one)).join(" | ");
  if (anyOf) return [...new Set(anyOf.map(kindOf))].join(" | ");
  return type === "array" ? `${kindOf(items)}[]` : type ?? "any";
}

function fields(schema) {
  const { properties = {}, required = [] } = resolved(schema) ?? {};
  return element("table", {}, ...Object.entries(properties).map(([name, one]) => element("tr", {},
    element("td", {}, element("code", {}, required.includes(name) ? `${name} *` : name)),
    element("td", {}, kindOf(one)), element("td", {}, one.description ?? ""))));
}

function route(path, method, operation) {
  const parts = [element("h2", {}, `${method.toUpperCase()} `, element("code", {}, path)),
                 element("p", {}, operation.description ?? operation.summary ?? "")];
  if (operation.parameters?.length) {
    parts.push(element("h3", {}, "Parameters"), element("table", {}, ...operation.parameters.map((one) =>
      element("tr", {}, element("td", {}, element("code", {}, one.name)), element("td", {}, kindOf(one.schema)),
        element("td", {}, one.description ?? "")))));
  }
  const request = operation.requestBody?.content?.["application/json"]?.schema;
  if (request) {
    parts.push(element("h3", {}, "Request"), fields(request));
    for (const example of resolved(request).examples ?? []) {
      const url = new URL(path.slice(1), location.href).href;
      parts.push(element("pre", {}, `curl ${url} -H 'Content-Type: application/json' -d '${JSON.stringify(example)}'`));
    }
  }
  const answer = operation.responses?.["200"]?.content?.["application/json"]?.schema;
  if (answer) parts.push(element("h3", {}, `Answer: ${kindOf(answer)}`), fields(answer));
  return element("section", {}, ...parts);
}

for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, operation] of Object.entries(methods)) byId("routes").append(route(path, method, operation));
}
for (const [name, schema] of Object.entries(description.components?.schemas ?? {})) {
  byId("routes").append(element("section", {}, element("h2", {}, element("code", {}, name)),
    element("p", {}, schema.description ?? ""), fields(schema)));
}

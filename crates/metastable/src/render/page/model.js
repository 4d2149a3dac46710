// What `inspect` adds: the model, the text coloured by cluster, tables, the table of layers.

function modelSection() {
  const model = report.model;
  if (!model) return null;
  const names = { family: "family", layers: "layers", hidden: "hidden size", heads: "heads", kv_heads: "key-value heads", vocab: "vocabulary", parameters: "parameters", sha256: "sha256" };
  const keys = [...Object.keys(names).filter((key) => key in model), ...Object.keys(model).filter((key) => !names[key])].filter((key) => model[key] !== null && typeof model[key] !== "object");
  return section("model", "The model", h("dl", { class: "card" }, keys.map((key) => h("div", { class: key === "sha256" ? "wide" : null }, h("dt", null, names[key] || key.replace(/_/g, " ")), h("dd", null, typeof model[key] === "number" ? model[key].toLocaleString("en").replace(/,/g, "\u2009") : String(model[key]))))));
}

function textSection() {
  if (!strings) return null;
  const run = base, strip = h("div", { class: "strip", role: "group", "aria-label": "The tokens of the text" }), at = h("span", { class: "soft" });
  const buttons = strings.map((text, token) => h("button", { type: "button", class: special && special[token] ? "special" : null, onclick: () => pin(token), onfocus: () => setToken(token), onblur: () => setToken(-1) }, visible(String(text))));
  buttons.forEach((button, token) => {
    button.addEventListener("pointermove", (event) => { setToken(token); showTip(event, `${tokenName(token)}\n${tokenWords(run, shownFrame(), token)}`); });
    button.addEventListener("pointerleave", () => { setToken(-1); hideTip(); });
  });
  strip.append(...buttons);
  const colour = () => {
    const row = rowAt(run, shownFrame());
    buttons.forEach((button, token) => {
      const look = styleAt(run, row, token);
      button.style.borderBottomColor = look.alone ? "transparent" : look.colour;
      button.style.backgroundColor = look.alone ? "" : `${look.colour}26`;
    });
    at.textContent = `coloured by cluster at ${timeWords(times[shownFrame()])}`;
  };
  on("time", colour);
  on("token", () => buttons.forEach((button, token) => button.classList.toggle("near", token === lit())));
  colour();
  return section("text", "The text", h("p", { class: "panel-title" }, h("span", null, `${strings.length} tokens`), at), strip,
    h("p", { class: "foot" }, "Dotted: special tokens. White space and control characters are shown as signs (⏎ ⇥ ␣ ∅ ⟨U+…⟩)."));
}

// A table that sorts by its columns and filters by text. columns: [{key, words, text}]; onpick(row) where rows can be chosen.
function sortable(label, columns, records, onpick) {
  const body = h("tbody");
  let sorted = null, direction = 1, needle = "";
  const cell = (record, column) => (column.show ? column.show(record) : typeof record[column.key] === "boolean" ? shown(record[column.key]) : column.text ? String(record[column.key] ?? "–") : Number.isInteger(record[column.key]) ? String(record[column.key]) : show(record[column.key]));
  const rows = records.map((record) => {
    const row = h("tr", { class: onpick ? "pick" : null, tabindex: onpick ? 0 : null }, columns.map((column) => h("td", { class: column.name ? "name" : column.text ? "words" : null }, cell(record, column))));
    if (onpick) {
      const choose = () => { rows.forEach((other) => other.row.setAttribute("aria-selected", String(other.row === row))); onpick(record); };
      row.addEventListener("click", choose);
      row.addEventListener("keydown", (event) => { if (event.key === "Enter") { choose(); event.preventDefault(); } });
    }
    return { record, row, words: columns.map((column) => `${column.words} ${cell(record, column)}`).join(" ").toLowerCase() };
  });
  const value = (record) => (typeof sorted.value === "function" ? sorted.value(record) : record[sorted.key]);
  const arrange = () => {
    const shown = rows.filter(({ words }) => needle.split(/\s+/).every((part) => words.includes(part)));
    if (sorted) shown.sort((a, b) => {
      const x = value(a.record), y = value(b.record);
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
    });
    body.replaceChildren(...shown.map(({ row }) => row));
    amount.textContent = `${shown.length} of ${rows.length}`;
  };
  const amount = h("span");
  const heads = columns.map((column) => {
    const head = h("th", { scope: "col", class: column.name ? "name" : column.text ? "words" : null }, h("button", { type: "button", tabindex: 0, onclick: () => {
      direction = sorted === column ? -direction : 1;
      sorted = column;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      arrange();
    } }, column.words));
    head.querySelector("button").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); event.currentTarget.click(); } });
    head.querySelector("button").setAttribute("role", "button");
    return head;
  });
  const search = h("input", { type: "search", placeholder: "filter, e.g. layer 3", "aria-label": `Filter ${label}`, oninput: () => { needle = search.value.trim().toLowerCase(); arrange(); } });
  arrange();
  return { node: h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, h("table", null, h("thead", null, h("tr", null, heads)), body)), tools: [h("label", null, "filter", search), amount] };
}

// Columns of records: the known ones first, then whatever else holds numbers.
function columnsOf(records, first) {
  const names = new Set(records.flatMap((record) => Object.keys(record)));
  const flat = (key) => records.every((record) => record[key] === null || typeof record[key] !== "object");
  const known = first.filter(([key]) => names.has(key)).map(([key, words]) => ({ key, words }));
  return [...known, ...[...names].filter((key) => !first.some(([name]) => name === key) && flat(key) && records.some((record) => record[key] !== null && record[key] !== undefined)).map((key) => ({ key, words: key.replace(/_/g, " "), text: records.some((record) => typeof record[key] === "string") }))];
}
const recordsCsv = (columns, records) => csv(columns.map((column) => column.key), records.map((record) => columns.map((column) => record[column.key])));

// The groups of a layer's numbers: those of all tokens, and one for each part of the row.
const LAYER_GROUPS = { "": "all tokens", without_special: "without special tokens", without_first: "without the first, too", first_token: "the first token", lipschitz: "Lipschitz constants", gaussian_surrogate: "Gaussian surrogate" };

function layersSection() {
  const layers = list(report.layers);
  if (!layers.length) return null;
  const own = columnsOf(layers, [["index", "layer"], ["mean_cosine", "mean cosine"], ["n_clusters", "clusters"], ["effective_rank", "effective rank"], ["anisotropy", "anisotropy"], ["energy", "energy"], ["radius_mean", "mean radius"]]);
  const isPart = (value) => value && typeof value === "object" && !Array.isArray(value);
  const parts = [...new Set(layers.flatMap((layer) => Object.keys(layer).filter((name) => isPart(layer[name]))))];
  const columnsOfPart = (key) => [...new Set(layers.flatMap((layer) => Object.keys(layer[key] || {})))].filter((part) => layers.some((layer) => layer[key] && layer[key][part] !== null)).map((part) => ({ key: `${key}.${part}`, words: part.replace(/_/g, " "), show: (layer) => shown((layer[key] || {})[part]), value: (layer) => (layer[key] || {})[part] }));
  const groups = [["", own], ...parts.map((key) => [key, [own[0], ...columnsOfPart(key)]])].filter(([, columns]) => columns.length > 1);
  const holder = h("div"), tools = h("span");
  const choose = (key) => {
    const made = sortable("Layers", groups.find(([name]) => name === key)[1], layers, (layer) => { if (isNumber(layer.index)) { stop(); setTime(layer.index); } });
    holder.replaceChildren(made.node);
    tools.replaceChildren(...made.tools);
  };
  choose("");
  const everything = [...own, ...groups.slice(1).flatMap(([, columns]) => columns.slice(1))];
  const pick = groups.length > 1 && choice("Which numbers", groups.map(([key]) => [key, LAYER_GROUPS[key] || key.replace(/_/g, " ")]), "", choose);
  const rows = () => csv(everything.map((column) => column.key), layers.map((layer) => everything.map((column) => (column.value ? column.value(layer) : layer[column.key]))));
  return section("layers", "Layer by layer", figure("layers", "Observables of the hidden states of every layer; layer 0 is the embedding. Choose a row to go to its layer. The data file has all groups.", holder, [pick, tools].filter(Boolean), { csv: rows }));
}
const shown = (value) => (typeof value === "boolean" ? (value ? "yes" : "no") : Number.isInteger(value) ? String(value) : show(value));

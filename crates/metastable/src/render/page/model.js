// What `inspect` adds: the model, the text coloured by cluster, the tables of layers and heads, their spectra.

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
  const cell = (record, column) => (column.show ? column.show(record) : column.text ? String(record[column.key] ?? "–") : Number.isInteger(record[column.key]) ? String(record[column.key]) : show(record[column.key]));
  const rows = records.map((record) => {
    const row = h("tr", { class: onpick ? "pick" : null, tabindex: onpick ? 0 : null }, columns.map((column) => h("td", { class: column.text ? "words" : null }, cell(record, column))));
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
    const head = h("th", { scope: "col", class: column.text ? "words" : null }, h("button", { type: "button", tabindex: 0, onclick: () => {
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
  return [...known, ...[...names].filter((key) => !first.some(([name]) => name === key) && flat(key)).map((key) => ({ key, words: key.replace(/_/g, " "), text: records.some((record) => typeof record[key] === "string") }))];
}
const recordsCsv = (columns, records) => csv(columns.map((column) => column.key), records.map((record) => columns.map((column) => record[column.key])));

function layersSection() {
  const layers = list(report.layers);
  if (!layers.length) return null;
  const columns = columnsOf(layers, [["index", "layer"], ["mean_cosine", "mean cosine"], ["n_clusters", "clusters"], ["effective_rank", "effective rank"], ["anisotropy", "anisotropy"], ["energy", "energy"], ["radius_mean", "mean radius"]]);
  for (const key of new Set(layers.flatMap((layer) => Object.keys(layer).filter((name) => layer[name] && typeof layer[name] === "object" && !Array.isArray(layer[name]))))) {
    for (const part of new Set(layers.flatMap((layer) => Object.keys(layer[key] || {})))) columns.push({ key: `${key}.${part}`, words: `${key} ${part}`.replace(/_/g, " "), show: (layer) => show((layer[key] || {})[part]), value: (layer) => (layer[key] || {})[part] });
  }
  const made = sortable("Layers", columns, layers, (layer) => { if (isNumber(layer.index)) { stop(); setTime(layer.index); } });
  return section("layers", "Layer by layer", figure("layers", "Observables of the hidden states of every layer; layer 0 is the embedding. Choose a row to go to its layer.", made.node, made.tools, { csv: () => recordsCsv(columns, layers) }));
}

function spectraPlot(heads, width, chosen) {
  const side = Math.min(width, 520), left = 54, right = side - 10, top = 10, bottom = side - 54;
  const reach = Math.max(1e-12, ...heads.flatMap((head) => list(head.ov_eigenvalues_top).flatMap((z) => list(z).map(Math.abs)))) * 1.08;
  const x = scale(-reach, reach, left, right), y = scale(-reach, reach, bottom, top);
  const last = Math.max(1, ...heads.map((head) => head.layer || 0));
  const node = s("svg", { class: "plot", viewBox: `0 0 ${side} ${bottom + 40}`, role: "img", "aria-label": "Eigenvalues of the value-output circuits in the complex plane", "data-title": "spectra" });
  frameAndTicks(node, { left, right, top, bottom }, x, y, { x: "Re $λ$", y: "Im $λ$", yOffset: 40 });
  if (reach > 1) node.append(s("circle", { class: "ring", cx: x.at(0), cy: y.at(0), r: x.at(1) - x.at(0) }));
  const order = heads.slice().sort((a, b) => (a === chosen) - (b === chosen));
  for (const head of order) for (const [re, im] of list(head.ov_eigenvalues_top).filter((z) => list(z).length === 2 && z.every(isNumber))) {
    const words = `layer ${head.layer}, head ${head.head}: λ = ${show(re)} ${im < 0 ? "−" : "+"} ${show(Math.abs(im))} i`;
    const dot = s("circle", { cx: x.at(re), cy: y.at(im), r: head === chosen ? 5 : 3.2, fill: rgb(ramp(DEEP, (head.layer || 0) / last)), "fill-opacity": chosen && head !== chosen ? 0.3 : 0.9, class: head === chosen ? "chosen" : null });
    dot.addEventListener("pointermove", (event) => showTip(event, words));
    dot.addEventListener("pointerleave", hideTip);
    node.append(dot);
  }
  return node;
}

function headsSection() {
  const heads = list(report.heads);
  if (!heads.length) return null;
  const columns = columnsOf(heads, [["layer", "layer"], ["head", "head"], ["qk_rank", "QK rank"], ["qk_stable_rank", "QK stable rank"], ["qk_norm", "QK norm"], ["ov_norm", "OV norm"]]);
  const largest = (head) => { const z = list(head.ov_eigenvalues_top)[0]; return list(z).length === 2 && z.every(isNumber) ? z : null; };
  const spectral = heads.some(largest);
  if (spectral) columns.push({ key: "leading", words: "leading OV λ", value: (head) => (largest(head) ? Math.hypot(...largest(head)) : null), show: (head) => { const z = largest(head); return z ? `${show(z[0], 3)} ${z[1] < 0 ? "−" : "+"} ${show(Math.abs(z[1]), 3)} i` : "–"; } });
  let chosen = null, node = null, draw = null;
  const made = sortable("Heads", columns, heads, (head) => { chosen = chosen === head ? null : head; if (draw) draw(holder.clientWidth); });
  const holder = h("div");
  if (spectral) { draw = (width) => { node = spectraPlot(heads, Math.max(280, width), chosen); holder.replaceChildren(node); }; responsive(holder, draw); }
  const last = Math.max(0, ...heads.map((head) => head.layer || 0)), marksOf = [...new Set([0, Math.floor(last / 2), last])];
  const key = spectral && h("p", { class: "key" }, "layer", marksOf.map((layer) => h("span", null, s("svg", { viewBox: "0 0 12 10" }, s("circle", { cx: 6, cy: 5, r: 4, fill: rgb(ramp(DEEP, last ? layer / last : 0)) })), layer)));
  const flat = () => csv(["layer", "head", "re", "im"], heads.flatMap((head) => list(head.ov_eigenvalues_top).map(([re, im]) => [head.layer, head.head, re, im])));
  return section("heads", "Heads and their spectra",
    figure("heads", "Query-key and value-output circuits of every head. Click a column to sort, a row to find its eigenvalues below.", made.node, made.tools, { csv: () => recordsCsv(columns.filter((column) => column.key !== "leading"), heads) }),
    spectral && figure("spectra", "The leading eigenvalues of the value-output circuit of every head, coloured by layer. Dashed: the unit circle.", [key, holder], [], { svg: () => exportSvg([node]), csv: flat }));
}

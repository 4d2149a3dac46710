// Pictures over tokens: the history of the clusters, the attention matrices, and the slow-time cascade.

function chip(run, label, size = 2) {
  const look = styleOfLabel(run, label, size), node = s("svg", { class: "chip", viewBox: "-2 -2 4 4", "aria-hidden": "true" });
  const pen = svgPen();
  pen.marker(look.marker, 0, 0, 1.25, { fill: look.colour });
  node.append(...pen.nodes);
  if (SHAPES[look.marker]) node.firstChild.setAttribute("d", SHAPES[look.marker].map(([x, y], k) => `${k ? "L" : "M"}${(x * 1.3).toFixed(2)} ${(y * 1.3).toFixed(2)}`).join("") + "Z");
  return node;
}

// Tokens in the order of their final clusters in the base run, then the twin, larger clusters first.
function tokenOrder() {
  const keys = runs.map((run) => { const row = run.history.length - 1; return row < 0 ? null : { labels: run.history[row], sizes: sizesOf(run, row) }; }).filter(Boolean);
  return Array.from({ length: count }, (_, i) => i).sort((i, j) => {
    for (const { labels, sizes } of keys) {
      if (labels[i] !== labels[j]) return sizes.get(labels[j]) - sizes.get(labels[i]) || labels[i] - labels[j];
    }
    return i - j;
  });
}

// One raster: rows are tokens, columns times; every run of equal labels is one rectangle.
function historyPlot(run, order, width) {
  const named = strings && count <= 60, left = named ? 96 : 48, right = width - 26, top = shownMarks().length ? 20 : 8;
  const cell = Math.max(0.12, Math.min(13, 300 / count)), bottom = top + cell * count, height = bottom + 36;
  const node = s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Clusters of ${count} tokens through ${axis.name}, ${run.name}`, "data-title": run.name });
  const edges = run.rowTimes.map((t, k, all) => (k === 0 ? t : (t + all[k - 1]) / 2));
  edges.push(run.rowTimes[run.rowTimes.length - 1]);
  if (layered) { edges[0] -= 0.5; edges[edges.length - 1] += 0.5; }
  const x = layered ? scale(edges[0], edges[edges.length - 1], left, right) : timeScale(times[0], times[frames - 1], left, right);
  const at = (t) => Math.max(left, Math.min(right, x.has(t) ? x.at(t) : left));
  const paths = new Map();
  order.forEach((token, line) => {
    const y = (top + line * cell).toFixed(2);
    let begin = 0, look = styleAt(run, 0, token);
    for (let k = 1; k <= run.history.length; k += 1) {
      const next = k < run.history.length ? styleAt(run, k, token) : null;
      if (next && next.colour === look.colour) continue;
      const from = at(edges[begin]), to = at(edges[k]);
      if (to > from) paths.set(look.colour, `${paths.get(look.colour) || ""}M${from.toFixed(1)} ${y}H${to.toFixed(1)}v${(cell > 3 ? cell - 0.8 : cell * 1.02).toFixed(2)}H${from.toFixed(1)}Z`);
      begin = k;
      look = next;
    }
  });
  for (const [colour, d] of paths) node.append(s("path", { d, fill: colour, "fill-opacity": colour === palette.alone ? 0.28 : 0.92 }));
  for (const [value, words] of x.ticks((right - left) / 80)) if (x.at(value) >= left - 1 && x.at(value) <= right + 1 && (!layered || Number.isInteger(value))) node.append(s("text", { x: x.at(value), y: bottom + 14, "text-anchor": "middle" }, words));
  node.append(s("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }), svgWords({ class: "strong", x: (left + right) / 2, y: bottom + 30, "text-anchor": "middle" }, timeLabel()));
  if (cell >= 9) order.forEach((token, line) => node.append(s("text", { x: left - 6, y: top + (line + 0.5) * cell + 3.4, "text-anchor": "end", "font-size": Math.min(10.5, cell) }, named ? clip(visible(String(strings[token])), 12) : String(token))));
  else node.append(s("text", { x: left - 8, y: (top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 ${left - 8} ${(top + bottom) / 2})` }, `${count} tokens`));
  if (cell >= 6) {
    const pen = svgPen(), row = run.history.length - 1;
    order.forEach((token, line) => { const look = styleAt(run, row, token); pen.marker(look.marker, right + 11, top + (line + 0.5) * cell, Math.min(4, cell * 0.36), { fill: look.colour }); });
    node.append(...pen.nodes);
  }
  drawMarks(node, shownMarks(), x, { left, right, top, bottom });
  const cursor = s("line", { class: "cursor", "data-live": "", y1: top, y2: bottom }), bar = s("rect", { "data-live": "", fill: "none", stroke: "var(--ink)", x: left - 1, width: right - left + 2, height: Math.max(2, cell), visibility: "hidden" });
  node.append(bar, cursor);
  pickTime(node, x, width, { left, right });
  const lineAt = (event) => { const rect = node.getBoundingClientRect(); return Math.floor(((event.clientY - rect.top) * height / rect.height - top) / cell); };
  node.addEventListener("pointermove", (event) => {
    const token = order[lineAt(event)];
    if (token === undefined) { setToken(-1); hideTip(); return; }
    const rect = node.getBoundingClientRect(), t = x.back((event.clientX - rect.left) * width / rect.width), k = nearest(run.rowTimes, t), label = run.history[k] && run.history[k][token];
    setToken(token);
    showTip(event, `${tokenName(token)}\n${run.name}, ${timeWords(run.rowTimes[k])}: cluster ${label}, ${sizesOf(run, k).get(label)} token(s)`);
  });
  node.addEventListener("pointerleave", () => { setToken(-1); hideTip(); });
  const follow = () => { const p = at(timeNow()); cursor.setAttribute("x1", p); cursor.setAttribute("x2", p); };
  const light = () => { const line = order.indexOf(lit()); bar.setAttribute("visibility", line >= 0 ? "visible" : "hidden"); if (line >= 0) bar.setAttribute("y", top + line * cell); };
  follow();
  light();
  return { node, follow, light };
}
const clip = (text, most) => (Array.from(text).length > most ? `${Array.from(text).slice(0, most - 1).join("")}…` : text);

function historySection() {
  if (gaussian) return null;
  const shown = runs.filter((run) => run.history.length && run.rowTimes.length === run.history.length);
  if (!shown.length) return null;
  const order = tokenOrder(), plots = [], holder = h("div");
  responsive(holder, (width) => {
    plots.splice(0, plots.length, ...shown.map((run) => historyPlot(run, order, Math.max(300, width))));
    holder.replaceChildren(...plots.flatMap((plot, k) => [shown.length > 1 ? h("p", { class: "panel-title" }, h("span", null, h("span", { class: `swatch ${shown[k].key}` }), shown[k].name)) : "", plot.node]));
  });
  on("time", () => plots.forEach((plot) => plot.follow()));
  on("token", () => plots.forEach((plot) => plot.light()));
  const caption = [`One row per token, ordered by its final cluster${runs.length > 1 ? " in the base run, then with LoRA" : ""}; colour: the persistent label of its cluster; pale grey: alone. The shape of the final cluster stands at the right.`];
  const rows = () => shown.flatMap((run) => run.history.flatMap((row, k) => row.map((label, token) => [run.key, run.rowTimes[k], token, label])));
  return section("history", "The history of the clusters",
    figure("history", caption, holder, [logTimeTool()].filter(Boolean), { svg: () => exportSvg(plots.map((plot) => plot.node)), csv: () => csv(["run", axis.symbol, "token", "label"], rows()) }),
    finalClusters(), eventsTable(shown));
}

function table(head, rows, attributes = {}) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": attributes.label || "Table" }, h("table", null, h("thead", null, h("tr", null, head.map((name) => h("th", { scope: "col", class: /^(tokens|from|into|centre|event|run|text)/.test(name) ? "words" : null }, name)))), h("tbody", null, rows)));
}

function finalClusters() {
  const rows = runs.flatMap((run) => {
    const part = run.part.clusters;
    if (!part || !list(part.sizes).length) return [];
    const last = run.history.length - 1;
    return part.sizes.slice(0, 60).map((size, k) => {
      const members = list(part.labels).flatMap((label, i) => (label === k ? [i] : []));
      const label = last >= 0 && members.length ? run.history[last][members[0]] : undefined;
      const centre = list(list(part.centers)[k]);
      return h("tr", null, h("td", { class: "words" }, run.name), h("td", null, chip(run, label, size), label ?? k), h("td", null, show(size)), h("td", null, list(part.leaders)[k] ?? "–"),
        h("td", { class: "words" }, centre.length ? `(${centre.slice(0, 3).map((x) => show(x, 7)).join(", ")}${centre.length > 3 ? ", …" : ""})` : "–"), h("td", { class: "words" }, clip(members.map((i) => (strings ? visible(String(strings[i])) : i)).join(strings ? " " : ", "), 90)));
    });
  });
  return rows.length ? [h("h3", null, `Clusters at the end${isNumber(report.clusters && report.clusters.radius) ? `, single linkage at radius ${show(report.clusters.radius)}` : ""}`), table(["run", "label", "size", "leader", "centre", "tokens"], rows, { label: "Clusters at the end" }), h("p")] : null;
}

function eventsTable(shown) {
  const events = shown.flatMap((run) => run.events.map((event) => ({ run, event }))).filter(({ event }) => isNumber(event.time)).sort((a, b) => a.event.time - b.event.time);
  if (!events.length) return null;
  const most = 400;
  const rows = events.slice(-most).map(({ run, event }) => h("tr", null, h("td", null, h("button", { class: "button", type: "button", onclick: () => { stop(); setTime(event.time); } }, show(event.time, 5))),
    h("td", { class: "words" }, run.name), h("td", { class: "words" }, event.kind || ""), h("td", { class: "words" }, labelsOf(event.from)), h("td", { class: "words" }, list(event.into).slice(0, 8).map((label) => [chip(run, label), `${label} `]))));
  return h("details", { open: events.length <= 12 }, h("summary", null, `Merges and splits (${events.length}${events.length > most ? `, the last ${most} shown` : ""})`), table([axis.symbol, "run", "event", "from", "into"], rows, { label: "Merges and splits" }));
}

const gamma = report.attention && isNumber(report.attention.gamma) && report.attention.gamma > 0 ? report.attention.gamma : 1;
function attentionPanel(run) {
  const m = run.attention.side, rows = list(run.attention.rows), canvas = h("canvas", { class: "heat", width: m, height: m, role: "img", tabindex: 0, "aria-label": `Attention matrix, ${run.name}` });
  const context = canvas.getContext("2d"), image = context.createImageData(m, m);
  const tint = Array.from({ length: 256 }, (_, level) => ramp(RAMP, level / 255));
  let last = -1;
  const draw = () => {
    const frame = shownFrame();
    if (frame === last) return;
    last = frame;
    for (let k = 0; k < m * m; k += 1) {
      const colour = tint[run.levels[frame * m * m + k] || 0];
      image.data.set(colour, 4 * k);
      image.data[4 * k + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  };
  on("time", draw);
  draw();
  canvas.addEventListener("pointermove", (event) => {
    const rect = canvas.getBoundingClientRect(), j = Math.floor((event.clientX - rect.left) / rect.width * m), i = Math.floor((event.clientY - rect.top) / rect.height * m);
    if (i < 0 || j < 0 || i >= m || j >= m) return;
    const level = run.levels[shownFrame() * m * m + i * m + j] / 255;
    showTip(event, `${visible(String(rows[i] ?? i))} attends to ${visible(String(rows[j] ?? j))}\nweight ${level === 0 ? `< ${show((0.5 / 255) ** (1 / gamma), 2)}` : show(level ** (1 / gamma), 3)}`);
    if (m === count) setToken(i);
  });
  canvas.addEventListener("pointerleave", () => { hideTip(); setToken(-1); });
  return h("div", null, h("p", { class: "panel-title" }, h("span", null, h("span", { class: `swatch ${run.key}` }), run.name), h("span", { class: "soft" }, `${m} × ${m}`)), canvas);
}
function attentionSvg(run) {
  const m = run.attention.side, frame = shownFrame(), side = 400, cell = side / m, byLevel = new Map();
  for (let i = 0; i < m; i += 1) for (let j = 0; j < m; j += 1) {
    const level = run.levels[frame * m * m + i * m + j];
    byLevel.set(level, `${byLevel.get(level) || ""}M${(j * cell).toFixed(2)} ${(i * cell).toFixed(2)}h${cell.toFixed(2)}v${cell.toFixed(2)}h-${cell.toFixed(2)}Z`);
  }
  return s("svg", { viewBox: `0 0 ${side + 2} ${side + 2}`, "data-title": `${run.name}, ${timeWords(times[frame])}` }, s("g", { transform: "translate(1 1)" }, [...byLevel].map(([level, d]) => s("path", { d, fill: rgb(ramp(RAMP, level / 255)) })), s("rect", { width: side, height: side, fill: "none", stroke: "#8a929c" })));
}
function attentionSection() {
  const shown = runs.filter((run) => run.attention && run.attention.side > 0 && run.levels.length);
  if (!shown.length) return null;
  const scaleBar = h("canvas", { width: 190, height: 1, "aria-hidden": "true" }), context = scaleBar.getContext("2d");
  for (let k = 0; k < 190; k += 1) { context.fillStyle = rgb(ramp(RAMP, k / 189)); context.fillRect(k, 0, 1, 1); }
  const caption = [`Attention weights at the chosen ${axis.name}: row = the token that attends, column = the token attended to. `, report.attention && typeof report.attention.note === "string" ? `${report.attention.note} ` : "", gamma !== 1 ? `Shade is weight to the power ${show(gamma)}. ` : ""];
  const rows = () => shown.flatMap((run) => { const m = run.attention.side, all = []; for (let i = 0; i < m; i += 1) for (let j = 0; j < m; j += 1) all.push([run.key, times[shownFrame()], list(run.attention.rows)[i] ?? i, list(run.attention.rows)[j] ?? j, Number(((run.levels[shownFrame() * m * m + i * m + j] / 255) ** (1 / gamma)).toPrecision(4))]); return all; });
  const middle = 0.5 ** (1 / gamma);
  return section("attention", "Attention", figure("attention", caption,
    [h("div", { class: `pair heats${shown.length === 1 ? " single" : ""}` }, shown.map(attentionPanel)), h("p", { class: "ramp" }, "0", scaleBar, `1   (middle: ${show(middle, 3)})`)], [],
    { svg: () => exportSvg(shown.map(attentionSvg)), csv: () => csv(["run", axis.symbol, "row", "column", "weight"], rows()) }));
}

const several = (x) => (Array.isArray(x) ? x.join(", ") : x ?? "–");
function cascadeSection() {
  const cascade = twin && twin.cascade;
  const events = cascade ? list(cascade.events) : [];
  if (!events.length) return cascade && cascade.source ? section("cascade", "The slow-time cascade", h("p", { class: "intro" }, `No cluster is released. ${cascade.source}`)) : null;
  const rows = events.map((event) => h("tr", null, h("td", null, show(event.slow_time, 6)), h("td", null, show(event.release_time, 5)), h("td", { class: "words" }, several(event.from)), h("td", { class: "words" }, several(event.into)), h("td", null, show(event.merge_time, 5)), h("td", null, isNumber(event.simulated_merge_time) ? show(event.simulated_merge_time, 5) : `not by ${timeWords(horizon)}`),
    h("td", null, isNumber(event.simulated_merge_time) && isNumber(event.merge_time) ? show(event.simulated_merge_time - event.merge_time, 3) : "–"), h("td", { class: "words" }, Array.isArray(event.tokens) ? clip(event.tokens.join(", "), 60) : several(event.tokens))));
  const holder = h("div");
  let node = null;
  responsive(holder, (given) => {
    const width = Math.max(300, given), left = 92, right = width - 14, top = 10, line = 26, bottom = top + line * events.length, height = bottom + 38;
    const range = extent(events.flatMap((e) => [e.release_time, e.merge_time, e.simulated_merge_time])) || [0, 1];
    const x = scale(Math.min(0, range[0]), range[1] * 1.04, left, right);
    node = s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Predicted and simulated merges", "data-title": "cascade" });
    for (const [value, words] of x.ticks((right - left) / 80)) node.append(s("line", { class: "grid", x1: x.at(value), x2: x.at(value), y1: top, y2: bottom }), s("text", { x: x.at(value), y: bottom + 14, "text-anchor": "middle" }, words));
    if (horizon < x.high) node.append(s("line", { class: "level", x1: x.at(horizon), x2: x.at(horizon), y1: top, y2: bottom }), s("text", { x: x.at(horizon) + 4, y: top + 9 }, "end of run"));
    events.forEach((event, k) => {
      const y = top + (k + 0.5) * line;
      node.append(s("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, clip(`${several(event.from)} → ${several(event.into)}`, 13)));
      if (isNumber(event.release_time) && isNumber(event.merge_time)) node.append(s("line", { class: "whisker", x1: x.at(event.release_time), x2: x.at(event.merge_time), y1: y, y2: y }), s("line", { class: "whisker", x1: x.at(event.release_time), x2: x.at(event.release_time), y1: y - 5, y2: y + 5 }));
      if (isNumber(event.merge_time)) node.append(s("circle", { class: "hollow", cx: x.at(event.merge_time), cy: y, r: 5 }));
      if (isNumber(event.simulated_merge_time)) node.append(s("circle", { class: "dot twin", cx: x.at(event.simulated_merge_time), cy: y, r: 2.8 }));
    });
    node.append(s("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }), svgWords({ class: "strong", x: (left + right) / 2, y: bottom + 30, "text-anchor": "middle" }, timeLabel()));
    holder.replaceChildren(node);
  });
  const caption = [`Bar: predicted release; circle: predicted merge; dot: merge in the simulation. Slow scale ε = ${show(cascade.slow_scale)}, merges counted at radius ${show(cascade.radius)}. `, cascade.source || ""];
  const header = ["slow_time", "release_time", "from", "into", "merge_time", "simulated_merge_time"];
  return section("cascade", "The slow-time cascade: predicted and simulated", figure("cascade", caption,
    [holder, table(["slow time s", "release", "from", "into", "merge, predicted", "merge, simulated", "difference", "tokens"], rows, { label: "Cascade" })], [],
    { svg: () => exportSvg([node]), csv: () => csv(header, events.map((event) => header.map((key) => (Array.isArray(event[key]) ? event[key].join(" ") : event[key])))) }));
}

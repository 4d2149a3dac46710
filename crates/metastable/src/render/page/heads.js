// Heads as their weights describe them: the table, the eigenvalues in the complex plane, the spectra of a chosen head.

// Curves over any axis. lines: [{points, cls, dots, words}]
function plainPlot({ title, width, height, lines, x: across, y: up, logX = false, logY = false }) {
  const box = { left: 58, right: width - 10, top: 10, bottom: height - 42 };
  const values = (k) => lines.flatMap((line) => line.points.map((point) => point[k])).filter(isNumber);
  const positive = (numbers, log) => extent(log ? numbers.filter((v) => v > 0) : numbers) || [1e-3, 1];
  const [left, right] = positive(values(0), logX), [low, high] = positive(values(1), logY);
  const x = scale(left, right, box.left, box.right, logX), y = scale(logY ? low / 1.3 : Math.min(0, low), high * (logY ? 1.3 : 1.06), box.bottom, box.top, logY);
  const node = s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, "data-title": title });
  frameAndTicks(node, box, x, y, { x: across, y: up, yOffset: 44 });
  for (const line of lines) {
    node.append(s("path", { class: `curve ${line.cls || ""}`, d: curvePath(line.points, x, y) }));
    if (line.dots) for (const [a, b] of line.points) if (x.has(a) && y.has(b)) node.append(s("circle", { class: `dot ${line.cls || ""}`, cx: x.at(a).toFixed(1), cy: y.at(b).toFixed(1), r: 2.4 }));
  }
  return node;
}

const pairsOf = (values) => list(values).filter((z) => list(z).length === 2 && z.every(isNumber));
const complex = ([re, im], digits = 3) => `${show(re, digits)} ${im < 0 ? "−" : "+"} ${show(Math.abs(im), digits)} i`;

function spectraPlot(heads, width, chosen) {
  const side = Math.min(width, 520), left = 54, right = side - 10, top = 10, bottom = side - 54;
  const reach = Math.max(1e-12, ...heads.flatMap((head) => list(head.ov_eigenvalues_top).flatMap((z) => list(z).map(Math.abs)))) * 1.08;
  const x = scale(-reach, reach, left, right), y = scale(-reach, reach, bottom, top);
  const last = Math.max(1, ...heads.map((head) => head.layer || 0));
  const node = s("svg", { class: "plot", viewBox: `0 0 ${side} ${bottom + 40}`, role: "img", "aria-label": "Eigenvalues of the value-output circuits in the complex plane", "data-title": "spectra" });
  frameAndTicks(node, { left, right, top, bottom }, x, y, { x: "Re $λ$", y: "Im $λ$", yOffset: 40 });
  if (reach > 1) node.append(s("circle", { class: "ring", cx: x.at(0), cy: y.at(0), r: x.at(1) - x.at(0) }));
  const dots = (head, values, radius, opacity, cls) => {
    for (const z of pairsOf(values)) {
      const dot = s("circle", { cx: x.at(z[0]).toFixed(1), cy: y.at(z[1]).toFixed(1), r: radius, fill: rgb(ramp(DEEP, (head.layer || 0) / last)), "fill-opacity": opacity, class: cls });
      dot.addEventListener("pointermove", (event) => showTip(event, `layer ${head.layer}, head ${head.head}: λ = ${complex(z, 4)}`));
      dot.addEventListener("pointerleave", hideTip);
      node.append(dot);
    }
  };
  for (const head of heads) if (head !== chosen) dots(head, head.ov_eigenvalues_top, 3, chosen ? 0.16 : 0.85, null);
  // Of the chosen head every eigenvalue, not the leading ones alone.
  if (chosen) dots(chosen, pairsOf(chosen.ov_eigenvalues).length ? chosen.ov_eigenvalues : chosen.ov_eigenvalues_top, 4, 0.95, "chosen");
  return node;
}

const HEAD_COLUMNS = [["layer", "layer"], ["head", "head"], ["kv_head", "key-value head"], ["regime", "regime"], ["effective_beta", "effective β"], ["qk_rank", "QK rank"], ["qk_stable_rank", "QK stable rank"], ["qk_effective_rank", "QK effective rank"], ["qk_norm", "QK norm"], ["qk_symmetric_share", "QK symmetric share"], ["ov_norm", "OV norm"], ["ov_stable_rank", "OV stable rank"], ["ov_gap", "OV gap"], ["qk_frobenius", "QK Frobenius norm"], ["qk_tolerance", "QK tolerance"]];

// The singular values of one head, and its circuit over distances where that was measured.
function headPanels(head, width, plots) {
  const ranked = (values) => list(values).map((value, k) => [k + 1, value > 0 ? value : null]);
  const wide = Math.max(280, Math.min(width, 520)), panels = [];
  const lines = [["", "QK", head.qk_singular_values], ["twin", "OV", head.ov_singular_values]].filter(([, , values]) => list(values).length);
  if (lines.length) {
    const node = plainPlot({ title: "singular values", width: wide, height: 260, logY: true, x: "index", y: "singular value", lines: lines.map(([cls, , values]) => ({ cls, points: ranked(values), dots: list(values).length < 40 })) });
    plots.push(node);
    panels.push(h("figure", null, h("div", { class: "plot-head" }, h("b", null, "singular values"), h("p", { class: "key" }, lines.map(([cls, words]) => sample(cls, words)))), node));
  }
  const curve = list(head.qk_by_distance);
  if (curve.length) {
    const points = (key) => curve.map((point) => [point.distance + 1, point[key]]);
    const node = plainPlot({ title: "query-key circuit over distance", width: wide, height: 260, logX: true, x: "places back + 1", y: "norm", lines: [{ points: points("norm"), dots: true }, { points: points("frobenius"), cls: "tone-1", dots: true }] });
    plots.push(node);
    panels.push(h("figure", null, h("div", { class: "plot-head" }, h("b", null, "QK over distance"), h("p", { class: "key" }, sample("", "operator norm"), sample("tone-1", "Frobenius norm"))), node));
  }
  return panels;
}

function headsSection() {
  const heads = list(report.heads);
  if (!heads.length) return null;
  const grouped = heads.some((head) => head.kv_head !== head.head);
  const columns = columnsOf(heads, HEAD_COLUMNS).filter((column) => column.key !== "kv_head" || grouped).map((column) => (column.key === "regime" ? { ...column, show: (head) => String(head.regime || "–").replace(/_/g, " ") } : column));
  const largest = (head) => pairsOf(list(head.ov_eigenvalues_top).slice(0, 1))[0] || null;
  const spectral = heads.some(largest);
  if (spectral) columns.splice(columns.findIndex((column) => column.key === "ov_gap") + 1 || columns.length, 0, { key: "leading", words: "leading OV λ", value: (head) => (largest(head) ? Math.hypot(...largest(head)) : null), show: (head) => { const z = largest(head); return z ? complex(z) : "–"; } });
  for (const [part, words] of [["lower", "Lipschitz, lower"], ["upper", "Lipschitz, upper"]]) {
    if (heads.some((head) => head.lipschitz)) columns.push({ key: `lipschitz.${part}`, words, value: (head) => (head.lipschitz || {})[part], show: (head) => show((head.lipschitz || {})[part]) });
  }
  let chosen = null, plots = [], room = 0;
  const holder = h("div"), panels = h("div"), words = h("p", { class: "readout" });
  const draw = (width) => {
    room = width || room;
    if (!room) return;
    const plane = spectraPlot(heads, Math.max(280, room), chosen);
    plots = [plane];
    holder.replaceChildren(plane);
    panels.replaceChildren(...(chosen ? headPanels(chosen, 520, plots) : []));
    words.textContent = chosen ? `Layer ${chosen.layer}, head ${chosen.head}${grouped ? ` (key-value head ${chosen.kv_head})` : ""}: all its eigenvalues, and its singular values.` : "Choose a head in the table to see all its eigenvalues and its singular values.";
  };
  const made = sortable("Heads", columns, heads, (head) => { chosen = chosen === head ? null : head; draw(); });
  if (spectral) responsive(holder, draw);
  const last = Math.max(0, ...heads.map((head) => head.layer || 0)), marksOf = [...new Set([0, Math.floor(last / 2), last])];
  const key = spectral && h("p", { class: "key" }, "layer", marksOf.map((layer) => h("span", null, s("svg", { viewBox: "0 0 12 10" }, s("circle", { cx: 6, cy: 5, r: 4, fill: rgb(ramp(DEEP, last ? layer / last : 0)) })), layer)));
  const flat = () => csv(["layer", "head", "re", "im"], heads.flatMap((head) => pairsOf(list(head.ov_eigenvalues).length ? head.ov_eigenvalues : head.ov_eigenvalues_top).map(([re, im]) => [head.layer, head.head, re, im])));
  return section("heads", "Heads and their spectra",
    figure("heads", "Query-key (QK) and value-output (OV) circuits of every head. Click a column to sort, a row to single out its eigenvalues and singular values below.", made.node, made.tools, { csv: () => recordsCsv(columns.filter((column) => !column.value), heads) }),
    spectral && figure("spectra", "The leading eigenvalues of the value-output circuit of every head, coloured by layer. Dashed: the unit circle.", [key, h("div", { class: "pair" }, holder, h("div", null, words, panels))], [], { svg: () => exportSvg(plots), csv: flat }));
}

// Observables over time: small multiples with one cursor, and the distance between base and twin.

const COLUMNS = {
  n_clusters: ["number of clusters", "$k$"], max_mass: ["largest cluster, share of tokens", "$m$"], energy: ["interaction energy", "$E$"], log_energy: ["log energy", "log $E$"],
  mean_cosine: ["mean cosine", "cos"], min_cosine: ["least cosine", "cos"], max_cosine: ["greatest cosine", "cos"], diameter: ["diameter", "diam"],
  effective_rank: ["effective rank", "rank"], hull_vertices: ["vertices of the convex hull", "count"], attention_rank: ["rank of the attention matrix", "rank"], anisotropy: ["anisotropy", ""], trace: ["trace", "tr Σ"], log_det: ["log determinant", "ln det Σ"], largest_eigenvalue: ["largest eigenvalue", "λ"], smallest_eigenvalue: ["smallest eigenvalue", "λ"], rank: ["rank", "rank"], condition: ["condition number", "κ"], mean_norm: ["norm of the mean", "|α|"],
  kernel_invariant: ["invariant tr(NᵀΣ⁻¹N) of the kernel", ""], value_trace: ["tr(V⁻¹Σ)", ""], radius_mean: ["mean radius", "|$x$|"],
};
const wordsOf = (column) => (COLUMNS[column] ? COLUMNS[column][0] : column.replace(/_/g, " "));

const pointsOf = (ts, values) => list(ts).map((t, k) => [t, list(values)[k]]).filter(([t]) => isNumber(t));
const valueAt = (ts, values) => { const v = list(values)[nearest(list(ts), timeNow())]; return isNumber(v) ? v : null; };
const eventsOf = (run) => run.events.filter((event) => isNumber(event.time)).map((event) => ({ time: event.time, cls: run.key === "twin" ? "twin" : "", words: `${run.name}: ${eventWords(event)} at ${timeWords(event.time)}` }));
const labelsOf = (ids) => { const all = list(ids); return all.length > 8 ? `${all.slice(0, 8).join(", ")}, … (${all.length})` : all.join(", "); };
const eventWords = (event) => `${event.kind || "event"} ${labelsOf(event.from)} → ${labelsOf(event.into)}`;
const shownMarks = () => marks.filter((mark) => mark.value !== null);

function seriesColumns() {
  const names = new Set();
  for (const run of runs) for (const [name, values] of Object.entries(run.series)) if (name !== "t" && Array.isArray(values) && values.some(isNumber)) names.add(name);
  const known = Object.keys(COLUMNS).filter((name) => names.has(name));
  return [...known, ...[...names].filter((name) => !COLUMNS[name])];
}

function smallMultiple(column) {
  const own = runs.filter((run) => list(run.series[column]).some(isNumber));
  const now = h("span", { class: "now" }), holder = h("div");
  const values = own.flatMap((run) => run.series[column].filter(isNumber));
  const [low, high] = extent(values);
  const mayLog = low > 0 && high / low > 50;
  let logY = mayLog && /energy|trace|eigenvalue|condition/.test(column), plot = null;
  const csvText = () => csv(["run", axis.symbol, column], own.flatMap((run) => pointsOf(run.seriesTimes, run.series[column]).map(([t, y]) => [run.key, t, y])));
  const draw = (width) => {
    plot = timePlot({
      title: wordsOf(column), aria: `${wordsOf(column)} against ${axis.name}, from ${show(low)} to ${show(high)}`, width: Math.max(280, width), height: 196, logY, left: 50,
      lines: own.map((run) => ({ points: pointsOf(run.seriesTimes, run.series[column]), cls: run.key === "twin" ? "twin" : "", dots: layered })),
      marks: shownMarks(), events: column === "n_clusters" || column === "max_mass" ? runs.flatMap(eventsOf) : [],
    });
    holder.replaceChildren(plot.node);
  };
  const follow = () => {
    if (plot) plot.follow();
    now.replaceChildren(...own.flatMap((run, k) => [k ? " / " : "", h("span", { class: run.key }, show(valueAt(run.seriesTimes, run.series[column])))]));
  };
  const head = h("div", { class: "plot-head" }, h("b", null, wordsOf(column)),
    mayLog && h("button", { class: "button", type: "button", "aria-pressed": logY, "aria-label": `Logarithmic axis for ${wordsOf(column)}`, onclick: (event) => { logY = !logY; event.currentTarget.setAttribute("aria-pressed", String(logY)); emit("axis"); } }, "log"),
    h("button", { class: "button", type: "button", "aria-label": `Save ${wordsOf(column)} as SVG`, onclick: () => download(`${column}.svg`, "image/svg+xml", exportSvg([plot.node])) }, "SVG"),
    h("button", { class: "button", type: "button", "aria-label": `Save ${wordsOf(column)} as CSV`, onclick: () => download(`${column}.csv`, "text/csv", csvText()) }, "CSV"), now);
  responsive(holder, draw);
  on("time", follow);
  on("axis", follow);
  follow();
  return { node: h("figure", null, head, holder), column, own, plot: () => plot };
}

const sample = (cls, words) => h("span", null, s("svg", { class: "plot", viewBox: "0 0 30 10" }, s("line", { class: `curve ${cls}`, x1: 1, x2: 29, y1: 5, y2: 5 })), words);
function logTimeTool() {
  return times.some((t) => t > 0) && frames > 4 && !layered ? choice("Time axis", [[false, "linear time"], [true, "log time"]], state.logTime, (value) => { state.logTime = value; emit("axis"); }) : null;
}

function seriesSection() {
  const columns = seriesColumns();
  if (!columns.length) return null;
  const panels = columns.map(smallMultiple);
  const key = runs.length > 1 ? h("p", { class: "key" }, sample("", "base"), sample("twin", "with LoRA")) : null;
  const all = () => {
    const header = ["run", axis.symbol, ...columns];
    return csv(header, runs.flatMap((run) => run.seriesTimes.map((t, k) => [run.key, t, ...columns.map((column) => list(run.series[column])[k])])));
  };
  const caption = [`Observables at every saved ${axis.name}; gaps: not defined there. `,
    shownMarks().length ? ["Dashed verticals: ", shownMarks().map((mark, k) => [k ? "; " : "", symbol(mark.sign), ` ${mark.words}`]), ", shaded by the bracket where it is wide enough to see. "] : "",
    runs.some((run) => run.events.length) ? "Ticks above the axis of the cluster panels: merges and splits. " : "", h("span", { class: "no-print" }, "Click or drag in a panel to set the time.")];
  const tools = [logTimeTool(), key].filter(Boolean);
  return section("series", layered ? "Observables by layer" : "Observables in time", figure("series", caption, h("div", { class: "multiples" }, panels.map((panel) => panel.node)), tools,
    { svg: () => exportSvg(panels.map((panel) => panel.plot()).filter(Boolean).map((plot) => plot.node)), csv: all }));
}

function distanceSection() {
  if (!twin) return null;
  const ts = list((twin.series || {}).t).length ? twin.series.t : list((report.series || {}).t).length ? report.series.t : times;
  const paired = twin.paired_distance || {};
  const curves = [["max", "largest distance, max", paired.max], ["rms", "root mean square", paired.rms], ["w2", "Wasserstein-2", twin.wasserstein2], ["rms", "covariances alone (Bures)", twin.bures], ["max", "means alone", twin.mean_distance]].filter(([, , values]) => list(values).some(isNumber));
  const bound = list(twin.bound).some(isNumber) ? twin.bound : null;
  if (!curves.length) return null;
  const measured = extent(curves.flatMap(([, , values]) => values.filter((v) => isNumber(v) && v > 0)));
  if (!measured) return section("distance", "Distance between base and LoRA", h("p", { class: "intro" }, "The two runs are identical at every saved time."));
  const name = twin.bound_name || "";
  let logY = true, plot = null;
  const holder = h("div"), now = h("p", { class: "readout no-print" });
  const radius = report.clusters && isNumber(report.clusters.radius) ? report.clusters.radius : null;
  const draw = (width) => {
    const low = Math.max(measured[0], measured[1] * 1e-14);
    plot = timePlot({
      title: "distance between base and LoRA", width: Math.max(300, width), height: width < 520 ? 280 : 360, left: 60, yOffset: 46, logY, yLabel: width < 380 ? "" : "distance $δ$", marks: shownMarks(), allowed: null,
      yRange: logY ? [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(measured[1]) + (bound ? 3 : 0.2))] : [0, measured[1] * 1.25],
      levels: radius ? [{ value: radius, words: "cluster radius" }] : [],
      lines: [...curves.map(([cls, , values]) => ({ points: pointsOf(ts, values), cls, dots: layered })), ...(bound ? [{ points: pointsOf(ts, bound), cls: "bound" }] : [])],
    });
    holder.replaceChildren(plot.node);
  };
  const follow = () => {
    if (plot) plot.follow();
    now.textContent = `${timeWords(times[shownFrame()])}: ${curves.map(([, words, values]) => `${words} ${show(valueAt(ts, values))}`).join(", ")}${bound ? `, envelope ${name} ${show(valueAt(ts, bound))}` : ""}`;
  };
  responsive(holder, draw);
  on("time", follow);
  on("axis", follow);
  follow();
  const key = h("p", { class: "key" }, curves.map(([cls, words]) => sample(cls, words)), bound && sample("bound", `proven envelope ${name}`));
  const tools = [choice("Distance axis", [[true, "log distance"], [false, "linear"]], logY, (value) => { logY = value; emit("axis"); })];
  const caption = [gaussian ? "Bures-Wasserstein distance between the Gaussian with LoRA and the one without. " : "Distance of the tokens from themselves without LoRA. ", bound ? "The measured largest distance stays below the proven envelope; the envelope grows faster than the tokens move and leaves the panel where it says nothing about them. " : "",
    twin.bound_source ? `${twin.bound_source} ` : "", twin.bound_reason ? `No envelope: ${twin.bound_reason}` : "", isNumber(twin.max_distance) ? `Largest distance of the run: ${show(twin.max_distance)}.` : ""];
  const rows = () => list(ts).map((t, k) => [t, ...curves.map(([, , values]) => values[k]), bound ? bound[k] : null]);
  return section("distance", "Distance between base and LoRA", figure("distances", caption, [key, holder, now], tools,
    { svg: () => exportSvg([plot.node]), csv: () => csv([axis.symbol, ...curves.map(([cls]) => cls), "bound"], rows()) }));
}

// What the page knows: the report, the arrays, the palette, and the state that all figures share.

const report = JSON.parse(byId("report-data").textContent);
const display = JSON.parse(byId("display-data").textContent);
const config = report.config || {};
const twin = report.twin || null;

function bytesOf(id) {
  const block = byId(id);
  if (!block) return new Uint8Array(0);
  const raw = atob(block.textContent);
  const bytes = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k += 1) bytes[k] = raw.charCodeAt(k);
  return bytes;
}
function floatsOf(id) {
  const bytes = bytesOf(id), view = new DataView(bytes.buffer), out = new Float32Array(bytes.length >> 2);
  for (let k = 0; k < out.length; k += 1) out[k] = view.getFloat32(4 * k, true);
  return out;
}

const times = list(display.times);
const frames = times.length;
const axis = { name: (report.axis && report.axis.name) || "time", symbol: (report.axis && report.axis.symbol) || "t" };
const layered = axis.name === "layer";
const rescaled = Boolean(config.space && config.space.coordinates === "rescaled");
const spherical = Boolean(config.space && config.space.geometry === "sphere");
const letter = rescaled ? "z" : "x";
// A Gaussian run: its verdict, and for d = 2 the cone in which its covariances are drawn.
const gaussian = report.gaussian || null;
const conic = Boolean(gaussian && gaussian.cone);
const CONE_AXES = ["Σ₁₁ − Σ₂₂", "2Σ₁₂", "Σ₁₁ + Σ₂₂"];
const strings = report.tokens && Array.isArray(report.tokens.strings) ? report.tokens.strings : null;
const special = report.tokens && Array.isArray(report.tokens.special) ? report.tokens.special : null;

// One run on the page: "base" or "twin".
function makeRun(key, name, part) {
  const info = display[key];
  if (!info) return null;
  const history = (part && part.cluster_history) || {};
  const series = (part && part.series) || {};
  const rows = list(history.labels);
  const seriesTimes = list(series.t).filter(isNumber);
  // The display may hold fewer times than the series: frame -> nearest row of the history.
  const rowTimes = rows.length === 1 ? times.slice(0, 1) : rows.length === frames ? times : seriesTimes.length === rows.length ? seriesTimes : times;
  return {
    key, name, part: part || {}, count: info.count, dim: info.dim, attention: info.attention,
    positions: floatsOf(`${key}-positions`), levels: bytesOf(`${key}-attention`),
    series, seriesTimes, history: rows, rowTimes, events: list(history.events), places: display.palette[key] || {}, sizes: new Map(),
  };
}
const runs = [makeRun("base", twin ? "base" : layered ? "hidden states" : gaussian ? "covariances" : "tokens", report), twin && makeRun("twin", "with LoRA", twin)].filter(Boolean);
const base = runs[0];
const count = base.count;

function nearest(sorted, value) {
  let low = 0, high = sorted.length - 1;
  if (high < 0) return 0;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= value) low = middle; else high = middle;
  }
  return value - sorted[low] <= sorted[high] - value ? low : high;
}

// The row of persistent labels at a frame, and the sizes of its clusters.
function rowAt(run, frame) {
  return run.history.length ? nearest(run.rowTimes, times[frame]) : -1;
}
function sizesOf(run, row) {
  if (!run.sizes.has(row)) {
    const sizes = new Map();
    for (const label of list(run.history[row])) sizes.set(label, (sizes.get(label) || 0) + 1);
    run.sizes.set(row, sizes);
  }
  return run.sizes.get(row);
}
const palette = display.palette;
const placeColour = (place) => palette.colours[place % palette.colours.length];
const placeMarker = (place) => palette.markers[place % palette.markers.length];
function styleOfLabel(run, label, size) {
  const place = run.places[label];
  if (label === undefined || label < 0 || size < 2 || place === undefined) return { colour: palette.alone, marker: "circle", alone: true };
  return { colour: placeColour(place), marker: placeMarker(place), alone: false };
}
function styleAt(run, row, token) {
  const label = run.history[row] && run.history[row][token];
  return styleOfLabel(run, label, row < 0 ? 0 : sizesOf(run, row).get(label));
}

function tokenName(token) {
  if (gaussian) return token === 0 ? "the first start" : `start ${token}`;
  return strings && strings[token] !== undefined ? `${token} “${visible(String(strings[token]))}”` : `token ${token}`;
}
function position(run, frame, token) {
  const start = (frame * run.count + token) * run.dim;
  return run.positions.subarray(start, start + run.dim);
}
function tokenWords(run, frame, token) {
  const row = rowAt(run, frame), label = row >= 0 ? run.history[row][token] : undefined;
  const size = row >= 0 ? sizesOf(run, row).get(label) : undefined;
  const place = Array.from(position(run, frame, token)).map((x) => show(x, 4)).join(", ");
  if (conic) return `${run.name}: (${CONE_AXES.join(", ")}) = (${place})${label === undefined ? "" : `, ${regimeWords(label)}`}`;
  const cluster = label === undefined ? "" : size > 1 ? `, cluster ${label} of ${size} tokens` : ", alone";
  return `${run.name}: (${place})${cluster}`;
}

const TIMES = [
  ["cluster_time", "T_c", "cluster time", "all LoRA tokens within the radius of their base clusters"],
  ["departure_time", "T_d", "departure time", "a LoRA token leaves its base cluster"],
  ["second_cluster_time", "T_2", "second-cluster time", "all LoRA tokens stay within the radius of their own final clusters"],
];
const marks = TIMES.filter(([key]) => twin && twin[key]).map(([key, sign, words, meaning]) => {
  const bracket = list(twin[key].bracket);
  return { key, sign, words, meaning, value: isNumber(twin[key].value) ? twin[key].value : null, bracket: bracket.length === 2 && bracket.every(isNumber) ? bracket : null };
});
const pole = (part) => (part && part.gaussian && part.gaussian.blow_up ? part.gaussian.blow_up : null);
if (gaussian) for (const [part, sign, words] of [[report, "t_*", "blow-up"], [twin, "t_L", "blow-up with LoRA"]]) {
  const found = pole(part);
  if (found && found.fit <= (config.time || {}).end) marks.push({ key: sign, sign, words, meaning: "the covariance becomes infinite", value: found.fit, bracket: [found.lower, found.upper] });
}
// The regime of a label of the family: its labels count the tally of regimes.
function regimeWords(label) {
  const regimes = gaussian.family ? list(gaussian.family.regimes) : [], found = regimes[label] || gaussian;
  return `${String(found.regime).replace(/_/g, " ")}${isNumber(found.limit_rank) ? ` to rank ${found.limit_rank}` : ""}`.replace("bounded to", "bounded, keeps");
}
const horizon = report.stop && isNumber(report.stop.time) ? report.stop.time : times[frames - 1];

// Shared state. `frame` may lie between two frames while the page plays.
const state = { frame: 0, playing: false, speed: 1, token: -1, pinned: -1, logTime: false, showSpecial: true };
const listeners = { time: [], token: [], axis: [], theme: [], view: [] };
const on = (kind, listener) => listeners[kind].push(listener);
const pending = new Set();
function emit(kind) {
  if (pending.has(kind)) return;
  pending.add(kind);
  requestAnimationFrame(() => {
    pending.delete(kind);
    for (const listener of listeners[kind]) listener();
  });
}
const still = matchMedia("(prefers-reduced-motion: reduce)");
const shownFrame = () => Math.max(0, Math.min(frames - 1, Math.round(state.frame)));
function setFrame(frame) {
  state.frame = Math.max(0, Math.min(frames - 1, frame));
  emit("time");
}
const setTime = (time) => setFrame(nearest(times, time));
function timeNow() {
  const low = Math.floor(state.frame), share = state.frame - low;
  return share > 0 && low + 1 < frames ? times[low] + share * (times[low + 1] - times[low]) : times[low] ?? 0;
}
function setToken(token) {
  if (token === state.token) return;
  state.token = token;
  emit("token");
}
const lit = () => (state.token >= 0 ? state.token : state.pinned);
function pin(token) {
  state.pinned = state.pinned === token ? -1 : token;
  if (state.pinned >= 0) byId("live").textContent = `${tokenName(token)}. ${runs.map((run) => tokenWords(run, shownFrame(), token)).join(". ")}`;
  emit("token");
}
const timeWords = (time) => (layered ? `layer ${show(time)}` : `${axis.symbol} = ${show(time)}`);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => emit("theme"));

// The page itself: head, sections in order, the transport bar, the keyboard.

function masthead() {
  const job = report.job || "run";
  byId("kicker").textContent = `metastable · ${job}${twin ? " · twin" : ""}`;
  const facts = [];
  const tokens = report.tokens || {};
  if (report.job === "comparison") facts.push(`${list(report.runs).length} runs`);
  if (report.job === "finetune" && config.optimizer) facts.push(`${String(config.optimizer.method).replace(/_/g, " ")} on ${config.model}`, `rank ${config.lora ? config.lora.rank : "–"}`, `${report.steps} steps`);
  if (report.points && isNumber(report.points.total)) facts.push(`${report.points.total} points${report.points.failed ? `, ${report.points.failed} failed` : ""}`);
  if (gaussian) facts.push(`a Gaussian in dimension ${tokens.dim ?? "–"}`);
  else if (isNumber(tokens.count) && tokens.count > 0) facts.push(`${tokens.count} tokens in dimension ${tokens.dim ?? "–"}`);
  if (config.space && config.space.geometry) facts.push(`${config.space.geometry}${rescaled ? ", rescaled coordinates" : ""}`);
  if (frames) facts.push(layered ? `layers ${times[0]} to ${times[frames - 1]}` : `${axis.symbol} from ${show(times[0])} to ${show(times[frames - 1])}`);
  if (report.solver && report.solver.method) facts.push(`${report.solver.method}, ${show(report.solver.steps)} steps`);
  if (report.stop && report.stop.reason && !layered && !training) facts.push(`stopped: ${String(report.stop.reason).replace(/_/g, " ")}`);
  if (report.job !== "comparison" && report.provenance && report.provenance.seed !== undefined && report.provenance.seed !== null) facts.push(`seed ${report.provenance.seed}`);
  byId("facts").textContent = facts.join("  ·  ");
  byId("warnings").append(...list(report.warnings).map((words) => h("p", { class: "warning", role: "note" }, h("b", null, "Note. "), String(words))));
}

function timesPanel() {
  if (!twin || !marks.length) return null;
  const cell = (name, value, note, never, jump) => {
    const body = [h("span", { class: `value${never ? " never" : ""}` }, value), h("div", { class: "note" }, note)];
    return h("div", null, h("dt", null, name), h("dd", null, jump ? h("button", { type: "button", onclick: jump }, body) : body));
  };
  const cells = marks.map((mark) => {
    const name = [mark.words, " ", symbol(mark.sign)];
    if (mark.value === null) return cell(name, `never within ${axis.symbol} = ${show(horizon)}`, mark.meaning, true);
    const digits = mark.bracket && mark.bracket[1] > mark.bracket[0] ? Math.max(4, Math.min(9, Math.ceil(Math.log10(Math.abs(mark.value) / (mark.bracket[1] - mark.bracket[0])) + 1))) : 6;
    return cell(name, show(mark.value, Math.min(7, digits)), [mark.bracket ? `in [${show(mark.bracket[0], digits + 1)}, ${show(mark.bracket[1], digits + 1)}]` : "", h("br"), mark.meaning], false, () => { stop(); setTime(mark.value); });
  });
  const size = (part) => (part && part.clusters && isNumber(part.clusters.count) ? part.clusters.count : "–");
  cells.push(cell("clusters, base → LoRA", `${size(report)} → ${size(twin)}`, isNumber(report.clusters && report.clusters.radius) ? `at the end, by single linkage at radius ${show(report.clusters.radius)}` : "at the end"));
  if (isNumber(twin.max_distance)) cells.push(cell("largest distance base–LoRA", show(twin.max_distance), "over tokens and times"));
  return h("dl", { class: "times" }, cells);
}

function provenanceSection() {
  const origin = report.provenance || {};
  const rows = Object.entries(origin).filter(([key, value]) => key !== "inputs" && value !== null).map(([key, value]) => h("tr", null, h("th", { class: "words", scope: "row" }, key), h("td", { class: "words" }, typeof value === "object" ? JSON.stringify(value) : String(value))));
  for (const input of list(origin.inputs)) rows.push(h("tr", null, h("th", { class: "words", scope: "row" }, `input ${input.path ?? ""}`), h("td", { class: "words" }, `sha256 ${input.sha256 ?? "–"}`)));
  for (const [name, part] of [["base", report], ["LoRA", twin]]) {
    if (part && part.stop) rows.push(h("tr", null, h("th", { class: "words", scope: "row" }, `stop, ${name}`), h("td", { class: "words" }, `${part.stop.reason} at ${timeWords(part.stop.time)}`)));
    if (part && part.solver) rows.push(h("tr", null, h("th", { class: "words", scope: "row" }, `solver, ${name}`), h("td", { class: "words" }, Object.entries(part.solver).map(([key, value]) => `${key} ${value}`).join(", "))));
  }
  return section("provenance", "Provenance",
    h("details", { open: true }, h("summary", null, "Origin"), h("table", null, h("tbody", null, rows))),
    h("details", null, h("summary", null, "Resolved configuration"), h("pre", { tabindex: 0 }, JSON.stringify(config, null, 2))),
    h("details", null, h("summary", null, "How to make this page again"), h("p", { class: "foot" }, "From the run folder, without computing anything: ", h("code", null, "metastable render DIR"), ". ",
      report.job === "adapter" ? ["The run itself: ", h("code", null, "metastable adapter info ADAPTER -o DIR"), "."] : layered ? ["The run itself: ", h("code", null, strings ? "metastable inspect MODEL --text FILE -o DIR" : "metastable inspect MODEL -o DIR"), strings ? " with the model and the text above." : " with the model above."] : ["The run itself, to the bit on any number of threads: ", h("code", null, `metastable ${report.job === "sweep" || report.job === "finetune" ? report.job : "simulate"} DIR/config.resolved.toml -o NEW`), "."])),
    h("details", { class: "no-print" }, h("summary", null, "Keyboard"), h("p", { class: "foot" }, h("kbd", null, "space"), " play or pause, ", h("kbd", null, "←"), " ", h("kbd", null, "→"), " one step (with ", h("kbd", null, "Shift"), " ten), ", h("kbd", null, "Home"), " ", h("kbd", null, "End"), " first and last. In a cloud: ", h("kbd", null, "["), " ", h("kbd", null, "]"), " choose a token, ", h("kbd", null, "Esc"), " let go; in three dimensions the arrows turn the view.")),
    h("p", { class: "foot" }, `metastable ${origin.version ?? ""} · report schema ${report.schema ?? "–"}`));
}

// ---- the transport bar

let lastTick = 0;
const playIcon = s("path", { d: "M3 1.5v11l9.5-5.5z" });
const playButton = h("button", { class: "play", type: "button", "aria-label": "Play" }, s("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, playIcon));
function stop() {
  state.playing = false;
  playButton.setAttribute("aria-label", "Play");
  playIcon.setAttribute("d", "M3 1.5v11l9.5-5.5z");
}
function play() {
  if (state.frame >= frames - 1) state.frame = 0;
  state.playing = true;
  lastTick = 0;
  playButton.setAttribute("aria-label", "Pause");
  playIcon.setAttribute("d", "M2.5 1.5h3v11h-3zM8.5 1.5h3v11h-3z");
  requestAnimationFrame(tick);
}
// The whole run takes twelve seconds at speed 1.
function tick(now) {
  if (!state.playing) return;
  const passed = lastTick ? Math.min(100, now - lastTick) : 0;
  lastTick = now;
  setFrame(state.frame + passed / 12000 * state.speed * (frames - 1));
  if (state.frame >= frames - 1) { stop(); return; }
  requestAnimationFrame(tick);
}
const toggle = () => (state.playing ? stop() : play());
function step(by) {
  stop();
  setFrame(Math.round(state.frame) + by);
}

function transport() {
  const bar = byId("transport");
  if (frames < 2) { bar.hidden = true; return; }
  const slider = h("input", { type: "range", min: 0, max: frames - 1, step: 1, value: 0, "aria-label": axis.name });
  slider.addEventListener("input", () => { stop(); setFrame(Number(slider.value)); });
  const output = h("output");
  const flags = s("svg", { "aria-hidden": "true" });
  let lastX = -1, level = 0;
  for (const mark of shownMarks()) {
    const share = 100 * nearest(times, mark.value) / (frames - 1);
    level = share - lastX < 4 && lastX >= 0 ? 16 : 0;
    lastX = share;
    const words = svgWords({ x: `${share}%`, y: 10, dx: level, "text-anchor": "middle" }, `$${mark.sign}$`);
    flags.append(s("line", { x1: `${share}%`, x2: `${share}%`, y1: 13, y2: 19 }), words);
  }
  const speed = h("select", { "aria-label": "Speed", onchange: () => { state.speed = Number(speed.value); } }, [0.25, 0.5, 1, 2, 4].map((x) => h("option", { value: x }, `${x} ×`)));
  speed.value = "1";
  playButton.addEventListener("click", toggle);
  bar.append(playButton, h("span", { class: "step" }, h("button", { class: "button", type: "button", "aria-label": "One step back", onclick: () => step(-1) }, "‹"), h("button", { class: "button", type: "button", "aria-label": "One step on", onclick: () => step(1) }, "›")), h("div", { class: "track" }, flags, slider), output, speed);
  const follow = () => {
    slider.value = String(shownFrame());
    const now = still.matches ? times[shownFrame()] : timeNow();
    slider.setAttribute("aria-valuetext", timeWords(times[shownFrame()]));
    output.replaceChildren(layered ? "layer" : symbol(axis.symbol), ` ${layered ? show(times[shownFrame()]) : `= ${fixed(now)}`}`);
  };
  on("time", follow);
  follow();
}
// As many decimals as tell neighbouring frames apart, so that the readout does not jump while it runs.
function fixed(time) {
  const gap = frames > 1 ? (times[frames - 1] - times[0]) / (frames - 1) : 1;
  const decimals = Math.max(0, Math.min(8, 1 - Math.floor(Math.log10(Math.abs(gap) || 1))));
  return (Math.abs(time) < 1e6 ? time.toFixed(decimals) : show(time)).replace(/^-/, "−");
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || frames < 2) return;
  const on = event.target;
  if (on instanceof Element && on.closest("input:not([type=checkbox]):not([type=range]), select, textarea, .scroll, pre, .strip")) return;
  const by = event.shiftKey ? 10 : 1;
  const actions = { ArrowLeft: () => step(-by), ArrowRight: () => step(by), Home: () => step(-frames), End: () => step(frames) };
  if (event.key === " " && !(on instanceof Element && on.closest("button, a, summary, input"))) actions[" "] = toggle;
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
});

function start() {
  masthead();
  const panel = gaussian ? verdictPanel() : timesPanel();
  if (panel) byId("times").append(panel);
  transport();
  const parts = [comparedRuns, runNumbers, sweepFigures, stepsTable, sweepCells, sweepFailures, modelSection, textSection, count && frames ? cloudsSection : null, spectrumSection, ellipsesSection, particlesSection, seriesSection, distanceSection, historySection, cascadeSection, attentionSection, idealisedSection, predictionsSection, layersSection, headsSection, adapterSection, provenanceSection];
  const main = byId("main");
  for (const part of parts) {
    const node = part && part();
    if (node) main.append(node);
  }
  byId("contents").append(...[...main.querySelectorAll("section")].map((node) => h("a", { href: `#${node.id}` }, node.querySelector("h2").textContent)));
  // A fresh page shows the most telling moment: the end.
  setFrame(frames - 1);
  document.documentElement.dataset.ready = "true";
}
start();

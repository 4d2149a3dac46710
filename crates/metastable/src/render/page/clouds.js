// The figure of the clouds: two canvases, their controls, and the film strip of moments.

function themeColours() {
  const style = getComputedStyle(document.documentElement), get = (name) => style.getPropertyValue(`--${name}`).trim();
  return { paper: get("paper"), ink: get("ink"), soft: get("soft"), faint: get("faint"), grid: get("grid"), twin: get("twin"), accent: get("accent"), wash: get("twin-wash") };
}
const LIGHT = { paper: "#ffffff", ink: "#1a1d21", soft: "#59616b", faint: "#8a929c", grid: "#eceef0", twin: "#c24e00", accent: "#00619a", wash: "#c24e0014" };
let colours = themeColours();
on("theme", () => { colours = themeColours(); });

function cloudPanel(run) {
  const canvas = h("canvas", { tabindex: 0, role: "img", class: run.dim === 3 ? "turns" : null, "aria-label": `${conic ? `Cone of covariances, ${run.count} starts` : `Cloud of ${run.count} tokens`}, ${run.name}. ${run.dim === 3 ? "Arrow keys turn it." : "Arrow keys move in time."} Keys [ and ] choose a token.` });
  const readout = h("p", { class: "readout no-print" });
  const soft = h("span", { class: "soft" });
  const title = h("p", { class: "panel-title" }, h("span", null, h("span", { class: `swatch ${run.key}` }), run.name), soft);
  const node = h("div", null, title, h("div", { class: "stage" }, canvas), readout);
  let places = [], width = 0, height = 0;
  const draw = () => {
    if (!width) return;
    const ratio = Math.min(3, window.devicePixelRatio || 1), context = canvas.getContext("2d");
    const w = Math.round(width * ratio), tall = Math.round(height * ratio);
    if (canvas.width !== w || canvas.height !== tall) { canvas.width = w; canvas.height = tall; }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    places = drawCloud(canvasPen(context), run, still.matches ? shownFrame() : state.frame, width, height, colours);
    const row = rowAt(run, shownFrame());
    soft.textContent = conic ? timeWords(times[shownFrame()]) : row >= 0 ? (({ size }) => `${size} cluster${size === 1 ? "" : "s"} at ${timeWords(times[shownFrame()])}`)(sizesOf(run, row)) : "";
    const chosen = lit();
    readout.replaceChildren(...(chosen >= 0 && chosen < run.count ? [h("b", null, tokenName(chosen)), ` — ${tokenWords(run, shownFrame(), chosen)}`] : []));
  };
  new ResizeObserver((entries) => {
    const next = Math.round(entries[0].contentRect.width);
    if (next < 1 || next === width) return;
    width = next;
    height = Math.round(run.dim === 1 ? Math.min(440, next * 0.8) : Math.min(next, 640));
    requestAnimationFrame(() => { canvas.style.height = `${height}px`; draw(); });
  }).observe(canvas.parentElement);
  ["time", "token", "theme"].forEach((kind) => on(kind, draw));

  const near = (event) => {
    const rect = canvas.getBoundingClientRect(), x = event.clientX - rect.left, y = event.clientY - rect.top;
    let best = -1, least = 15 * 15;
    for (const place of places) { const gap = (place.x - x) ** 2 + (place.y - y) ** 2; if (gap < least || (gap === least && place.depth > 0)) { least = gap; best = place.token; } }
    return best;
  };
  let from = null, moved = false;
  canvas.addEventListener("pointerdown", (event) => { from = [event.clientX, event.clientY, view.yaw, view.pitch]; moved = false; if (run.dim === 3) canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (from && event.buttons & 1 && run.dim === 3) {
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      moved = moved || Math.hypot(dx, dy) > 3;
      turnTo(from[2] - dx * 0.008, from[3] + dy * 0.008);
      hideTip();
      return;
    }
    const token = near(event);
    setToken(token);
    if (token >= 0) showTip(event, [tokenName(token), ...runs.map((r) => (token < r.count ? tokenWords(r, shownFrame(), token) : ""))].filter(Boolean).join("\n")); else hideTip();
  });
  canvas.addEventListener("pointerup", (event) => { from = null; if (!moved) { const token = near(event); if (token >= 0) pin(token); else { state.pinned = -1; emit("token"); } } });
  canvas.addEventListener("pointerleave", () => { setToken(-1); hideTip(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { "[": -1, "]": 1 }[event.key];
    if (step) { state.token = -1; const next = (Math.max(-1, state.pinned) + step + count) % count; state.pinned = -1; pin(next); event.preventDefault(); event.stopPropagation(); return; }
    if (event.key === "Escape") { state.pinned = -1; emit("token"); return; }
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (run.dim === 3 && turns) { turnTo(view.yaw + turns[0], view.pitch + turns[1]); event.preventDefault(); event.stopPropagation(); }
  });
  return node;
}
function turnTo(yaw, pitch) {
  view.yaw = yaw;
  view.pitch = Math.max(-1.55, Math.min(1.55, pitch));
  emit("time");
}

function cloudSvg(run, frame, width, height, plain) {
  const pen = svgPen();
  drawCloud(pen, run, frame, width, height, LIGHT, plain);
  return s("svg", { viewBox: `0 0 ${width} ${height}`, "data-title": `${run.name}, ${timeWords(times[frame])}` }, s("rect", { width, height, fill: "#fff" }), pen.nodes);
}

// Start, the marked times and the end, small and still: a way to jump, and what is printed.
function filmStrip() {
  const moments = [["start", 0]];
  for (const mark of marks) if (mark.value !== null) moments.push([mark.words, nearest(times, mark.value)]);
  if (!marks.some((mark) => mark.value !== null) && frames > 3) moments.push(["one third", Math.round((frames - 1) / 3)], ["two thirds", Math.round(2 * (frames - 1) / 3)]);
  moments.push(["end", frames - 1]);
  const film = h("div", { class: "film" });
  const fill = () => film.replaceChildren(...moments.map(([name, frame]) => h("button", { type: "button", onclick: () => { stop(); setFrame(frame); }, "aria-label": `Go to ${name}, ${timeWords(times[frame])}` },
    h("span", { class: "name" }, `${name}, ${timeWords(times[frame])}`),
    runs.map((run) => [runs.length > 1 && h("span", { class: "which" }, run.name), cloudSvg(run, frame, 210, run.dim === 1 ? 130 : 190, true)]))));
  fill();
  on("view", fill);
  return film;
}

function cloudsSection() {
  const dim = base.dim;
  // A cloud that grows by more than this factor would be a dot at its start.
  const spread = (frame) => { const { low, high } = boundsOf(frame, frame); return Math.max(...low.map((x, k) => high[k] - x)); };
  if (dim > 1 && spread(frames - 1) > 15 * spread(0)) view.axes = "follow";
  if (count <= 200) view.trails = "whole";
  const redraw = () => emit("time");
  const token = h("input", { type: "number", min: 0, max: count - 1, placeholder: "none", "aria-label": "Highlighted token", oninput: () => { state.pinned = -1; if (token.value !== "" && Number(token.value) >= 0 && Number(token.value) < count) pin(Math.floor(Number(token.value))); else emit("token"); } });
  on("token", () => { if (document.activeElement !== token) token.value = state.pinned >= 0 ? state.pinned : ""; });
  const tools = [
    choice("Trails", [["none", "no trails"], ["short", "short"], ["whole", "whole"]], view.trails, (value) => { view.trails = value; redraw(); }),
    dim > 1 && choice("Axes", [["fixed", "fixed axes"], ["follow", "follow"]], view.axes, (value) => { view.axes = value; redraw(); }),
    dim === 2 && checkbox("convex hull", view.hulls, (value) => { view.hulls = value; redraw(); }),
    twin && runs.length > 1 && checkbox("arrows base → LoRA", view.arrows, (value) => { view.arrows = value; redraw(); }),
    special && special.some(Boolean) && checkbox("special tokens", state.showSpecial, (value) => { state.showSpecial = value; redraw(); emit("view"); }),
    dim === 3 && h("button", { class: "button", type: "button", onclick: () => turnTo(0.6, 0.35) }, "reset view"),
    h("label", null, gaussian ? "start" : "token", token),
  ];
  const header = ["run", axis.symbol, "token", "text", "cluster", ...Array.from({ length: dim }, (_, k) => (conic ? CONE_AXES[k] : `${letter}${k + 1}`))];
  const rows = () => runs.flatMap((run) => Array.from({ length: run.count }, (_, i) => [run.key, times[shownFrame()], i, strings ? strings[i] : "", rowAt(run, shownFrame()) >= 0 ? run.history[rowAt(run, shownFrame())][i] : "", ...position(run, shownFrame(), i)]));
  const caption = conic ? coneCaption() : [
    dim === 1 ? "Tokens on the line, their history below them: time runs upwards. " : "The tokens at the time chosen below. ",
    "Colour and shape: the cluster, by a label that persists through time; grey: alone. ",
    runs.length > 1 && report.clusters && isNumber(report.clusters.radius) && !report.projection ? `Dashed rings on the right: the final clusters of the base run, radius ${show(report.clusters.radius)}. ` : "",
    special ? "Hollow: special tokens. " : "",
    report.projection ? `Drawn through a projection. ${report.projection} ` : "",
    h("span", { class: "no-print" }, "Point at a token to find it in both clouds, click to keep it", dim === 3 ? ", drag to turn" : "", "."),
  ];
  return section("clouds", layered ? "The tokens through the layers" : conic ? "The cone of covariances" : "The clouds",
    figure("clouds", caption, [h("div", { class: `pair no-print${runs.length === 1 ? " single" : ""}` }, runs.map(cloudPanel)), filmStrip()], tools,
      { svg: () => exportSvg(runs.map((run) => cloudSvg(run, shownFrame(), 480, dim === 1 ? 380 : 480, false))), csv: () => csv(header, rows()) }));
}

// A line plot in SVG: grid, frame, curves with gaps, time marks, events, and a cursor that follows the shared time.

let clipCount = 0;

// Words with symbols between dollar signs: "log energy $E_1$".
function svgWords(attributes, words) {
  const node = s("text", attributes);
  words.split("$").forEach((part, k) => {
    if (part === "") return;
    if (k % 2 === 0) { node.append(s("tspan", null, part)); return; }
    const [sign, index] = part.split("_");
    node.append(s("tspan", { "font-family": "'STIX Two Text','Latin Modern Roman','Times New Roman','Liberation Serif',serif", "font-style": "italic", "font-size": "1.12em" }, sign));
    if (index) node.append(s("tspan", { dy: 3, "font-size": ".78em" }, index), s("tspan", { dy: -3 }, "\u200b"));
  });
  return node;
}

function curvePath(points, x, y) {
  let path = "", open = false;
  for (const [t, value] of points) {
    if (!x.has(t) || !y.has(value)) { open = false; continue; }
    path += `${open ? "L" : "M"}${x.at(t).toFixed(1)} ${Math.max(-1e4, Math.min(1e4, y.at(value))).toFixed(1)}`;
    open = true;
  }
  return path;
}

function frameAndTicks(node, box, x, y, labels) {
  const { left, right, top, bottom } = box;
  for (const [value, words] of x.ticks(Math.max(2, (right - left) / 62))) {
    const at = x.at(value);
    if (at < left - 0.5 || at > right + 0.5) continue;
    node.append(s("line", { class: "grid", x1: at, x2: at, y1: top, y2: bottom }), s("text", { x: at, y: bottom + 14, "text-anchor": "middle" }, words));
  }
  for (const [value, words] of y.ticks(Math.max(2, (bottom - top) / 32))) {
    const at = y.at(value);
    if (at < top - 0.5 || at > bottom + 0.5) continue;
    node.append(s("line", { class: "grid", x1: left, x2: right, y1: at, y2: at }), s("text", { x: left - 6, y: at + 3.8, "text-anchor": "end" }, words));
  }
  node.append(s("rect", { class: "frame", x: left, y: top, width: right - left, height: bottom - top }));
  if (labels.x) node.append(svgWords({ class: "strong", x: (left + right) / 2, y: bottom + 30, "text-anchor": "middle" }, labels.x));
  if (labels.y) node.append(svgWords({ class: "strong", x: left - (labels.yOffset || 42), y: (top + bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 ${left - (labels.yOffset || 42)} ${(top + bottom) / 2})` }, labels.y));
}

function timeScale(first, last, from, to) {
  const positive = times.find((t) => t > 0) || 1e-3;
  return state.logTime && last > positive ? scale(positive, last, from, to, true) : scale(first, last, from, to);
}
const timeLabel = () => (layered ? "layer" : `time $${axis.symbol}$`);

// options: {title, width, height, lines: [{points, cls, dots, name}], marks, events: [{time, cls, words}], levels: [{value}], logY, yRange, yLabel, left, whole}
function timePlot(options) {
  const { width, height } = options;
  const box = { left: options.left || 48, right: width - 10, top: options.marks && options.marks.length ? 20 : 8, bottom: height - 38 };
  const every = options.lines.flatMap((line) => line.points);
  const across = extent([...every.map((p) => p[0]), ...(options.whole === false ? [] : [times[0], times[frames - 1]])]) || [0, 1];
  const x = timeScale(across[0], across[1], box.left, box.right);
  const values = every.map((p) => p[1]);
  let [low, high] = options.yRange || extent(values.filter((v) => isNumber(v) && (!options.logY || v > 0))) || [0, 1];
  if (!options.yRange && !options.logY) {
    const margin = (high - low) * 0.07;
    low -= margin; high += margin;
    // A spread of rounding errors is drawn as the constant that it is.
    if (!(high - low > 1e-4 * Math.abs(high))) { const spread = Math.max(Math.abs(low) * 0.1, 1e-9); low -= spread; high += spread; }
  }
  const y = scale(low, high, box.bottom, box.top, Boolean(options.logY));
  const node = s("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.aria || options.title, "data-title": options.title });
  const clip = `clip-${(clipCount += 1)}`;
  node.append(s("clipPath", { id: clip }, s("rect", { x: box.left, y: box.top - 1, width: box.right - box.left, height: box.bottom - box.top + 2 })));
  frameAndTicks(node, box, x, y, { x: timeLabel(), y: options.yLabel, yOffset: options.yOffset });
  const inside = s("g", { "clip-path": `url(#${clip})` });
  if (options.allowed) inside.append(s("path", { class: "allowed", d: `${curvePath(options.allowed, x, y)}L${box.right} ${box.top - 2}L${box.left} ${box.top - 2}Z` }));
  for (const level of options.levels || []) if (y.has(level.value)) inside.append(s("line", { class: "level", x1: box.left, x2: box.right, y1: y.at(level.value), y2: y.at(level.value) }), s("text", { x: box.right - 4, y: y.at(level.value) - 4, "text-anchor": "end" }, level.words));
  drawMarks(node, options.marks || [], x, box);
  for (const event of options.events || []) {
    if (!x.has(event.time)) continue;
    const tall = event.cls ? 0 : 6, at = x.at(event.time);
    inside.append(s("line", { class: `event ${event.cls || ""}`, x1: at, x2: at, y1: box.bottom - tall - 6, y2: box.bottom - tall - 1 }, s("title", null, event.words)));
  }
  for (const line of options.lines) {
    inside.append(s("path", { class: `curve ${line.cls || ""}`, d: curvePath(line.points, x, y) }));
    if (line.dots) for (const [t, value] of line.points) if (x.has(t) && y.has(value)) inside.append(s("circle", { class: `dot ${line.cls || ""}`, cx: x.at(t), cy: y.at(value), r: 2.6 }));
  }
  const cursor = s("line", { class: "cursor", "data-live": "", y1: box.top, y2: box.bottom, x1: box.left, x2: box.left });
  node.append(inside, cursor);
  pickTime(node, x, width, box);
  const follow = () => {
    const t = timeNow(), at = x.has(t) ? x.at(t) : box.left;
    cursor.setAttribute("x1", at);
    cursor.setAttribute("x2", at);
    cursor.setAttribute("visibility", at >= box.left - 1 && at <= box.right + 1 ? "visible" : "hidden");
  };
  follow();
  return { node, follow, x, y, box };
}

function drawMarks(node, shown, x, box) {
  let lastEnd = -Infinity, raised = 0;
  for (const mark of shown) {
    if (!x.has(mark.value)) continue;
    const at = x.at(mark.value);
    if (mark.bracket && x.has(mark.bracket[0]) && x.has(mark.bracket[1]) && x.at(mark.bracket[1]) - x.at(mark.bracket[0]) > 1.5) {
      node.append(s("rect", { class: "bracket", x: x.at(mark.bracket[0]), width: x.at(mark.bracket[1]) - x.at(mark.bracket[0]), y: box.top, height: box.bottom - box.top }));
    }
    raised = at - lastEnd < 18 ? 18 - (at - lastEnd) : 0;
    node.append(s("line", { class: "mark", x1: at, x2: at, y1: box.top, y2: box.bottom }), svgWords({ class: "mark-name", x: at + raised, y: box.top - 5, "text-anchor": "middle" }, `$${mark.sign}$`));
    lastEnd = at + raised;
  }
}

function pickTime(node, x, width, box) {
  const pick = (event) => {
    const rect = node.getBoundingClientRect(), at = (event.clientX - rect.left) * width / rect.width;
    if (at >= box.left - 8 && at <= box.right + 8) { stop(); setTime(x.back(Math.max(box.left, Math.min(box.right, at)))); }
  };
  node.addEventListener("pointerdown", (event) => { if (event.button === 0) { pick(event); node.setPointerCapture(event.pointerId); } });
  node.addEventListener("pointermove", (event) => { if (event.buttons & 1) pick(event); });
}

// Draws now, and again whenever the width of the holder or the kind of time axis changes.
function responsive(holder, draw) {
  let width = 0;
  const again = () => { if (width > 0) draw(width); };
  new ResizeObserver((entries) => {
    const next = Math.round(entries[0].contentRect.width);
    // In the next frame: drawing changes sizes, and an observer must not answer itself.
    if (next > 0 && Math.abs(next - width) > 1) { width = next; requestAnimationFrame(again); }
  }).observe(holder);
  on("axis", again);
}

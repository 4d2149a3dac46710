// Drawing a cloud with a pen. There are two pens: one for the canvas on screen, one that writes SVG.

const SHAPES = {
  square: polygon(4, () => 1.25, Math.PI / 4), diamond: polygon(4, () => 1.3, 0), triangle: polygon(3, () => 1.4, 0),
  nabla: polygon(3, () => 1.4, Math.PI), pentagon: polygon(5, () => 1.15, 0), star: polygon(10, (k) => (k % 2 ? 0.68 : 1.5), 0),
};
function polygon(corners, radius, turn) {
  return Array.from({ length: corners }, (_, k) => {
    const angle = turn + 2 * Math.PI * k / corners;
    return [radius(k) * Math.sin(angle), -radius(k) * Math.cos(angle)];
  });
}

function canvasPen(context) {
  return {
    path(points, { stroke, width = 1, alpha = 1, dash = [], close = false, fill = null }) {
      if (points.length < 2) return;
      context.globalAlpha = alpha;
      context.beginPath();
      points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      if (close) context.closePath();
      if (fill) { context.fillStyle = fill; context.fill(); }
      if (stroke) { context.strokeStyle = stroke; context.lineWidth = width; context.setLineDash(dash); context.stroke(); context.setLineDash([]); }
      context.globalAlpha = 1;
    },
    circle(x, y, r, { stroke, width = 1, dash = [], alpha = 1, fill = null }) {
      context.globalAlpha = alpha;
      context.beginPath();
      context.arc(x, y, r, 0, 2 * Math.PI);
      if (fill) { context.fillStyle = fill; context.fill(); }
      if (stroke) { context.strokeStyle = stroke; context.lineWidth = width; context.setLineDash(dash); context.stroke(); context.setLineDash([]); }
      context.globalAlpha = 1;
    },
    marker(shape, x, y, r, paint) {
      if (!SHAPES[shape]) { this.circle(x, y, r, paint); return; }
      this.path(SHAPES[shape].map(([a, b]) => [x + a * r, y + b * r]), { ...paint, close: true });
    },
    text(x, y, words, { colour, anchor = "middle", font = "11px Helvetica, Arial, sans-serif" }) {
      context.fillStyle = colour;
      context.font = font;
      context.textAlign = anchor === "middle" ? "center" : anchor === "end" ? "right" : "left";
      context.fillText(words, x, y);
    },
  };
}

function svgPen() {
  const nodes = [], f = (x) => x.toFixed(1);
  const paint = ({ stroke, width = 1, alpha = 1, dash = [], fill = null }) => ({ fill: fill || "none", stroke: stroke || "none", "stroke-width": width, "stroke-dasharray": dash.length ? dash.join(" ") : null, opacity: alpha < 1 ? alpha.toFixed(2) : null });
  return {
    nodes,
    path(points, look) {
      if (points.length < 2) return;
      nodes.push(s("path", { d: points.map(([x, y], k) => `${k ? "L" : "M"}${f(x)} ${f(y)}`).join("") + (look.close ? "Z" : ""), ...paint(look) }));
    },
    circle(x, y, r, look) { nodes.push(s("circle", { cx: f(x), cy: f(y), r: f(r), ...paint(look) })); },
    marker(shape, x, y, r, look) {
      if (!SHAPES[shape]) this.circle(x, y, r, look);
      else this.path(SHAPES[shape].map(([a, b]) => [x + a * r, y + b * r]), { ...look, close: true });
    },
    text(x, y, words, { colour, anchor = "middle", italic = false }) {
      nodes.push(s("text", { x: f(x), y: f(y), fill: colour, "text-anchor": anchor, "font-size": italic ? 14 : 11, "font-style": italic ? "italic" : null, "font-family": italic ? "'Times New Roman', 'Liberation Serif', serif" : "Helvetica, Arial, sans-serif" }, words));
    },
  };
}

// How all clouds are seen: shared by base and twin.
const view = { yaw: 0.6, pitch: 0.35, trails: "short", hulls: false, arrows: false, axes: "fixed" };

const boundsCache = new Map();
// The box of all runs over the given frames (all of them for fixed axes).
function boundsOf(first, last) {
  const key = `${first}:${last}`;
  if (boundsCache.has(key)) return boundsCache.get(key);
  const dim = base.dim, low = Array(dim).fill(Infinity), high = Array(dim).fill(-Infinity);
  for (const run of runs) {
    const stop = Math.min(run.positions.length, (last + 1) * run.count * dim);
    for (let k = first * run.count * dim; k < stop; k += 1) {
      const x = run.positions[k], c = k % dim;
      if (!Number.isFinite(x)) continue;
      if (x < low[c]) low[c] = x;
      if (x > high[c]) high[c] = x;
    }
  }
  for (let c = 0; c < dim; c += 1) if (!(low[c] <= high[c])) { low[c] = -1; high[c] = 1; }
  if (conic) {
    // The cone up to the highest point.
    const top = Math.max(high[2], 1e-12);
    for (let c = 0; c < dim; c += 1) { low[c] = c === 2 ? 0 : -top; high[c] = top; }
  }
  const bounds = { low, high };
  if (boundsCache.size > 4000) boundsCache.clear();
  boundsCache.set(key, bounds);
  return bounds;
}

// The map from token coordinates to the drawing: at(point) -> [x, y, depth].
function lens(width, height, frame, plain = false) {
  const pad = plain ? 8 : 34, dim = base.dim;
  const left = plain ? 8 : 44, right = width - 10, top = 10, bottom = height - pad;
  const fixed = view.axes === "fixed";
  const { low, high } = fixed ? boundsOf(0, frames - 1) : boundsOf(Math.floor(frame), Math.min(frames - 1, Math.ceil(frame)));
  if (dim === 1) {
    const margin = (high[0] - low[0]) * 0.06 || 0.5;
    const x = scale(low[0] - margin, high[0] + margin, left, right), y = scale(times[0] ?? 0, times[frames - 1] ?? 1, bottom, top);
    return { dim, x, y, left, right, top, bottom, unit: 0, at: (p, t) => [x.at(p[0]), y.at(t), 0] };
  }
  const half = (k) => (high[k] - low[k]) / 2, middle = (k) => (high[k] + low[k]) / 2;
  const side = Math.min(right - left, bottom - top);
  if (dim === 2) {
    const reach = Math.max(half(0), half(1), 1e-12) * 1.08, unit = side / (2 * reach);
    const wide = (right - left) / (2 * unit), tall = (bottom - top) / (2 * unit);
    const x = scale(middle(0) - wide, middle(0) + wide, left, right), y = scale(middle(1) - tall, middle(1) + tall, bottom, top);
    return { dim, x, y, left, right, top, bottom, unit, at: (p) => [x.at(p[0]), y.at(p[1]), 0] };
  }
  const centre = spherical ? [0, 0, 0] : [middle(0), middle(1), middle(2)];
  // The rim of a cone is √5/2 of its height away from the middle of its axis.
  const reach = conic ? 2.27 * half(2) : spherical ? Math.max(1.06, ...low.map(Math.abs), ...high.map(Math.abs)) : Math.hypot(half(0), half(1), half(2)) || 1;
  const unit = Math.min(width - 16, height - 16) / (2 * reach), cx = width / 2, cy = height / 2;
  const sy = Math.sin(view.yaw), cyaw = Math.cos(view.yaw), sp = Math.sin(view.pitch), cp = Math.cos(view.pitch);
  const turn = (p) => {
    const a = p[0] - centre[0], b = p[1] - centre[1], c = p[2] - centre[2];
    const depth = sy * a + cyaw * b;
    return [cyaw * a - sy * b, cp * c - sp * depth, -(cp * depth + sp * c) / reach];
  };
  return { dim, left: 0, right: width, top: 0, bottom: height, unit, reach, centre, turn, at: (p) => { const [a, b, d] = turn(p); return [cx + a * unit, cy - b * unit, d]; } };
}

// Where a token is at a fractional frame.
function placeAt(run, frame, token, out) {
  const low = Math.floor(frame), share = frame - low, n = run.count, d = run.dim, p = run.positions;
  const a = (low * n + token) * d, b = share > 0 && low + 1 < frames ? a + n * d : a;
  for (let k = 0; k < d; k += 1) out[k] = p[a + k] + share * (p[b + k] - p[a + k]);
  return out;
}

function drawAxes(pen, eye, colours) {
  const { left, right, top, bottom } = eye;
  if (eye.dim === 3) { drawTriad(pen, eye, colours); return; }
  for (const [value, words] of eye.x.ticks((right - left) / 70)) {
    pen.path([[eye.x.at(value), top], [eye.x.at(value), bottom]], { stroke: colours.grid });
    pen.text(eye.x.at(value), bottom + 14, words, { colour: colours.soft });
  }
  for (const [value, words] of eye.y.ticks((bottom - top) / 48)) {
    pen.path([[left, eye.y.at(value)], [right, eye.y.at(value)]], { stroke: colours.grid });
    pen.text(left - 6, eye.y.at(value) + 4, words, { colour: colours.soft, anchor: "end" });
  }
  pen.path([[left, top], [right, top], [right, bottom], [left, bottom]], { stroke: colours.faint, close: true });
  const font = "italic 15px 'STIX Two Text', 'Latin Modern Roman', 'Times New Roman', 'Liberation Serif', serif";
  const names = eye.dim === 1 ? [letter, axis.symbol === "layer" ? "layer" : axis.symbol] : report.projection ? ["first axis", "second axis"] : [`${letter}₁`, `${letter}₂`];
  pen.text(right - 6, bottom - 7, names[0], { colour: colours.ink, anchor: "end", font, italic: true });
  pen.text(left + 8, top + 17, names[1], { colour: colours.ink, anchor: "start", font, italic: true });
}

function drawTriad(pen, eye, colours) {
  if (spherical) drawSphere(pen, eye, colours);
  if (conic) drawCone(pen, eye, colours);
  const corner = [eye.left + 42, eye.bottom - 42];
  [[1, 0, 0], [0, 1, 0], [0, 0, 1]].forEach((axisVector, k) => {
    const [a, b] = eye.turn(axisVector.map((x, c) => x + eye.centre[c]));
    pen.path([corner, [corner[0] + 26 * a, corner[1] - 26 * b]], { stroke: colours.soft, width: 1.3 });
    pen.text(corner[0] + 35 * a, corner[1] - 35 * b + 4, conic ? CONE_AXES[k] : `${letter}${"₁₂₃"[k]}`, { colour: colours.soft, font: "italic 13px 'Times New Roman', serif" });
  });
}

// Outline, three great circles; what lies behind is faint.
function drawSphere(pen, eye, colours) {
  const [x, y] = eye.at([0, 0, 0]);
  pen.circle(x, y, eye.unit, { stroke: colours.faint, width: 1.2 });
  for (const circle of [(a) => [Math.cos(a), Math.sin(a), 0], (a) => [Math.cos(a), 0, Math.sin(a)], (a) => [0, Math.cos(a), Math.sin(a)]]) {
    let run = [], front = null;
    for (let k = 0; k <= 72; k += 1) {
      const point = eye.at(circle(2 * Math.PI * k / 72)), ahead = point[2] >= 0;
      run.push(point);
      if (front !== null && ahead !== front || k === 72) { pen.path(run, { stroke: colours.faint, alpha: (front ?? ahead) ? 0.75 : 0.22 }); run = [point]; }
      front = ahead;
    }
  }
}

// The positive semidefinite cone z = √(x² + y²): circles of equal trace and the lines of rank one.
function drawCone(pen, eye, colours) {
  const top = 2 * eye.centre[2], rim = (height, a) => eye.at([height * Math.cos(a), height * Math.sin(a), height]);
  const circle = (height) => Array.from({ length: 73 }, (_, k) => rim(height, 2 * Math.PI * k / 72));
  for (const share of [0.25, 0.5, 0.75]) pen.path(circle(share * top), { stroke: colours.faint, alpha: 0.35 });
  pen.path(circle(top), { stroke: colours.faint, width: 1.3, alpha: 0.9 });
  const apex = eye.at([0, 0, 0]);
  for (let k = 0; k < 12; k += 1) pen.path([apex, rim(top, Math.PI * k / 6)], { stroke: colours.faint, alpha: 0.3 });
}

// Convex hull by Andrew's monotone chain.
function hull(points) {
  const sorted = points.slice().sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (all) => {
    const chain = [];
    for (const p of all) {
      while (chain.length > 1) {
        const [a, b] = chain.slice(-2);
        if ((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0) break;
        chain.pop();
      }
      chain.push(p);
    }
    return chain.slice(0, -1);
  };
  return sorted.length < 3 ? sorted : [...half(sorted), ...half(sorted.reverse())];
}

// Rings at the clusters of the base run: only where the panel shows the coordinates themselves.
function drawRings(pen, run, eye, colours) {
  const clusters = report.clusters || {};
  if (run.key !== "twin" || report.projection || !isNumber(clusters.radius)) return;
  for (const centre of list(clusters.centers)) {
    if (list(centre).length !== eye.dim || !centre.every(isNumber)) continue;
    if (eye.dim === 1) {
      pen.path([[eye.x.at(centre[0] - clusters.radius), eye.top], [eye.x.at(centre[0] - clusters.radius), eye.bottom]], { stroke: colours.soft, dash: [4, 3] });
      pen.path([[eye.x.at(centre[0] + clusters.radius), eye.top], [eye.x.at(centre[0] + clusters.radius), eye.bottom]], { stroke: colours.soft, dash: [4, 3] });
    } else {
      const [x, y, depth] = eye.at(centre);
      pen.circle(x, y, clusters.radius * eye.unit, { stroke: colours.ink, dash: [4, 3], width: 1.1, alpha: depth < 0 ? 0.35 : 0.8 });
    }
  }
}

function trailOf(run, token, frame, eye, first) {
  const points = [], p = [0, 0, 0];
  for (let k = first; k <= Math.floor(frame); k += 1) { placeAt(run, k, token, p); const [x, y] = eye.at(p, times[k]); if (Number.isFinite(x + y)) points.push([x, y]); }
  return points;
}

function drawTrails(pen, run, frame, eye, row, plain) {
  if (view.trails === "none" && !plain) return;
  const long = view.trails === "whole" || plain || run.dim === 1;
  const first = long ? 0 : Math.max(0, Math.floor(frame) - Math.max(4, Math.round(frames * 0.15)));
  const heavy = run.count * (frame - first) > 60000, chosen = lit(), p = [0, 0, 0];
  for (let token = 0; token < run.count; token += 1) {
    if (special && special[token] && !state.showSpecial) continue;
    if (heavy && !plain && token !== chosen && token % Math.ceil(run.count * (frame - first) / 60000)) continue;
    const points = trailOf(run, token, frame, eye, first);
    placeAt(run, frame, token, p);
    const [x, y] = eye.at(p, plain ? times[Math.round(frame)] : timeNow());
    if (Number.isFinite(x + y)) points.push([x, y]);
    const { colour } = styleAt(run, row, token), strong = token === chosen && !plain;
    if (long || run.count > 300) pen.path(points, { stroke: colour, width: strong ? 2 : plain ? 0.7 : 1, alpha: strong ? 1 : run.count > 300 ? 0.18 : 0.42 });
    else {
      // Three pieces fade towards the past.
      const cut = (share) => Math.floor((points.length - 1) * share);
      for (const [a, b, alpha] of [[0, 0.34, 0.16], [0.34, 0.67, 0.34], [0.67, 1, 0.6]]) pen.path(points.slice(cut(a), cut(b) + 1), { stroke: colour, width: strong ? 2.2 : 1.2, alpha: strong ? 1 : alpha });
    }
  }
}

// Draws one run at a fractional frame. `plain` leaves out axes and highlights, for the film strip. Returns the tokens' places.
function drawCloud(pen, run, frame, width, height, colours, plain = false) {
  const eye = lens(width, height, frame, plain), row = rowAt(run, Math.round(frame));
  if (!plain) drawAxes(pen, eye, colours);
  else if (eye.dim === 3 && spherical) drawSphere(pen, eye, colours);
  else if (eye.dim === 3 && conic) drawCone(pen, eye, colours);
  drawRings(pen, run, eye, colours);
  const places = [], p = [0, 0, 0], now = plain ? times[Math.round(frame)] : timeNow();
  for (let token = 0; token < run.count; token += 1) {
    if (special && special[token] && !state.showSpecial) continue;
    placeAt(run, frame, token, p);
    const [x, y, depth] = eye.at(p, now);
    if (Number.isFinite(x + y)) places.push({ token, x, y, depth });
  }
  if (view.hulls && run.dim === 2) pen.path(hull(places.map((q) => [q.x, q.y])), { stroke: colours.soft, width: 1, alpha: 0.8, close: true, fill: colours.wash });
  if (run.dim === 1) pen.path([[eye.left, eye.y.at(now)], [eye.right, eye.y.at(now)]], { stroke: colours.accent, width: 1.2 });
  drawTrails(pen, run, frame, eye, row, plain);
  if (view.arrows && !plain && run.key === "twin") drawArrows(pen, places, frame, eye, colours, now);
  const size = plain ? 2.6 : run.count > 800 ? 2.6 : run.count > 200 ? 3.6 : 5;
  if (run.dim === 3) places.sort((a, b) => a.depth - b.depth);
  for (const { token, x, y, depth } of places) {
    const look = styleAt(run, row, token), near = run.dim === 3 ? 1 + 0.28 * depth : 1, hollow = special && special[token];
    pen.marker(look.marker, x, y, size * near, { fill: hollow ? colours.paper : look.colour, stroke: hollow ? look.colour : colours.paper, width: hollow ? 1.6 : run.count > 800 ? 0.4 : 0.9, alpha: run.dim === 3 ? Math.max(0.35, Math.min(1, 0.75 + 0.4 * depth)) : look.alone && !plain ? 0.85 : 1 });
  }
  const chosen = plain ? undefined : places.find((q) => q.token === lit());
  if (chosen) {
    pen.circle(chosen.x, chosen.y, size + 4.5, { stroke: colours.ink, width: 1.6 });
    const name = strings ? visible(String(strings[chosen.token])).slice(0, 24) : String(chosen.token), right = chosen.x < width - 90;
    pen.text(chosen.x + (right ? size + 9 : -size - 9), chosen.y - 6, name, { colour: colours.ink, anchor: right ? "start" : "end", font: "600 12px Helvetica, Arial, sans-serif" });
  }
  return places;
}

// From where the token is without LoRA to where it is with it.
function drawArrows(pen, places, frame, eye, colours, now) {
  const p = [0, 0, 0];
  for (const { token, x, y } of places) {
    if (token >= base.count) continue;
    placeAt(base, frame, token, p);
    const [a, b] = eye.at(p, now), length = Math.hypot(x - a, y - b);
    if (!(length > 3)) continue;
    pen.path([[a, b], [x, y]], { stroke: colours.twin, width: 1, alpha: 0.55 });
    const u = [(x - a) / length, (y - b) / length], tip = [x - 5 * u[0], y - 5 * u[1]];
    pen.path([[tip[0] - 5 * u[0] - 3 * u[1], tip[1] - 5 * u[1] + 3 * u[0]], tip, [tip[0] - 5 * u[0] + 3 * u[1], tip[1] - 5 * u[1] - 3 * u[0]]], { stroke: colours.twin, width: 1, alpha: 0.8 });
  }
}

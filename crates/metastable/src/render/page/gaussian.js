// A Gaussian run: the verdict, the eigenvalues, the ellipses, and particles beside the moments.

function coneCaption() {
  const family = gaussian.family;
  return [
    "Covariances in space: (Σ₁₁ − Σ₂₂, 2Σ₁₂, Σ₁₁ + Σ₂₂); the wire cone is the boundary of the positive semidefinite ones, its lines are of rank one, its tip is 0. ",
    /tr S/.test(gaussian.cone) ? "Drawn divided by the trace, at height 1, because traces grow beyond one picture. " : "",
    family ? ["Colour and shape: what becomes of a start: ", family.regimes.map((regime, k) => [k ? ", " : "", chip(base, k), ` ${regimeWords(k)} (${regime.count})`]), ". "] : "",
    h("span", { class: "no-print" }, "Point at a start, click to keep it, drag to turn."),
  ];
}

function verdictPanel() {
  const cell = (name, value, note, small) => h("div", null, h("dt", null, name), h("dd", null, h("span", { class: `value${small ? " never" : ""}` }, value), h("div", { class: "note" }, note)));
  const cells = [];
  for (const [words, verdict] of [["", gaussian], [", with LoRA", twin && twin.gaussian]]) {
    if (!verdict) continue;
    const certificate = verdict.certificate || {};
    const grounds = certificate.is_proven ? "proven" : `seen by following it to ${axis.symbol} = ${show(verdict.followed_to)}`;
    cells.push(cell(`regime${words}`, String(verdict.regime).replace(/_/g, " "), grounds));
    if (isNumber(verdict.limit_rank)) cells.push(cell(`rank of the limit${words}`, verdict.limit_rank, certificate.statement || ""));
    const blow = verdict.blow_up;
    if (blow) cells.push(cell([`blow-up${words} `, symbol("t_*")], show(blow.fit, 7), [`in [${show(blow.lower, 10)}, ${show(blow.upper, 10)}]`, h("br"), blow.upper_is_proven ? "both ends proven" : "upper end: twice the fitted rest"]));
    if (isNumber(verdict.growth_rate)) cells.push(cell(`rate of tr Σ${words}`, show(verdict.growth_rate), "at the end of the verdict's run"));
  }
  if (twin && isNumber(twin.max_distance)) cells.push(cell("largest distance base–LoRA", show(twin.max_distance), "Bures-Wasserstein, over the saved times"));
  return h("dl", { class: "times" }, cells);
}

const eigenvalueLines = (run, cls) => {
  const rows = list(run.series.eigenvalues);
  return list(rows[0]).map((_, k) => ({ points: rows.map((row, s) => [run.seriesTimes[s], row[k]]), cls }));
};

function spectrumSection() {
  if (!gaussian || !list(base.series.eigenvalues).length) return null;
  let logY = true, plot = null;
  const holder = h("div"), lines = runs.flatMap((run) => eigenvalueLines(run, run.key === "twin" ? "twin" : ""));
  const positive = extent(lines.flatMap((line) => line.points.map((p) => p[1])).filter((v) => v > 0));
  if (!positive) return null;
  // Below this an eigenvalue is nothing beside the largest.
  const floor = Math.max(positive[0], positive[1] * 1e-16);
  responsive(holder, (width) => {
    plot = timePlot({ title: "eigenvalues of the covariance", width: Math.max(300, width), height: width < 520 ? 280 : 360, left: 60, yOffset: 46, logY, yLabel: "eigenvalues of Σ", marks: shownMarks(), yRange: logY ? [10 ** Math.floor(Math.log10(floor)), 10 ** Math.ceil(Math.log10(positive[1]) + 0.1)] : undefined, lines });
    holder.replaceChildren(plot.node);
  });
  on("time", () => plot && plot.follow());
  const rows = () => runs.flatMap((run) => run.seriesTimes.map((t, s) => [run.key, t, ...list(run.series.eigenvalues[s])]));
  const key = runs.length > 1 ? h("p", { class: "key" }, sample("", "base"), sample("twin", "with LoRA")) : null;
  return section("spectrum", "Eigenvalues of the covariance", figure("eigenvalues", ["The spectrum of Σ. A line that falls for ever is a direction that is lost; ", `the verdict: ${regimeWords(-1)}${pole(report) ? ` at t* = ${show(pole(report).fit, 7)}` : ""}.`], [key, holder],
    [logTimeTool(), choice("Axis of the eigenvalues", [[true, "log"], [false, "linear"]], logY, (value) => { logY = value; emit("axis"); })].filter(Boolean),
    { svg: () => exportSvg([plot.node]), csv: () => csv(["run", axis.symbol, ...list(base.series.eigenvalues[0]).map((_, k) => `eigenvalue_${k}`)], rows()) }));
}

// The ellipse (x - m)ᵀ S⁻¹ (x - m) = r² of [S11, S12, S22].
function ellipsePoints(mean, [a, b, c], r) {
  const half = (a + c) / 2, gap = Math.hypot((a - c) / 2, b), turn = 0.5 * Math.atan2(2 * b, a - c);
  const [long, short] = [Math.sqrt(Math.max(0, half + gap)) * r, Math.sqrt(Math.max(0, half - gap)) * r];
  return Array.from({ length: 97 }, (_, k) => {
    const u = long * Math.cos(2 * Math.PI * k / 96), v = short * Math.sin(2 * Math.PI * k / 96);
    return [mean[0] + u * Math.cos(turn) - v * Math.sin(turn), mean[1] + u * Math.sin(turn) + v * Math.cos(turn)];
  });
}
const samplesCloud = display.samples ? { ...display.samples, positions: floatsOf("samples-positions") } : null;
const samplesAt = (frame) => {
  const points = [];
  for (let k = 0; samplesCloud && k < samplesCloud.count; k += 1) {
    const at = (frame * samplesCloud.count + k) * 2, x = samplesCloud.positions[at], y = samplesCloud.positions[at + 1];
    if (Number.isFinite(x + y)) points.push([x, y]);
  }
  return points;
};
function momentsOf(points) {
  const n = points.length, mean = [0, 1].map((k) => points.reduce((sum, p) => sum + p[k], 0) / n);
  const entry = (i, j) => points.reduce((sum, p) => sum + (p[i] - mean[i]) * (p[j] - mean[j]), 0) / n;
  return [mean, [entry(0, 0), entry(0, 1), entry(1, 1)]];
}

function ellipsesSection() {
  if (!gaussian || list(list(base.series.drawn_covariance)[0]).length !== 3) return null;
  const at = (run, frame) => { const s = nearest(run.seriesTimes, times[frame]); return [run.series.drawn_mean[s], run.series.drawn_covariance[s]]; };
  const all = () => runs.flatMap((run) => run.series.drawn_covariance.map((S, s) => [run.series.drawn_mean[s], S]));
  const reachOf = (pairs) => Math.max(1e-12, ...pairs.map(([m, S]) => Math.max(Math.abs(m[0]) + 2.2 * Math.sqrt(S[0]), Math.abs(m[1]) + 2.2 * Math.sqrt(S[2]))));
  // A Gaussian that grows by more than this factor would be a dot at its start.
  let fixed = reachOf(all()) < 12 * reachOf(runs.map((run) => at(run, 0)));
  const holder = h("div"), readout = h("p", { class: "readout no-print" });
  let node = null, room = 0;
  const draw = () => {
    if (!room) return;
    const frame = shownFrame(), side = Math.min(room, 560), left = 56, right = side - 12, top = 10, bottom = side - 46;
    const dots = samplesAt(frame), now = runs.map((run) => at(run, frame));
    const reach = fixed ? reachOf(all()) : reachOf(now);
    const x = scale(-reach, reach, left, right), y = scale(-reach, reach, bottom, top);
    node = s("svg", { class: "plot", viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": `Ellipses of the covariance at ${timeWords(times[frame])}`, "data-title": `ellipses, ${timeWords(times[frame])}` });
    const clip = `clip-${(clipCount += 1)}`, inside = s("g", { "clip-path": `url(#${clip})` });
    node.append(s("clipPath", { id: clip }, s("rect", { x: left, y: top, width: right - left, height: bottom - top })));
    frameAndTicks(node, { left, right, top, bottom }, x, y, { x: "$x_1$", y: "$x_2$", yOffset: 40 });
    const path = (points, cls) => inside.append(s("path", { class: `curve ${cls}`, d: points.map(([a, b], k) => `${k ? "L" : "M"}${x.at(a).toFixed(1)} ${y.at(b).toFixed(1)}`).join("") }));
    for (let k = 0; k <= 8; k += 1) { const [m, S] = at(base, Math.round(k * (frames - 1) / 8)); path(ellipsePoints(m, S, 1), "ghost"); }
    for (const [a, b] of dots) inside.append(s("circle", { class: "sample", cx: x.at(a).toFixed(1), cy: y.at(b).toFixed(1), r: 1.8 }));
    if (dots.length > 2) { const [m, S] = momentsOf(dots); [1, 2].forEach((r) => path(ellipsePoints(m, S, r), "sampled")); }
    now.forEach(([m, S], k) => [1, 2].forEach((r) => path(ellipsePoints(m, S, r), runs[k].key === "twin" ? "twin" : "")));
    node.append(inside);
    holder.replaceChildren(node);
    readout.textContent = `${timeWords(times[frame])}: ${now.map(([m, S], k) => `${runs.length > 1 ? `${runs[k].name}: ` : ""}mean (${m.map((v) => show(v)).join(", ")}), Σ₁₁ ${show(S[0])}, Σ₁₂ ${show(S[1])}, Σ₂₂ ${show(S[2])}`).join("; ")}`;
  };
  responsive(holder, (width) => { room = Math.max(280, width); draw(); });
  on("time", draw);
  const key = h("p", { class: "key" }, sample("", twin ? "base" : "moments"), twin && sample("twin", "with LoRA"), samplesCloud && sample("sampled", "the shown particles"));
  const dims = (report.tokens || {}).dim, rows = () => runs.flatMap((run) => run.seriesTimes.map((t, k) => [run.key, t, ...run.series.drawn_mean[k], ...run.series.drawn_covariance[k]]));
  const caption = ["Ellipses of one and two standard deviations at the time chosen below", dims > 2 ? ", of the first two coordinates" : "", "; faint: one standard deviation at nine frames of the run.", samplesCloud ? ` Dots: ${samplesCloud.count} particles, drawn from the Gaussian at time 0 and moved by attention itself; dashed: their own ellipses.` : ""];
  return section("ellipses", "The Gaussian in the plane", figure("ellipses", caption, [key, h("div", { class: "pair single" }, holder), readout],
    [choice("Axes of the ellipses", [[true, "fixed axes"], [false, "follow"]], fixed, (value) => { fixed = value; draw(); })],
    { svg: () => exportSvg([node]), csv: () => csv(["run", axis.symbol, "mean_1", "mean_2", "s11", "s12", "s22"], rows()) }));
}

function particlesSection() {
  const groups = list(gaussian && gaussian.particles);
  if (!groups.length) return null;
  const tones = ["", "tone-1", "tone-2", "tone-3"], plots = {};
  const panel = (title, key, level) => {
    const holder = h("div");
    responsive(holder, (width) => {
      const lines = groups.map((group, k) => ({ points: pointsOf(times, group[key]), cls: tones[k % 4] }));
      const most = Math.max(level, ...lines.flatMap((line) => line.points.map((p) => p[1] || 0)));
      plots[key] = timePlot({ title, width: Math.max(280, width), height: 240, left: 50, marks: shownMarks(), yRange: [0, most * 1.15], levels: [{ value: level, words: "sampling alone, t = 0" }], lines });
      holder.replaceChildren(plots[key].node);
    });
    return h("figure", null, h("div", { class: "plot-head" }, h("b", null, title)), holder);
  };
  const panels = [panel("error of the mean · √n", "mean_error", groups[0].sampling_mean_error), panel("error of the covariance · √n", "covariance_error", groups[0].sampling_covariance_error)];
  on("time", () => Object.values(plots).forEach((plot) => plot.follow()));
  const key = h("p", { class: "key" }, groups.map((group, k) => sample(tones[k % 4], `n = ${group.count}`)));
  const late = groups.filter((group) => isNumber(group.invalid_from));
  const caption = [`Root mean square over ${groups[0].repeats} draws of the distance of the particles' mean and covariance from the moments, times √n: flat in n where particles follow the moments. `,
    late.length ? `Too few particles: ${late.map((group) => `n = ${group.count} from ${timeWords(group.invalid_from)}`).join(", ")}, where √(xᵀAᵀΣAx) exceeds √(ln n).` : "√(xᵀAᵀΣAx) stays below √(ln n) for all of them."];
  const rows = () => groups.flatMap((group) => group.mean_error.map((error, s) => [group.count, times[s], error, group.covariance_error[s], list(group.reach)[s]]));
  return section("particles", "Particles beside the moments", figure("particles", caption, [h("div", { class: "multiples" }, panels)], [key], { svg: () => exportSvg(Object.values(plots).map((plot) => plot.node)), csv: () => csv(["n", axis.symbol, "mean_error", "covariance_error", "reach"], rows()) }));
}

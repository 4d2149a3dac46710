// What `inspect` compares: real layers with predictions, a block with its own flow, an adapted model with its base.

// A figure of curves over the layers.
function layerCurves(name, title, caption, key, columns, rows, { logY = false, yLabel = "" } = {}) {
  const used = columns.filter(([field]) => rows.some((row) => isNumber(row[field])));
  if (!used.length) return null;
  let plot = null;
  const holder = h("div");
  responsive(holder, (width) => {
    plot = timePlot({ title, width: Math.max(300, Math.min(width, 760)), height: 300, left: 60, yOffset: 46, logY, yLabel, lines: used.map(([field, , cls]) => ({ points: rows.map((row) => [row[key], row[field]]), cls, dots: true })) });
    holder.replaceChildren(plot.node);
  });
  on("time", () => plot && plot.follow());
  const legend = h("p", { class: "key" }, used.map(([, words, cls]) => sample(cls, words)));
  return figure(name, caption, [legend, h("div", { class: "pair single" }, holder)], [], { svg: () => exportSvg([plot.node]), csv: () => csv([key, ...used.map(([field]) => field)], rows.map((row) => [row[key], ...used.map(([field]) => row[field])])) });
}

function predictionsSection() {
  const field = report.mean_field, layers = list(report.layers).filter((layer) => layer.gaussian_surrogate).map((layer) => ({ index: layer.index, ...layer.gaussian_surrogate }));
  const mean = field && layerCurves("mean-field", "mean cosine and gamma_beta", [`Mean cosine of the tokens (${field.tokens}, n = ${field.n}), before the final norm, against the common cosine γ of equiangular tokens under attention with Q = K = V = I and β = ${show(field.beta)}, from the same start; one layer takes the fitted time ${show(field.time_per_layer)}. Root mean square residual: ${show(field.rms_residual)}.`], "index", [["mean_cosine", "measured", ""], ["gamma", "γ, mean field", "twin"], ["residual", "residual", "tone-1"]], list(field.levels));
  const surrogate = layers.some((layer) => isNumber(layer.one_block)) && layerCurves("surrogate", "Gaussian surrogate", ["Distance W₂ (Bures) between the Gaussian with the mean and covariance of a layer's tokens and what the layers' own linear algebra makes of the layer before (one block) or of the embedding (all blocks). Where “one block” lies below “moved”, the surrogate predicts the block better than no change does."], "index", [["one_block", "one block", ""], ["composed", "all blocks", "twin"], ["moved", "moved by the block", "tone-1"], ["spread", "spread √tr Σ", "tone-2"]], layers, { logY: true, yLabel: "distance" });
  return mean || surrogate ? section("predictions", "Predictions of the layers", mean, surrogate) : null;
}

function idealisedSection() {
  const flow = report.idealised;
  if (!flow || !list(flow.levels).length) return null;
  const which = isNumber(flow.head) ? `head ${flow.head}` : "all heads";
  const left = list(flow.left_out);
  const caption = [`Block ${flow.layer} (${which}) repeated for ever as attention on the sphere (β = ${show(flow.beta)}, a layer takes the time ${show(flow.time_per_layer)}), from the tokens that enter it, beside the layers that really follow. `, left.length ? `Left out: ${left.join("; ")}.` : "", " The configuration is ", h("code", null, flow.config || "idealised/head.toml"), "."];
  return section("idealised", "The block as a flow",
    layerCurves("idealised", "mean cosine of the layers and of the flow", caption, "index", [["mean_cosine", "real layers", ""], ["mean_cosine_flow", "flow", "twin"], ["mean_cosine_flow_lora", "flow with LoRA", "tone-2"]], flow.levels, { yLabel: "mean cosine" }),
    layerCurves("idealised-distance", "distance of the flow from the layers", "Distance of the directions of the real tokens from those of the flow at the same layer.", "index", [["rms_distance", "root mean square", "rms"], ["wasserstein2", "Wasserstein-2", "w2"]], flow.levels, { yLabel: "distance" }));
}

const MODULE_COLUMNS = [["name", "module"], ["status", "status"], ["r", "rank"], ["scale", "scale"], ["norm", "norm"], ["stable_rank", "stable rank"], ["effective_rank", "effective rank"], ["gap", "gap ‖BᵀB − AAᵀ‖"], ["kappa", "κ"], ["kappa_balanced", "κ balanced"]];

function modulesFigure(modules) {
  if (!modules.length) return null;
  const columns = columnsOf(modules, MODULE_COLUMNS).map((column) => (column.key === "status" ? { ...column, name: true, show: (row) => String(row.status || "–").replace(/_/g, " ") } : column.key === "name" ? { ...column, name: true, text: true } : column));
  const status = columns.findIndex((column) => column.key === "status");
  if (modules.some((row) => row.intruders)) columns.splice(status + 1, 0, { key: "intruders", words: "intruders", value: (row) => (row.intruders ? row.intruders.count : null), show: (row) => (row.intruders ? `${row.intruders.count} of ${row.intruders.judged}` : "–") });
  const made = sortable("Modules", columns, modules);
  const flat = columns.filter((column) => column.key !== "intruders");
  return figure("modules", "The modules of the adapter. Untrained: one factor is 0, the module does nothing; dead: both are; rank deficient: σ_r < 1e-6 σ_1. κ is the condition number of the pair of factors, “balanced” what it would be with BᵀB = AAᵀ. An infinite κ is shown as –.", made.node, made.tools, { csv: () => recordsCsv(flat, modules) });
}

function adapterSection() {
  const adapter = report.adapter;
  if (!adapter || typeof adapter !== "object") return null;
  const layers = list(adapter.layers), heads = list(adapter.heads), sweep = list(adapter.scale_sweep);
  const table = (name, label, caption, rows, first, jump) => {
    if (!rows.length) return null;
    const columns = columnsOf(rows, first), made = sortable(label, columns, rows, jump);
    return figure(name, caption, made.node, made.tools, { csv: () => recordsCsv(columns, rows) });
  };
  const jump = (row) => { if (isNumber(row.index)) { stop(); setTime(row.index); } };
  return section("adapter", "The adapter",
    adapter.verdict && h("p", { class: "intro" }, adapter.verdict),
    table("adapter-layers", "Layers of both runs", "The adapted run beside the base run. Relative shift of all tokens, mean cosine of a token and its twin, tokens and clusters that changed.", layers, [["index", "layer"], ["shift_relative", "relative shift"], ["cosine", "cosine"], ["clusters_changed", "tokens that change cluster"], ["clusters_born", "born"], ["clusters_died", "died"], ["n_clusters", "clusters"], ["wasserstein2", "W₂"], ["energy", "energy"], ["energy_change", "energy change"]], jump),
    table("adapter-heads", "Heads of both models", "What the adapter does to each head: relative change of both circuits; the inequality gap + a > 2|b| + ‖E‖ of the value-output circuit and the bound on tan 2θ beside what the leading direction really did.", heads, [["layer", "layer"], ["head", "head"], ["qk_change", "QK change"], ["ov_change", "OV change"], ["gap", "gap"], ["a", "a"], ["b", "|b|"], ["e", "‖E‖"], ["stable", "gap + a > 2|b| + ‖E‖"], ["tan_double_angle_bound", "bound on tan 2θ"], ["tan_double_angle", "tan 2θ"]]),
    table("scale-sweep", "Scales", "The last layer with the adapter at other scales, and the first layer at which some token is in another cluster there.", sweep.map((row) => ({ ...row, parts: row.departure && row.departure.value })), [["factor", "factor"], ["shift_relative", "relative shift"], ["cosine", "cosine"], ["clusters_changed", "tokens that change cluster"], ["n_clusters", "clusters"], ["parts", "clouds part at layer"]]),
    modulesFigure(list(adapter.module_rows).length ? adapter.module_rows : list(adapter.modules)));
}

// What `finetune` adds: its figures as they stand in figures/, the run in numbers, its steps, and runs side by side.

const PROBE = { departure: "level of the first cluster change" };
const training = report.job === "finetune" || report.job === "comparison";

function runNumbers() {
  if (report.job !== "finetune") return null;
  const effective = report.effective || {}, adapter = report.adapter || {}, data = report.data || {};
  const cards = [
    ["final training loss", report.final_loss], ["held-out loss before training", report.base_eval_loss], ["held-out loss of the saved adapter", report.eval_loss],
    ["held-out accuracy of the saved adapter", report.eval_accuracy], ["steps", report.steps], ["saved step", report.saved_step], ["ended by", report.stop && String(report.stop).replace(/_/g, " ")],
    ["examples, held out", isNumber(data.train) ? `${data.train}, ${data.held_out}` : null], ["trained numbers", adapter.parameters], ["adapted modules", list(adapter.modules).length],
    ["scale", adapter.scale], ["effective learning rate, lr σ", effective.learning_rate], ["effective scale σ", effective.sigma], ["tokens a second", report.tokens_per_second],
    ["peak memory, MB", isNumber(report.peak_memory_bytes) ? Math.round(report.peak_memory_bytes / 1e6) : null], ["skipped projections", report.skipped_projections],
    [PROBE.departure, report.probe ? report.probe.departure ?? "none" : null],
  ].filter(([, value]) => value !== null && value !== undefined);
  return section("numbers", "The run", h("dl", { class: "card" }, cards.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, typeof value === "number" ? (Number.isInteger(value) ? String(value) : show(value)) : String(value))))));
}

// At most so many rows; every step is in metrics.jsonl.
const MOST_STEPS = 500;
function stepsTable() {
  if (report.job !== "finetune") return null;
  const all = list(report.series);
  if (!all.length) return null;
  const every = Math.ceil(all.length / MOST_STEPS);
  const rows = all.filter((row, k) => k % every === 0 || isNumber(row.eval_loss) || row.probe || k === all.length - 1).map((row) => {
    const { probe, clipped, ...rest } = row;
    const last = probe ? list(probe.layers)[list(probe.layers).length - 1] || {} : {};
    return { ...rest, probe_shift: last.shift_relative ?? null, probe_clusters_changed: last.clusters_changed ?? null };
  });
  const columns = columnsOf(rows, [["step", "step"], ["loss", "loss"], ["eval_loss", "held-out loss"], ["eval_accuracy", "accuracy"], ["kappa", "κ"], ["kappa_balanced", "κ in balance"], ["gap", "gap"], ["used_rank", "used rank"], ["relative_change", "|ΔW|/|W|"], ["grad_norm", "gradient norm"], ["skipped", "skipped"], ["probe_shift", "probe shift, last layer"], ["probe_clusters_changed", "probe clusters changed, last layer"], ["tokens_per_second", "tokens/s"], ["learning_rate", "learning rate"]])
    .filter((column) => rows.some((row) => row[column.key] !== null && row[column.key] !== undefined));
  const made = sortable("Steps", columns, rows);
  return section("steps", "Step by step", figure("steps", `Rows of metrics.jsonl${every > 1 ? `: every ${every}th step, and those with an evaluation or a probe` : ""}.`, made.node, made.tools, { csv: () => recordsCsv(columns, rows) }));
}

function comparedRuns() {
  if (report.job !== "comparison") return null;
  // The last part of a model's path is its name.
  const rows = list(report.runs).map(({ series, folder, title, model, ...rest }) => ({ ...rest, model: String(model || "").split("/").pop() }));
  const columns = columnsOf(rows, [["name", "run"], ["method", "method"], ["model", "model"], ["learning_rate", "learning rate"], ["rank", "rank"], ["alpha", "alpha"], ["seed", "seed"], ["steps", "steps"], ["final_loss", "training loss"], ["base_eval_loss", "held-out loss before"], ["eval_loss", "held-out loss"], ["eval_accuracy", "accuracy"], ["kappa", "κ"], ["kappa_balanced", "κ in balance"], ["relative_change", "|ΔW|/|W|"], ["probe_shift", "probe shift, last layer"], ["tokens_per_second", "tokens/s"], ["peak_memory_bytes", "peak memory, bytes"]])
    .map((column) => ({ ...column, text: rows.some((row) => typeof row[column.key] === "string") }));
  const made = sortable("Runs", columns, rows);
  return section("runs", "Runs", figure("runs", "One row a run; numbers of the adapter that is saved, κ and |ΔW|/|W| of the last step.", made.node, made.tools, { csv: () => recordsCsv(columns, rows) }));
}

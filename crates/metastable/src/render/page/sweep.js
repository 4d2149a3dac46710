// What `sweep` adds: its figures as they stand in figures/, the statistics of its cells, the points that failed.

function sweepFigures() {
  const block = byId("figure-data");
  const figures = block ? JSON.parse(block.textContent) : [];
  if (!figures.length) return null;
  const drawn = figures.map(({ name, svg }) => h("figure", null, h("img", { src: `data:image/svg+xml;base64,${svg}`, alt: name.replace(/\.svg$/, "").replace(/-/g, " "), class: "drawn" }),
    h("p", { class: "foot no-print" }, h("button", { class: "button", type: "button", onclick: () => download(name, "image/svg+xml", new TextDecoder().decode(Uint8Array.from(atob(svg), (c) => c.charCodeAt(0)))) }, "SVG"), ` figures/${name}`)));
  return section("figures", "Figures", drawn);
}

// One record for every cell of the axes, at most so many.
const MOST_CELLS = 2000;
function sweepCells() {
  const axes = list(report.axes), columns = list(report.columns);
  const sizes = axes.map((axis) => list(axis.values).length);
  const total = sizes.reduce((a, b) => a * b, 1);
  const shown = columns.filter((column) => Array.isArray(column.mean) || Array.isArray(column.shares));
  if (report.job !== "sweep" || !shown.length || total > MOST_CELLS) return null;
  const heads = axes.map((axis) => axis.name).concat(shown.flatMap((column) => (Array.isArray(column.mean) ? [column.name, "interval", "runs"] : [column.name, "runs"])));
  const rows = [];
  for (let cell = 0; cell < total; cell += 1) {
    let rest = cell;
    const at = new Array(axes.length);
    for (let a = axes.length - 1; a >= 0; a -= 1) { at[a] = rest % sizes[a]; rest = Math.floor(rest / sizes[a]); }
    const row = axes.map((axis, a) => axis.values[at[a]]);
    for (const column of shown) {
      if (Array.isArray(column.mean)) {
        const ends = [list(column.low)[cell], list(column.high)[cell]];
        row.push(column.mean[cell], ends.every(isNumber) ? `${show(ends[0])} to ${show(ends[1])}` : "–", list(column.count)[cell]);
      } else row.push(column.shares.filter((share) => share.hits[cell] > 0).map((share) => `${share.value}: ${share.hits[cell]}`).join(", ") || "–", list(column.count)[cell]);
    }
    rows.push(row);
  }
  const cell = (x) => h("td", { class: typeof x === "number" ? null : "words" }, typeof x === "number" ? (Number.isInteger(x) ? String(x) : show(x)) : x === null || x === undefined ? "–" : String(x));
  return section("cells", "Cells",
    h("div", { class: "scroll", tabindex: 0 }, h("table", null, h("thead", null, h("tr", null, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", null, rows.map((row) => h("tr", null, row.map(cell)))))),
    h("p", { class: "foot" }, `Means over ${report.ensemble ?? "the runs"}. Intervals: ${report.intervals ?? "–"}. Every point is in points.parquet and points.csv.`));
}

function sweepFailures() {
  const failures = list(report.failures);
  if (!failures.length) return null;
  const rows = failures.map((failure) => h("tr", null, h("td", null, String(failure.point)), h("td", { class: "words" }, String(failure.place)), h("td", { class: "words" }, String(failure.error))));
  return section("failures", "Points that failed", h("div", { class: "scroll", tabindex: 0 }, h("table", null, h("thead", null, h("tr", null, ["point", "place", "error"].map((head) => h("th", { scope: "col" }, head)))), h("tbody", null, rows))));
}

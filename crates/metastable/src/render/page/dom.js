// Elements, numbers, downloads. Text enters the page through textContent only.

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function fillElement(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}
const h = (name, attributes, ...children) => fillElement(document.createElement(name), attributes, children);
const s = (name, attributes, ...children) => fillElement(document.createElementNS(SVG, name), attributes, children);

const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const list = (x) => (Array.isArray(x) ? x : []);

// Numbers for people: significant digits, a true minus sign, powers of ten outside [1e-3, 1e5).
function show(x, digits = 4) {
  if (!isNumber(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  let text;
  if (size >= 1e5 || size < 1e-3) {
    if (Number.isInteger(x) && size < 1e15) text = x.toLocaleString("en").replace(/,/g, "\u2009");
    else {
      const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
      text = `${trimZeros(mantissa)}·10${superscript(Number(exponent))}`;
    }
  } else text = trimZeros(x.toFixed(Math.max(0, Math.min(10, digits - 1 - Math.floor(Math.log10(size))))));
  return text.replace(/^-/, "−");
}
const trimZeros = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
const superscript = (n) => String(n).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)]));

// "T_d" as an element with a subscript.
function symbol(text) {
  const [letter, index] = text.split("_");
  return h("var", null, letter, index ? h("sub", null, index) : null);
}

// A token string for the eye: control and direction marks become visible.
function visible(text) {
  if (text === "") return "∅";
  const shown = text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (c) => {
    if (c === "\n") return "⏎";
    if (c === "\t") return "⇥";
    return `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
  return shown.trim() === "" ? shown.replace(/ /g, "␣") : shown;
}

const fileStem = () => (document.title.split("·")[0].trim().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "metastable").slice(0, 60);

function download(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = h("a", { href: address, download: `${fileStem()}-${name}` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 4000);
}

function csv(header, rows) {
  const cell = (x) => {
    if (x === null || x === undefined || (typeof x === "number" && !Number.isFinite(x))) return "";
    const text = String(x);
    // A leading = + - @ in text would run as a formula in a spreadsheet.
    const safe = typeof x === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  return [header, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

const EXPORTED = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "stroke-linecap", "stroke-opacity", "opacity", "font-family", "font-size", "font-style", "font-weight", "text-anchor", "visibility"];

// One SVG file from the plots of a figure, in the light theme, with all styles written out.
function exportSvg(plots) {
  const root = document.documentElement;
  const theme = root.dataset.theme;
  root.dataset.theme = "light";
  const parts = [];
  let width = 0, height = 0;
  for (const plot of plots) {
    const [, , w, tall] = plot.getAttribute("viewBox").split(" ").map(Number);
    const copy = plot.cloneNode(true);
    const from = [plot, ...plot.querySelectorAll("*")], to = [copy, ...copy.querySelectorAll("*")];
    from.forEach((node, k) => {
      const style = getComputedStyle(node);
      for (const property of EXPORTED) {
        const value = style.getPropertyValue(property);
        // Detached drawings have no computed style; their attributes say it all.
        if (value && (value !== "none" || property === "fill" || property === "stroke")) to[k].setAttribute(property, value);
      }
      to[k].removeAttribute("class");
    });
    copy.querySelectorAll("[data-live]").forEach((node) => node.remove());
    const name = plot.getAttribute("data-title");
    const top = name && plots.length > 1 ? 22 : 0;
    const group = s("g", { transform: `translate(0 ${height + top})` });
    if (top) group.append(s("text", { x: 8, y: -7, "font-family": "Helvetica, Arial, sans-serif", "font-size": 12, "font-weight": 600 }, name));
    group.append(...copy.childNodes);
    parts.push(group);
    width = Math.max(width, w);
    height += tall + top + 6;
  }
  if (theme === undefined) delete root.dataset.theme; else root.dataset.theme = theme;
  const whole = s("svg", { xmlns: SVG, viewBox: `0 0 ${width} ${height}`, width, height, "font-family": "Helvetica, Arial, sans-serif", "font-size": 11 },
    s("rect", { width, height, fill: "#fff" }), ...parts);
  return new XMLSerializer().serializeToString(whole);
}

let figureCount = 0;
// A numbered figure: tools, content, caption, and buttons that save it. `saves` holds functions svg() and csv().
function figure(name, caption, content, tools = [], saves = {}) {
  figureCount += 1;
  const label = `Figure ${figureCount}`;
  const bar = h("div", { class: "tools" }, tools, h("span", { class: "gap" }),
    saves.svg && h("button", { class: "button", type: "button", "aria-label": `Save ${label} as SVG`, onclick: () => download(`${name}.svg`, "image/svg+xml", saves.svg()) }, "SVG"),
    saves.csv && h("button", { class: "button", type: "button", "aria-label": `Save the data of ${label} as CSV`, onclick: () => download(`${name}.csv`, "text/csv", saves.csv()) }, "data (CSV)"));
  return h("figure", { id: `figure-${name}`, "aria-label": label }, bar, content, h("figcaption", null, h("b", null, `${label}. `), caption));
}

function section(id, title, ...children) {
  return h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), ...children);
}

// Buttons of which one is pressed.
function choice(label, options, chosen, onchoose) {
  const buttons = options.map(([value, words]) => h("button", { class: "button", type: "button", "aria-pressed": value === chosen, onclick: () => {
    buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(options[k][0] === value)));
    onchoose(value);
  } }, words));
  buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(options[k][0] === chosen)));
  return h("span", { class: "choice", role: "group", "aria-label": label }, buttons);
}
function checkbox(words, checked, onchange) {
  const box = h("input", { type: "checkbox", onchange: () => onchange(box.checked) });
  box.checked = checked;
  return h("label", null, box, words);
}

const tip = byId("tip");
function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = Math.min(event.clientX + 14, innerWidth - width - 8);
  const y = event.clientY + 18 + height > innerHeight - 70 ? event.clientY - height - 12 : event.clientY + 18;
  tip.style.left = `${Math.max(8, x)}px`;
  tip.style.top = `${Math.max(8, y)}px`;
}
function hideTip() { tip.hidden = true; }

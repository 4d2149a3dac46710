// Scales and round ticks.

function scale(low, high, from, to, log = false) {
  let a = log ? Math.log10(low) : low, b = log ? Math.log10(high) : high;
  if (!(b > a)) { const spread = log ? 0.5 : Math.max(1, Math.abs(a)) * 0.5; a -= spread; b += spread; }
  const at = (x) => from + ((log ? Math.log10(x) : x) - a) / (b - a) * (to - from);
  const back = (p) => { const x = a + (p - from) / (to - from) * (b - a); return log ? 10 ** x : x; };
  const has = (x) => isNumber(x) && (!log || x > 0);
  return { at, back, has, log, low: log ? 10 ** a : a, high: log ? 10 ** b : b, ticks: (about) => (log ? decades(a, b, about) : rounds(a, b, about)) };
}

function rounds(a, b, about) {
  const raw = (b - a) / Math.max(1, about), power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((f) => raw <= f * power * 1.000001) || 10);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let k = Math.ceil(a / step - 1e-9); k <= Math.floor(b / step + 1e-9) && ticks.length < 50; k += 1) {
    // Powers of ten only where the neighbours stay different with three digits.
    const x = k * step, small = Math.abs(x) < 1e5 && (x === 0 || step >= 1e-4 || Math.max(Math.abs(a), Math.abs(b)) > 100 * step);
    ticks.push([x, small ? (x === 0 ? "0" : x.toFixed(Math.min(decimals, 12))).replace(/^-/, "−").replace(/^−0(\.0+)?$/, "0") : show(x, 3)]);
  }
  return ticks;
}

function decades(a, b, about) {
  const step = Math.max(1, Math.ceil((b - a) / Math.max(1, about)));
  const ticks = [];
  for (let p = Math.ceil(Math.ceil(a - 1e-9) / step) * step; p <= b + 1e-9; p += step) ticks.push([10 ** p, p === 0 ? "1" : p === 1 ? "10" : `10${superscript(p)}`]);
  if (ticks.length >= 2) return ticks;
  // Less than two decades: label 1, 2 and 5 of each.
  const fine = [];
  for (let p = Math.floor(a); p <= b; p += 1) for (const f of [1, 2, 5]) { const l = p + Math.log10(f); if (l >= a - 1e-9 && l <= b + 1e-9) fine.push([f * 10 ** p, show(f * 10 ** p, 2)]); }
  return fine;
}

function extent(values) {
  let low = Infinity, high = -Infinity;
  for (const x of values) if (isNumber(x)) { if (x < low) low = x; if (x > high) high = x; }
  return low <= high ? [low, high] : null;
}

// A perceptually ordered ramp from paper white to deep blue, readable without hue.
const RAMP = [[252, 252, 253], [226, 236, 243], [178, 207, 226], [115, 168, 204], [56, 119, 171], [29, 72, 128], [16, 28, 66]];
// A ramp for lines and points, without the pale end.
const DEEP = [[38, 30, 92], [58, 110, 165], [90, 170, 150], [235, 170, 60]];
function ramp(stops, share) {
  const x = Math.max(0, Math.min(1, share)) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(x)), f = x - low;
  return [0, 1, 2].map((k) => Math.round(stops[low][k] + f * (stops[low + 1][k] - stops[low][k])));
}
const rgb = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;

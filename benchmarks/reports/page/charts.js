"use strict";

// Elements of text nodes only: whatever a model wrote stays text.
function el(tag, attributes, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

const unique = (values) => [...new Set(values)];

// 1024 -> 1k, 1048576 -> 1M; other numbers in full.
function short(length) {
  for (const [size, letter] of [[2 ** 20, "M"], [2 ** 10, "k"]]) {
    if (length >= size && length % size === 0) return length / size + letter;
  }
  return String(length);
}

function figure(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  if (size >= 1e4) {
    return Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
  }
  return Intl.NumberFormat("en", { maximumSignificantDigits: 4 }).format(value);
}

// Even to the eye from dark to light, and told apart by readers who do not see red and green: matplotlib's cividis.
const SCALE = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116],
  [195, 180, 105], [225, 204, 85], [254, 232, 56]];

function colour(share) {
  const at = Math.min(Math.max(share, 0), 1) * (SCALE.length - 1), low = Math.min(Math.floor(at), SCALE.length - 2);
  const mixed = SCALE[low].map((part, index) => Math.round(part + (SCALE[low + 1][index] - part) * (at - low)));
  return { "background-color": `rgb(${mixed})`, color: share > 0.5 ? "#111" : "#fff" };
}

function gradient() {
  return `linear-gradient(90deg, ${SCALE.map((stop) => `rgb(${stop})`)})`;
}

const DASHES = { full: null, retrieved: "8 3 2 3", remembered: "9 2", gold_only: "6 3", no_context: "2 3", memory_off: "4 2",
  memory_shuffled: "1 2" };

// Marks of radius one, open, so that those of models with equal values are all seen.
const MARKS = ["M1 0A1 1 0 1 1 -1 0A1 1 0 1 1 1 0Z", "M-.9 -.9H.9V.9H-.9Z", "M0 -1.3L1.15 .8H-1.15Z", "M0 -1.35L1.35 0L0 1.35L-1.35 0Z",
  "M0 1.3L1.15 -.8H-1.15Z", "M0 -1.3V1.3M-1.3 0H1.3", "M-1 -1L1 1M-1 1L1 -1", "M-.6 -1H.6L1.2 0L.6 1H-.6L-1.2 0Z"];

function mark(one, x, y, ...children) {
  if (one.thin) return el("svg:circle", { cx: x, cy: y, r: 1, style: { fill: one.stroke } }, children);
  const place = `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${one.dash ? 2.2 : 3.4})`;
  return el("svg:path", { class: "mark", d: MARKS[one.model % MARKS.length], transform: place, "stroke-width": 1.4, "vector-effect": "non-scaling-stroke", style: { stroke: one.stroke } }, children);
}

function lineKey(series) {
  const made = series.map((one) => el("li", null,
    el("svg:svg", { viewBox: "0 0 26 10", "aria-hidden": "true" },
      el("svg:line", { x1: 0, x2: 26, y1: 5, y2: 5, "stroke-width": 2, "stroke-dasharray": one.dash, style: { stroke: one.stroke } }), mark(one, 13, 5)),
    one.name));
  return el("ul", { class: "key" }, made);
}

function ticksOf(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 3 || 1));
  const size = [1, 2, 5, 10].map((times) => times * step).find((one) => (high - low) / one <= 5) || 1;
  const found = [];
  for (let at = Math.ceil(low / size) * size; at <= high + 1e-9 * size; at += size) found.push(Math.abs(at) < 1e-9 * size ? 0 : at);
  return found;
}

// Where an axis is labelled: at seven of xs at most, or of the powers of two between them.
function placesOf(xs, powers) {
  const ends = [xs[0], xs[xs.length - 1]].map(Math.log2), twos = [];
  if (powers && xs[0] > 0) for (let at = Math.ceil(ends[0]); at <= ends[1]; at += 1) twos.push(2 ** at);
  const found = twos.length > 1 ? twos : xs, every = Math.ceil(found.length / 7);
  return found.filter((_, index) => index % every === 0);
}

const tick = (at) => (Number.isInteger(at) ? short(at) : figure(at));

// Lines with bands against lengths (powers of two apart evenly): series of {name, model, stroke, dash, points: [{x, y, low, high}]}.
// Models stand a little beside each other, so that equal ones are all seen; not where the axis is `powers` of two and points are many.
function lineChart(title, series, { percent = false, across = "length, tokens", up = "", vertical = null, even = false, powers = false } = {}) {
  const wide = 320, high = 190, left = 44, right = 10, edge = 4, top = 16, bottom = 34;
  const points = series.flatMap((one) => one.points);
  if (!points.length) return null;
  const xs = unique(points.map((point) => point.x)).sort((a, b) => a - b);
  const ends = points.flatMap((point) => [point.low ?? point.y, point.high ?? point.y, point.y]);
  const least = percent ? 0 : Math.min(...ends), most = percent ? 100 : Math.max(...ends);
  const pad = percent ? 3 : (most - least || Math.abs(most) || 1) * 0.08;
  const bend = xs[0] > 0 && !even ? Math.log2 : (x) => x;
  const [first, last] = [bend(xs[0]), bend(xs[xs.length - 1])];
  const models = unique(series.map((one) => one.model)).sort((a, b) => a - b), room = powers ? 0 : Math.min(8 * (models.length - 1), 28);
  const aside = (one) => (room ? (models.indexOf(one.model) / (models.length - 1) - 0.5) * room : 0);
  const x = (value) => left + edge + room / 2 + (last === first ? 0.5 : (bend(value) - first) / (last - first)) * (wide - left - right - 2 * edge - room);
  const y = (value) => top + (1 - (value - least + pad) / (most - least + 2 * pad)) * (high - top - bottom);
  const frame = [
    ...(percent ? [0, 25, 50, 75, 100] : ticksOf(least, most)).map((at) => [
      el("svg:line", { class: "grid", x1: left, x2: wide - right, y1: y(at), y2: y(at) }),
      el("svg:text", { x: left - 5, y: y(at) + 3.5, "text-anchor": "end" }, figure(at)),
    ]),
    ...placesOf(xs, powers).map((at) => {
      const ends = x(at) + 3.2 * tick(at).length > wide; // else its label would be cut
      return el("svg:text", { class: "across", x: ends ? wide : x(at), y: high - bottom + 14, "text-anchor": ends ? "end" : "middle" }, tick(at));
    }),
    el("svg:text", { x: (left + wide - right) / 2, y: high - 3, "text-anchor": "middle" }, across),
    up && el("svg:text", { x: 2, y: 6, "text-anchor": "start" }, up),
    vertical && el("svg:line", { x1: x(vertical), x2: x(vertical), y1: top, y2: high - bottom, "stroke-dasharray": "4 3", style: { stroke: "#d6303a" } }),
  ];
  const drawn = series.filter((one) => one.points.length).map((one) => {
    const sorted = [...one.points].sort((a, b) => a.x - b.x);
    const banded = sorted.filter((point) => point.low !== undefined && point.low !== null);
    const band = [...banded.map((point) => [point.x, point.high]), ...[...banded].reverse().map((point) => [point.x, point.low])];
    const place = (at, value) => `${(x(at) + aside(one)).toFixed(1)},${y(value).toFixed(1)}`;
    return el("svg:g", null,
      banded.length === 1 && el("svg:line", { class: "interval", x1: x(band[0][0]) + aside(one), x2: x(band[0][0]) + aside(one), y1: y(band[0][1]), y2: y(band[1][1]), "stroke-width": 1.2, style: { stroke: one.stroke } }),
      banded.length > 1 && el("svg:polygon", { points: band.map(([at, value]) => place(at, value)).join(" "), opacity: 0.13, style: { fill: one.stroke } }),
      el("svg:polyline", { points: sorted.map((point) => place(point.x, point.y)).join(" "), fill: "none", "stroke-width": one.thin ? 1 : 1.8, "stroke-dasharray": one.dash, style: { stroke: one.stroke } }),
      sorted.map((point) => mark(one, x(point.x) + aside(one), y(point.y), el("svg:title", null, `${one.name}, ${tick(point.x)}: ${figure(point.y)}${percent ? " %" : ""}`))));
  });
  const said = `${title}: ${series.length} lines against ${across}`;
  return el("figure", { class: "chart" }, el("h3", null, title),
    el("svg:svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": said }, frame.filter(Boolean), drawn));
}

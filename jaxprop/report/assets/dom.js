// Elements, numbers and colours. Text reaches the page through textContent alone, so that no name or message of a
// run's files can become markup.
"use strict";

/** Makes an element; `attributes` may hold class, title and the like, or onxxx functions; children are nodes or text. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child instanceof Node ? child : document.createTextNode(child));
  }
  return node;
}

/** A number with four digits that count; powers of ten where plain digits would be long. */
function fmt(x, digits = 4) {
  if (x === null || x === undefined) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-3) {
    const [front, back] = x.toExponential(digits - 1).split("e");
    return `${String(Number(front))}e${Number(back)}`;
  }
  return Number(x.toPrecision(digits)).toLocaleString("en-US", { maximumSignificantDigits: digits });
}

const whole = (x) => Math.round(x).toLocaleString("en-US");

/** A long name with its middle left out: the ends tell layers apart. */
function shorten(name, most) {
  if (name.length <= most) return name;
  const front = Math.max(1, Math.floor((most - 1) * 0.35));
  return `${name.slice(0, front)}…${name.slice(name.length - (most - 1 - front))}`;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Colour and dash of the i-th run: eight colours that stay apart for colour-blind eyes, then the same ones dashed. */
function strokeOf(i) {
  const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
  return { stroke: css(`--line-${i % 8}`), dash: dashes[Math.floor(i / 8) % dashes.length] };
}

// Dark to light with evenly rising lightness, from violet over teal to yellow: read the same by colour-blind eyes.
const STOPS = [
  [40, 12, 78], [49, 45, 117], [46, 79, 134], [38, 109, 139], [31, 139, 137], [49, 168, 120], [109, 194, 88],
  [176, 213, 63], [248, 232, 84],
];

/** The colour at `level` in 0..1 as [r, g, b]. */
function colourAt(level) {
  const place = Math.min(Math.max(level, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[i].map((from, channel) => Math.round(from + (place - i) * (STOPS[i + 1][channel] - from)));
}

const tip = {
  node: () => document.getElementById("tip"),
  show(lines, x, y) {
    const node = this.node();
    node.replaceChildren(...lines.map((line) => el("div", {}, line)));
    node.hidden = false;
    const box = node.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth - 8 ? x - 14 - box.width : x + 14;
    const top = y + 14 + box.height > innerHeight - 8 ? y - 14 - box.height : y + 14;
    node.style.left = `${Math.max(4, left)}px`;
    node.style.top = `${Math.max(4, top)}px`;
  },
  hide() {
    this.node().hidden = true;
  },
};

function table(headers, rows, right = []) {
  const side = (i) => (right.includes(i) ? "number" : null);
  const head = el("tr", {}, headers.map((text, i) => el("th", { class: side(i), scope: "col" }, text)));
  const body = rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", { class: side(i) }, cell))));
  return el("div", { class: "scroll" }, el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
}

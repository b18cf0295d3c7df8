// What a run's task shows of its predictions: pictures by kind, whatever the task.
"use strict";

const DRAWN = { matrix, scatter, shades, table: (panel) => table(panel.headers, panel.rows, panel.right) };

function panels(run) {
  if (!run.panels) return null;
  const { step, examples, of, split, tested, panels: shown } = run.panels;
  const best = tested !== null && tested !== step ? ` The test figures are of the best checkpoint, step ${whole(tested)}.` : "";
  const count = examples === of ? `all ${whole(of || 0)}` : `the first ${whole(examples || 0)} of ${whole(of || 0)}`;
  return [
    el("p", { class: "hint" }, `Of the newest parameters, step ${whole(step || 0)}, on ${count} examples of the ${split} split.${best}`),
    el("div", { class: "grid panels" }, shown.map((panel) => el("article", { class: "panel" },
      el("h3", {}, panel.title), panel.hint ? el("p", { class: "hint" }, panel.hint) : null, DRAWN[panel.kind](panel)))),
  ];
}

/** Counts, shaded by their share of the row: a row is what is, a column what was said. */
function matrix(panel) {
  const cell = (row, value, right) => {
    const total = row.reduce((a, b) => a + b, 0) || 1;
    const node = el("td", { class: "cell" }, value ? whole(value) : "");
    if (value) node.style.background = `rgba(${right ? "46, 139, 110" : "206, 74, 58"}, ${(0.12 + (0.7 * value) / total).toFixed(3)})`;
    return node;
  };
  const head = el("tr", {}, el("th", {}, `${panel.rows} ↓ ${panel.columns} →`), panel.names.map((name) => el("th", { class: "cell", scope: "col" }, name)));
  const body = panel.cells.map((row, i) => el("tr", {}, el("th", { scope: "row" }, panel.names[i]), row.map((value, j) => cell(row, value, i === j))));
  return el("div", { class: "scroll" }, el("table", { class: "matrix" }, el("thead", {}, head), el("tbody", {}, body)));
}

/** Numbers of 0 to 1 as shades: a row is what is written, its columns what it looks at. */
function shades(panel) {
  const cell = (value, i, j) => {
    const node = el("td", { class: "shade", title: `${panel.row_names[i]} → ${panel.column_names[j]}: ${fmt(value, 2)}` });
    node.style.background = `rgba(46, 107, 190, ${value.toFixed(3)})`;
    return node;
  };
  const head = el("tr", {}, el("th", {}, `${panel.rows} ↓ ${panel.columns} →`), panel.column_names.map((name) => el("th", { class: "upright", scope: "col" }, name)));
  const body = panel.cells.map((row, i) => el("tr", {}, el("th", { scope: "row" }, panel.row_names[i]), row.map((value, j) => cell(value, i, j))));
  return el("div", { class: "scroll" }, el("table", { class: "matrix" }, el("thead", {}, head), el("tbody", {}, body)));
}

// The parser knows the name of SVG's namespace, which reads like an address; the page holds none.
const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Points of one scale on both axes, and the line on which they would be equal. */
function scatter(panel) {
  const [size, left, room] = [300, 66, 30];
  const values = panel.points.flat();
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const width = high - low || 1;
  const at = (v) => ((v - low) / width) * (size - 12) + 6;
  const [x, y] = [(v) => left + at(v), (v) => size - at(v)];
  const label = (text, px, py, anchor) => svg("text", { x: px, y: py, "text-anchor": anchor, class: "label" }, text);
  return svg("svg", { viewBox: `0 0 ${left + size} ${size + room}`, class: "scatter", role: "img", "aria-label": panel.title },
    svg("rect", { x: left, y: 0, width: size, height: size, class: "frame" }),
    svg("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "equal" }),
    ...panel.points.map(([a, b]) => svg("circle", { cx: x(a).toFixed(1), cy: y(b).toFixed(1), r: 2.4, class: "point" })),
    label(fmt(low, 3), left, size + 14, "start"), label(fmt(high, 3), left + size, size + 14, "end"), label(panel.x, left + size / 2, size + 26, "middle"),
    label(fmt(low, 3), left - 5, size - 4, "end"), label(fmt(high, 3), left - 5, 12, "end"), label(panel.y, left - 5, size / 2, "end"));
}

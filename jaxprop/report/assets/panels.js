// What a run's task shows of its predictions: pictures by kind, whatever the task.
"use strict";

const DRAWN = {
  matrix,
  pictures,
  scatter,
  shades,
  table: (panel) => table(panel.headers, panel.rows, panel.right),
  transcripts,
};

function panels(run) {
  if (!run.panels) return null;
  const { step, examples, of, split, tested, panels: shown } = run.panels;
  const best = tested !== null && tested !== step ? ` The test figures are of the best checkpoint, step ${whole(tested)}.` : "";
  const count = examples === of ? `all ${whole(of || 0)}` : `the first ${whole(examples || 0)} of ${whole(of || 0)}`;
  return [
    el("p", { class: "hint" }, `Of the newest parameters, step ${whole(step || 0)}, on ${count} examples of the ${split} split.${best}`),
    el("div", { class: "grid panels" }, shown.map((panel) => el("article", { class: panel.kind === "pictures" ? "panel wide" : "panel" },
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

const MARKS = { found: "#2e8b6e", missed: "#f0a020", alarm: "#ce4a3a" };

/** Images with boxes; drawn pixel by pixel, since the page loads no image of any kind. */
function pictures(panel) {
  const said = { found: "found", missed: "missed", alarm: "false alarm" };
  const legend = el("p", { class: "hint" }, Object.entries(said).map(([kind, what]) => {
    const key = el("span", { class: "mark" }, what);
    key.style.borderColor = MARKS[kind];
    return key;
  }));
  return el("div", {}, legend, el("div", { class: "pictures" }, panel.pictures.map((item) =>
    el("figure", {}, picture(item), el("figcaption", {}, item.title)))));
}

function picture({ width, height, channels, pixels, boxes, title }) {
  const bytes = atob(pixels), image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = bytes.charCodeAt(channels * i + (channels === 3 ? c : 0));
    image.data[4 * i + 3] = 255;
  }
  const plain = document.createElement("canvas"), canvas = el("canvas", { role: "img", "aria-label": title });
  const zoom = Math.max(1, Math.round(240 / Math.max(width, height)));
  [plain.width, plain.height, canvas.width, canvas.height] = [width, height, zoom * width, zoom * height];
  plain.getContext("2d").putImageData(image, 0, 0);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(plain, 0, 0, canvas.width, canvas.height);
  pen.font = "11px ui-monospace, monospace";
  const drawn = [...boxes].reverse();
  for (const { box, kind } of drawn) {
    const [x0, y0, x1, y1] = box.map((edge) => edge * zoom);
    pen.strokeStyle = MARKS[kind];
    pen.lineWidth = 2;
    pen.setLineDash(kind === "missed" ? [5, 3] : []);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  for (const { box, kind, text } of drawn) {  // after all boxes, so that no edge crosses a text
    const [x0, y0, , y1] = box.map((edge) => edge * zoom), across = pen.measureText(text).width + 4;
    const left = Math.max(0, Math.min(x0, canvas.width - across));
    const above = y0 >= 13, below = y1 + 13 <= canvas.height;
    // What is missed is named below its box, since what was found in its place is named above.
    const top = kind === "missed" ? (below ? y1 : y1 - 13) : above ? y0 - 13 : below ? y1 : y0;
    pen.fillStyle = MARKS[kind];
    pen.fillRect(left, top, across, 13);
    pen.fillStyle = "#fff";
    pen.fillText(text, left + 2, top + 10);
  }
  return canvas;
}

/** Spectrograms, low tones at the bottom, between the words of the transcript and those that were read, each at their times. */
function transcripts(panel) {
  return el("div", { class: "transcripts" }, panel.examples.map((one) => el("figure", {},
    el("figcaption", {}, el("b", {}, "transcript "), one.reference, el("span", { class: "unit" }, `${fmt(one.seconds, 2)} s${one.errors === null ? "" : `, word errors: ${whole(one.errors)}`}`)), placed(one.reference_words, one.seconds), spectrogram(one),
    placed(one.words, one.seconds), el("figcaption", {}, el("b", {}, "read "), one.said || "nothing"))));
}

function placed(words, seconds) {
  return el("div", { class: "words" }, words.map(([word, start, end]) => {
    const node = el("span", { title: `${fmt(start, 3)} to ${fmt(end, 3)} s` }, word);
    node.style.left = `${((100 * start) / seconds).toFixed(2)}%`;
    node.style.minWidth = `${((100 * (end - start)) / seconds).toFixed(2)}%`;
    return node;
  }));
}

function spectrogram(one) {
  const canvas = el("canvas", { width: one.width, height: one.height, role: "img", "aria-label": `spectrogram of example ${one.example}` });
  const context = canvas.getContext("2d");
  const image = context.createImageData(one.width, one.height);
  const bytes = atob(one.pixels);
  for (let i = 0; i < bytes.length; i++) {
    const value = 255 - bytes.charCodeAt(i);
    image.data.set([value, value, value, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

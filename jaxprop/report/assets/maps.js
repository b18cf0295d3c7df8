// Maps of layers by steps on a canvas, aligned with the curves above them.
"use strict";

const CODE = { missing: 0, zero: 1, lowest: 2, highest: 254, notFinite: 255 };

/** The value a byte stands for. */
function valueOf(map, code) {
  if (code === CODE.zero) return 0;
  const level = (code - CODE.lowest) / (CODE.highest - CODE.lowest);
  return map.scale === "log" ? map.low * (map.high / map.low) ** level : map.low + level * (map.high - map.low);
}

function levelsOf(map) {
  const colours = new Uint8ClampedArray(256 * 4);
  for (let code = CODE.zero; code <= CODE.highest; code++) {
    const level = code === CODE.zero ? -1 : (code - CODE.lowest) / (CODE.highest - CODE.lowest);
    const colour = level < 0 && map.scale === "log" ? [0, 0, 0] : colourAt(Math.max(level, 0));
    colours.set([...colour, 255], 4 * code);
  }
  return colours; // what is missing or not finite stays clear, and shows the pattern drawn for it
}

/** A tile of lines: one diagonal for what is missing, a cross for what is not finite. */
function pattern(ctx, cross) {
  const size = 6 * devicePixelRatio;
  const tile = el("canvas", { width: size, height: size });
  const pen = tile.getContext("2d");
  pen.fillStyle = cross ? "#000" : css("--missing");
  pen.fillRect(0, 0, size, size);
  pen.strokeStyle = cross ? "#ff5c7a" : css("--missing-line");
  pen.lineWidth = (cross ? 1.4 : 1) * devicePixelRatio;
  for (const shift of [-size, 0, size]) {
    stroke(pen, shift, size, shift + size, 0);
    if (cross) stroke(pen, shift, 0, shift + size, size);
  }
  return ctx.createPattern(tile, "repeat");
}

function heatMap(map) {
  const codes = Uint8Array.from(atob(map.codes), (character) => character.charCodeAt(0));
  const rows = map.names.length;
  const columns = map.first.length;
  // Half way between neighbours, so that a map of few steps has no holes.
  const edges = map.first.map((step, i) => (i ? (map.last[i - 1] + step) / 2 : step - 0.5));
  edges.push(map.last[columns - 1] + 0.5);
  const rowHeight = Math.max(3, Math.min(20, Math.round(560 / rows)));
  const height = rows * rowHeight;
  const canvas = el("canvas", { role: "img", "aria-label": `${map.title}, ${rows} rows by ${columns} columns of steps` });
  const cursor = el("div", { class: "cursor", hidden: true });
  const field = el("div", { class: "field" }, canvas, cursor);
  const names = el("div", { class: "names" }, ...rowLabels(map.names, rowHeight));
  const box = el("figure", { class: "map" }, el("figcaption", {}, el("b", {}, map.title), mapLegend(map, codes)));
  box.append(el("div", { class: "body" }, names, field));
  names.style.width = `${gutter()}px`;
  for (const node of [names, field]) node.style.height = `${height}px`;
  field.style.marginRight = `${PAD_RIGHT}px`;

  const columnOf = (step) => {
    let [low, high] = [0, columns];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (edges[middle] <= step) low = middle;
      else high = middle;
    }
    return step < edges[0] || step > edges[columns] ? -1 : low;
  };
  const colours = levelsOf(map);
  const stepAt = (x, width) => {
    const [from, to] = widened(stage.range());
    return from + (x / width) * (to - from);
  };

  box.draw = () => {
    const width = Math.max(Math.round(field.clientWidth * devicePixelRatio), 1);
    canvas.width = width;
    canvas.height = height * devicePixelRatio;
    const ctx = canvas.getContext("2d");
    const image = new ImageData(width, rows);
    const broken = [];
    for (let x = 0; x < width; x++) {
      const column = columnOf(stepAt(x + 0.5, width));
      for (let row = 0; column >= 0 && row < rows; row++) {
        const code = codes[row * columns + column];
        if (code === CODE.notFinite) broken.push([x, row]);
        else image.data.set(colours.subarray(4 * code, 4 * code + 4), 4 * (row * width + x));
      }
    }
    const flat = el("canvas", { width, height: rows });
    flat.getContext("2d").putImageData(image, 0, 0);
    ctx.fillStyle = pattern(ctx, false);
    ctx.fillRect(0, 0, canvas.width, canvas.height);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(flat, 0, 0, canvas.width, canvas.height);
    ctx.fillStyle = pattern(ctx, true);
    const tall = rowHeight * devicePixelRatio;
    for (const [x, row] of broken) ctx.fillRect(x, row * tall, 1, tall);
    if (rowHeight >= 10) {
      ctx.fillStyle = css("--page");
      for (let row = 1; row < rows; row++) ctx.fillRect(0, row * tall - 0.5, canvas.width, 1);
    }
  };
  box.line = (step) => {
    const [from, to] = widened(stage.range());
    cursor.hidden = step === null || step < from || step > to;
    if (!cursor.hidden) cursor.style.left = `${(100 * (step - from)) / (to - from)}%`;
  };
  field.addEventListener("mousemove", (event) => {
    const area = field.getBoundingClientRect();
    const step = stepAt(event.clientX - area.left, area.width);
    const row = Math.min(Math.floor((event.clientY - area.top) / rowHeight), rows - 1);
    const column = columnOf(step);
    stage.point(step);
    if (column < 0 || row < 0) return tip.hide();
    const [first, last] = [map.first[column], map.last[column]];
    const when = first === last ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(last)}, the largest`;
    tip.show([map.names[row], when, told(map, codes[row * columns + column])], event.clientX, event.clientY);
  });
  field.addEventListener("mouseleave", () => {
    tip.hide();
    stage.point(null);
  });
  stage.maps.push(box);
  return box;
}

/** Whether a stretch at either end, wide enough to be seen, was not measured. */
function leavesOut(map) {
  const [from, to] = stage.full;
  return Math.max(map.first[0] - from, to - map.last[map.last.length - 1]) > (to - from) / 200;
}

function told(map, code) {
  if (code === CODE.missing) return "not measured";
  if (code === CODE.notFinite) return "not finite";
  if (code === CODE.zero) return "exactly 0";
  const side = code === CODE.lowest && map.below ? "at most" : code === CODE.highest && map.above ? "at least" : "about";
  return `${map.title}: ${side} ${fmt(valueOf(map, code), 2)}`;
}

function rowLabels(names, rowHeight) {
  const every = Math.ceil(11 / rowHeight);
  const most = narrow() ? 13 : 22;
  return names.map((name, i) => {
    const node = el("span", { title: name }, i % every ? "" : shorten(name, most));
    node.style.top = `${i * rowHeight}px`;
    node.style.lineHeight = `${rowHeight}px`;
    return node;
  });
}

function mapLegend(map, codes) {
  const bar = el("canvas", { width: 120, height: 10 });
  const ctx = bar.getContext("2d");
  for (let x = 0; x < 120; x++) {
    ctx.fillStyle = `rgb(${colourAt(x / 119).join(",")})`;
    ctx.fillRect(x, 0, 1, 10);
  }
  const ends = [`${map.below ? "≤ " : ""}${fmt(map.low, 2)}`, `${map.above ? "≥ " : ""}${fmt(map.high, 2)}`];
  const parts = [el("span", {}, ends[0]), bar, el("span", {}, ends[1])];
  if (map.scale === "log") parts.push(el("span", { class: "unit" }, "log scale"));
  const swatch = (fill, text) => {
    const node = el("canvas", { width: 18 * devicePixelRatio, height: 10 * devicePixelRatio, class: "swatch" });
    const pen = node.getContext("2d");
    pen.fillStyle = fill(pen);
    pen.fillRect(0, 0, node.width, node.height);
    parts.push(node, el("span", {}, text));
  };
  if (map.scale === "log" && codes.includes(CODE.zero)) swatch(() => "#000", "0");
  if (codes.includes(CODE.notFinite)) swatch((pen) => pattern(pen, true), "not finite");
  if (codes.includes(CODE.missing) || leavesOut(map)) swatch((pen) => pattern(pen, false), "not measured");
  return el("span", { class: "scale" }, parts);
}

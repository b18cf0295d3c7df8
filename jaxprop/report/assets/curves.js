// Curves over the steps, drawn by uPlot: one zoom and one cursor for all of them, and for the maps below.
"use strict";

const stage = {
  charts: [], // those over the steps of the whole run
  others: [], // with an axis of their own
  maps: [],
  full: [0, 1],
  view: null, // what is zoomed to, kept when the page draws itself anew

  range() {
    return this.view || this.full;
  },
  zoom(view) {
    this.view = view;
    for (const chart of this.charts) chart.setScale("x", { min: this.range()[0], max: this.range()[1] });
    for (const map of this.maps) map.draw();
  },
  /** Puts all cursors at a step, or takes them away. */
  point(step) {
    for (const map of this.maps) map.line(step);
    for (const chart of this.charts) chart.setCursor(step === null ? { left: -10, top: -10 } : { left: chart.valToPos(step, "x"), top: 0 });
  },
  clear() {
    for (const chart of [...this.charts, ...this.others]) chart.destroy();
    this.charts = [];
    this.others = [];
    this.maps = [];
  },
};

const narrow = () => document.documentElement.clientWidth < 640;
const gutter = () => (narrow() ? 88 : 136);
const PAD_RIGHT = 24;

/** Whether a logarithmic axis tells more: all values above zero, and more than two decades apart. */
function spansDecades(series, decades = 2) {
  const values = series.flatMap((line) => line.value).filter((x) => x !== null);
  if (!values.length || values.some((x) => x <= 0)) return false;
  const [low, high] = values.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, 0]);
  return high / low > 10 ** decades;
}

function axis(extra) {
  const line = { stroke: css("--grid"), width: 1 };
  return {
    stroke: css("--muted"), font: "11px system-ui, sans-serif", grid: line, ticks: { ...line, size: 4 }, gap: 4,
    ...extra,
  };
}

/** Ticks of a logarithmic axis: whole decades as far as they fit; 1, 2 and 5 where there are few. */
function decades(low, high, most) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const stride = Math.max(1, Math.ceil((to - from) / Math.max(most, 1)));
  const ticks = [];
  for (let power = Math.ceil(from / stride) * stride; power <= to; power += stride) {
    for (const digit of low * 50 > high && most >= 3 ? [1, 2, 5] : [1]) ticks.push(Number(`${digit}e${power}`));
  }
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

/** Nearest point of a series that has a value, so that sparse curves tell theirs too. */
function nearest(u, seriesIndex, index) {
  const values = u.data[seriesIndex];
  for (let away = 0; away < values.length; away++) {
    if (values[index - away] !== null && values[index - away] !== undefined) return index - away;
    if (values[index + away] !== null && values[index + away] !== undefined) return index + away;
    if (away > 400) break;
  }
  return index;
}

/** A chart in a box with title and legend.
 *  options: title, unit, series [{label, step, value, gaps, stroke, dash, width, dots}], bands, actions, ticks, log,
 *  area {step, low, high}, height, x {range, log, label, values, splits, rotate, size}, own (an axis of its own), lines [{y, label}], marks. */
function chart(options) {
  const legend = el("div", { class: "legend" });
  const unit = options.unit ? el("span", { class: "unit" }, options.unit) : null;
  const box = el("figure", { class: options.own ? "chart own" : "chart" }, el("figcaption", {}, el("b", {}, options.title), unit, legend));
  box.build = () => {
    const plot = new uPlot(plotOptions(options, box, legend), joined(options), box);
    if (options.own) stage.others.push(plot);
    else stage.charts.push(plot);
    watchCursor(plot, options);
  };
  return box;
}

function joined(options) {
  const tables = options.series.map((line) => [line.step, line.value]);
  return tables.length === 1 ? tables[0] : uPlot.join(tables);
}

function plotOptions(options, box, legend) {
  const x = options.x || {};
  const left = options.own ? 62 : gutter();
  return {
    width: box.clientWidth, height: options.height || 168, padding: [10, PAD_RIGHT, 0, 0],
    scales: { x: xScale(options), y: yScale(options) },
    axes: [
      axis({
        values: x.values || ((u, splits) => splits.map((v) => (Number.isInteger(v) || x.log ? fmt(v) : ""))),
        splits: x.log ? (u, i, low, high) => decades(low, high, Math.floor(u.bbox.width / devicePixelRatio / 50)) : x.splits,
        filter: x.log ? (u, splits) => splits : undefined,
        rotate: x.rotate, size: x.size || 28, space: x.space || 60,
      }),
      axis({
        size: left, space: 32, incrs: isHuge(options) ? POWERS : undefined, ...(options.log ? logTicks : {}), values: (u, splits) => splits.map((v) => (v === null ? "" : fmt(v))),
      }),
    ],
    series: [
      { label: "\u00a0", value: (u, v) => (v === null ? "" : x.name ? x.name(v) : `${x.label ?? "step"} ${fmt(v, 6)}`) },
      ...options.series.map(lineOptions),
    ],
    cursor: {
      sync: options.own ? { key: options.own } : { key: "steps", scales: ["x", null], filters: { pub: moves, sub: moves } },
      dataIdx: nearest, drag: { x: !options.own, y: false, setScale: false }, points: { size: (u, i) => (options.series[i - 1]?.quiet ? 0 : 7) },
      bind: { dblclick: () => () => (options.own ? null : stage.zoom(null)) },
    },
    legend: { live: true, mount: (u, node) => legend.append(node) },
    hooks: {
      drawClear: [(u) => drawBands(u, options), (u) => drawArea(u, options)],
      draw: [(u) => drawMarks(u, options)],
      setSelect: [(u) => select(u, options)],
    },
  };
}

// uPlot knows steps between ticks up to 1e16 alone.
const POWERS = Array.from({ length: 600 }, (_, i) => Number(`1e${i - 300}`));
const isHuge = (options) => options.series.some((line) => line.value.some((x) => Math.abs(x) > 1e14));

const logTicks = {
  splits: (u, i, low, high) => decades(low, high, Math.floor(u.bbox.height / devicePixelRatio / 26)),
  filter: (u, splits) => splits,
};
const moves = (type) => type !== "mousedown" && type !== "mouseup";

function xScale(options) {
  const x = options.x || {};
  if (!options.own) return { time: false, range: () => widened(stage.range()) };
  if (x.log) return { time: false, distr: 3, range: (u, low, high) => [low, high] };
  return { time: false, range: x.range ? () => x.range : (u, low, high) => widened([low, high]) };
}

const widened = ([low, high]) => (high > low ? [low, high] : [low - 0.5, high + 0.5]);

function yScale(options) {
  const reached = options.area ? [...options.area.low, ...options.area.high].filter((v) => v !== null) : [];
  const least = reached.filter((v) => !options.log || v > 0);
  const [lowest, highest] = [least.reduce((a, b) => Math.min(a, b), Infinity), least.reduce((a, b) => Math.max(a, b), -Infinity)];
  if (options.log) {
    return { distr: 3, log: 10, range: options.yRange ? () => options.yRange : (u, low, high) => roomy(Math.min(low, lowest), Math.max(high, highest)) };
  }
  if (options.yRange) return { range: () => options.yRange };
  return {
    range: (u, low, high) => {
      if (low === null || high === null) return [0, 1];
      const marked = (options.lines || []).map((line) => line.y);
      const [a, b] = [Math.min(low, lowest, ...marked), Math.max(high, highest, ...marked)];
      return uPlot.rangeNum(a >= 0 && a < 0.4 * b ? 0 : a, b, 0.06, true);
    },
  };
}

/** A little room about the values of a logarithmic axis. */
function roomy(low, high) {
  if (!(low > 0)) return [0.1, 1];
  const room = (high / low) ** 0.06 * 1.05;
  return [low / room, high * room];
}

function lineOptions(line) {
  const dots = line.dots ?? line.value.length <= 40;
  return {
    label: line.label, class: line.quiet ? "quiet" : undefined, stroke: line.stroke, dash: line.dash, width: line.width || 1.4, alpha: line.alpha,
    points: { show: dots, size: 5, fill: line.stroke }, value: (u, v) => (v === null || v === undefined ? "" : fmt(v)),
  };
}

function select(u, options) {
  if (options.own || u.select.width < 4) return;
  const view = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
  u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  if (view[1] - view[0] >= 2) stage.zoom(view);
}

/** The range of values between records, behind the curve of the records themselves. */
function drawArea(u, options) {
  const { area } = options;
  if (!area || !area.step.length) return;
  const { left, top, width, height } = u.bbox;
  const floor = options.log ? u.scales.y.min : -Infinity;
  const at = (i, values) => [u.valToPos(area.step[i], "x", true), u.valToPos(Math.max(values[i], floor), "y", true)];
  const places = area.step.map((_, i) => i).filter((i) => area.low[i] !== null && area.high[i] !== null);
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left, top, width, height);
  u.ctx.clip();
  u.ctx.beginPath();
  for (const i of places) u.ctx.lineTo(...at(i, area.high));
  for (const i of places.reverse()) u.ctx.lineTo(...at(i, area.low));
  u.ctx.closePath();
  u.ctx.globalAlpha = 0.2;
  u.ctx.fillStyle = css("--line-0");
  u.ctx.fill();
  u.ctx.restore();
}

/** Alerts from their first sign to the step they were given at, behind the curves. */
function drawBands(u, options) {
  const { left, top, width, height } = u.bbox;
  u.ctx.save();
  u.ctx.beginPath();
  u.ctx.rect(left, top, width, height);
  u.ctx.clip();
  for (const band of options.bands || []) {
    const from = u.valToPos(band.since, "x", true);
    const to = u.valToPos(band.step, "x", true);
    const thin = Math.max(2 * devicePixelRatio - (to - from), 0) / 2;
    u.ctx.fillStyle = css(band.severity === "act" ? "--band-act" : "--band-advice");
    u.ctx.fillRect(from - thin, top, to - from + 2 * thin, height);
    u.ctx.fillStyle = css(band.severity === "act" ? "--act" : "--advice");
    u.ctx.fillRect(to - devicePixelRatio / 2, top, devicePixelRatio, height);
  }
  u.ctx.restore();
}

/** Actions, stretches that are not finite, alerts of overlaid runs, and lines to compare with. */
function drawMarks(u, options) {
  const { left, top, width, height } = u.bbox;
  const ratio = devicePixelRatio;
  const inside = (x) => x >= left - 1 && x <= left + width + 1;
  u.ctx.save();
  for (const action of options.actions || []) {
    const x = u.valToPos(action.due, "x", true);
    if (!inside(x)) continue;
    u.ctx.fillStyle = u.ctx.strokeStyle = css("--action");
    u.ctx.setLineDash([3 * ratio, 3 * ratio]);
    u.ctx.lineWidth = ratio;
    stroke(u.ctx, x, top, x, top + height);
    triangle(u.ctx, x, top, 5 * ratio);
  }
  for (const tick of options.ticks || []) {
    const x = u.valToPos(tick.step, "x", true);
    u.ctx.fillStyle = tick.stroke;
    if (inside(x)) triangle(u.ctx, x, top, 4 * ratio);
  }
  u.ctx.fillStyle = css("--act");
  for (const [first, last] of options.series.flatMap((line) => line.gaps || [])) {
    const from = Math.max(u.valToPos(first, "x", true) - 1.5 * ratio, left);
    const to = Math.min(u.valToPos(last, "x", true) + 1.5 * ratio, left + width);
    if (to > from) u.ctx.fillRect(from, top, to - from, 5 * ratio);
  }
  for (const line of options.lines || []) drawLine(u, line);
  for (const mark of options.marks || []) drawMark(u, mark);
  u.ctx.restore();
}

function stroke(ctx, x0, y0, x1, y1) {
  ctx.beginPath();
  ctx.moveTo(x0, y0);
  ctx.lineTo(x1, y1);
  ctx.stroke();
}

function triangle(ctx, x, y, size) {
  ctx.beginPath();
  ctx.moveTo(x - size, y);
  ctx.lineTo(x + size, y);
  ctx.lineTo(x, y + 1.4 * size);
  ctx.fill();
}

function label(u, text, x, y, align) {
  u.ctx.setLineDash([]);
  u.ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  u.ctx.textAlign = align;
  u.ctx.fillStyle = css("--text");
  u.ctx.fillText(text, x, y);
}

function drawLine(u, line) {
  const y = u.valToPos(line.y, "y", true);
  u.ctx.strokeStyle = css("--muted");
  u.ctx.lineWidth = devicePixelRatio;
  u.ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  stroke(u.ctx, u.bbox.left, y, u.bbox.left + u.bbox.width, y);
  label(u, line.label, u.bbox.left + u.bbox.width - 4, y - 4 * devicePixelRatio, "right");
}

function drawMark(u, mark) {
  const x = u.valToPos(mark.x, "x", true);
  u.ctx.strokeStyle = css("--action");
  u.ctx.lineWidth = 2 * devicePixelRatio;
  u.ctx.setLineDash([]);
  stroke(u.ctx, x, u.bbox.top, x, u.bbox.top + u.bbox.height);
  const right = x < u.bbox.left + u.bbox.width / 2;
  label(u, mark.label, x + (right ? 6 : -6) * devicePixelRatio, u.bbox.top + 12 * devicePixelRatio, right ? "left" : "right");
}

/** Tells what is marked under the pointer, and shows the step in the maps. */
function watchCursor(u, options) {
  u.over.addEventListener("mousemove", (event) => {
    if (options.own && !options.own.startsWith("spike")) return;
    const step = u.posToVal(event.offsetX, "x");
    const near = Math.abs(u.posToVal(5, "x") - u.posToVal(0, "x"));
    if (!options.own) for (const map of stage.maps) map.line(step);
    const bands = (options.bands || []).filter((band) => step >= band.since - near && step <= band.step + near);
    const actions = (options.actions || []).filter((action) => Math.abs(step - action.due) <= near);
    const ticks = (options.ticks || []).filter((tick) => Math.abs(step - tick.step) <= near);
    const lines = [
      ...bands.slice(0, 3).map((band) => `${band.severity === "act" ? "▲" : "△"} step ${whole(band.step)}: ${band.message || band.kind}`),
      ...actions.slice(0, 2).map((action) => `▼ ${action.action}: ${action.message}`),
      ...ticks.slice(0, 3).map((tick) => tick.label),
    ];
    if (bands.length > 3) lines.push(`and ${bands.length - 3} more alerts`);
    if (lines.length) tip.show(lines, event.clientX, event.clientY);
    else tip.hide();
  });
  u.over.addEventListener("mouseleave", () => {
    tip.hide();
    for (const map of stage.maps) map.line(null);
  });
}

// A sweep: its settings ranked, over the steps, and against each other. A setting may be any list of keys and values.
"use strict";

const CUT = 36; // characters of a setting or a value; the whole is in its title

const SEEN = 15; // rows of a table

const cut = (text, most = CUT) => (text.length > most ? el("span", { title: text }, shorten(text, most)) : text);
const room = () => (narrow() ? 44 : 60);
const lastOf = (key) => key.slice(key.lastIndexOf(".") + 1);

/** The colour of a level of the metric: the best stands out from the page, whether that is light or dark. */
function shade(level) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return colourAt(dark ? 0.22 + 0.78 * level : 0.88 * (1 - level));
}

const ink = ([red, green, blue]) => (0.3 * red + 0.59 * green + 0.11 * blue > 130 ? "#000" : "#fff");
const rgb = (colour) => `rgb(${colour.join(",")})`;

function sweepReport({ sweep }) {
  return [
    el("div", { class: "verdicts" }, sweepVerdict(sweep)),
    section("Settings", `The best ${spoken(sweep.metric)} first: its mean over seeds, and half the width of the interval of 95 % for it.`, ranking(sweep)),
    section("Over the steps", `Drag to zoom, double-click to see all. Thick: the mean over seeds. Thin: a seed. Grey: settings that rank lower.`, sweep.charts.map((one) => sweepChart(sweep, one))),
    sweep.coordinates ? section("Every key", "A line is a setting, from its values to its mean, which is its colour. Hover to see which.", levels(sweep), coordinates(sweep)) : null,
    sweep.map ? section(capital(spoken(sweep.metric)), `By ${sweep.map.rows} and ${sweep.map.columns}; the mean over seeds. Outlined: the best. ✕: lost runs.`, levels(sweep), keyMap(sweep)) : null,
    section("Lost runs", "", lost(sweep)),
    section("Alerts by setting", "", sweepAlerts(sweep)),
  ];
}

function sweepVerdict({ verdict, notes: told }) {
  return el("article", { class: `verdict ${verdict.tone}` },
    el("h2", {}, el("span", { class: "icon", "aria-hidden": "true" }, ICONS[verdict.tone]), verdict.headline),
    factList(verdict.facts), notes({ notes: told }));
}

function dotOf(i) {
  return i < 8 ? el("i", { class: `dot line-${i}` }) : el("i", { class: "dot none" });
}

const more = (count, where) => (count ? el("p", { class: "hint" }, `and ${whole(count)} more in ${where}`) : null);

/** A table whose first rows are seen, and the others by a click. */
function firstRows(what, headers, rows, right) {
  const rest = rows.length - SEEN;
  if (rest <= 3) return [table(headers, rows, right)];
  return [table(headers, rows.slice(0, SEEN), right), folded(`rows ${what}`, `${whole(rest)} more ${what}`, table(headers, rows.slice(SEEN), right))];
}

function ranking({ keys, metric, settings, settings_more }) {
  const runs = (one) => one.runs.flatMap(([seed, href, status]) => [
    href === null ? el("span", { title: status }, String(seed)) : el("a", { href, title: `seed ${seed}: ${status}` }, String(seed)), " "]);
  const rows = settings.map((one, i) => [
    el("span", {}, dotOf(i), String(i + 1)), one.mean === null ? "–" : fmt(one.mean), one.margin === null ? "" : `± ${fmt(one.margin, 2)}`, String(one.seeds),
    one.lost ? el("span", { class: "act" }, String(one.lost)) : "", one.alerts ? String(one.alerts) : "",
    ...one.values.map((value) => (value === null ? "–" : cut(value))), el("span", {}, runs(one))]);
  const headers = ["", spoken(metric), "95 %", "seeds", "lost", "alerts", ...keys.map((key) => cut(key)), "runs by seed"];
  return [el("div", { class: "compared ranking" }, firstRows("settings", headers, rows, [1, 2, 3, 4, 5])), more(settings_more, "results.json")];
}

/** Means by setting, thick for those with a colour, behind them their seeds, and behind those the others in grey. */
function sweepChart(sweep, { name, split, lines }) {
  const layer = ({ setting, seed }) => (setting >= 8 ? 0 : seed === null ? 2 : 1);
  const ordered = [...lines].sort((a, b) => layer(a) - layer(b) || b.setting - a.setting);
  const series = ordered.map((line) => {
    const own = sweep.settings[line.setting];
    const label = `${line.setting + 1}: ${own.label || "all"}`;
    // Where the names of the keys leave no room for the values, these stand alone.
    const brief = label.length > CUT ? shorten(`${line.setting + 1}: ${own.values.filter((value) => value !== null).join(", ")}`, CUT) : label;
    const style = [{ stroke: css("--muted"), width: 1, alpha: 0.35 }, { ...strokeOf(line.setting), width: 1, alpha: 0.55 }, { ...strokeOf(line.setting), width: 2.6 }][layer(line)];
    return { ...line, label: brief, whole: label, quiet: layer(line) < 2, dots: line.step.length <= 2 || (split === "evaluation" && layer(line) === 2 && line.step.length <= 40), ...style };
  });
  const title = split === "train" ? `Training ${spoken(name)}` : `Evaluation ${spoken(name)}`;
  const box = chart({ title, series, log: spansDecades(series, 2), height: 240 });
  const { build: plot } = box;
  box.build = () => {
    plot();
    box.querySelectorAll(".legend .u-series").forEach((row, i) => {
      if (!i) return;
      row.title = series[i - 1].whole;
      row.style.order = series[i - 1].setting;
    });
  };
  return box;
}

// -- the metric's colours ---------------------------------------------------------------------------------------------

function levels({ metric, colours }) {
  const bar = el("canvas", { width: 120, height: 10, class: "swatch-bar" });
  const pen = bar.getContext("2d");
  for (let x = 0; x < 120; x++) {
    pen.fillStyle = rgb(shade(x / 119));
    pen.fillRect(x, 0, 1, 10);
  }
  const worst = `${fmt(colours.worst, 3)}${colours.clipped ? " and worse" : ""}`;
  return el("p", { class: "scale levels" }, el("b", {}, spoken(metric)), el("span", {}, worst), bar, el("span", {}, fmt(colours.best, 3)), colours.log ? el("span", { class: "unit" }, "log scale") : null);
}

// -- parallel coordinates ---------------------------------------------------------------------------------------------

const TALL = 310, TOP = 38, BELOW = 24, LEFT = 10, RIGHT = 62, LEAST = 92;

function coordinates(sweep) {
  const box = el("div", { class: "scroll coordinates" });
  box.build = () => box.replaceChildren(drawCoordinates(sweep, box.clientWidth));
  return [box, more(sweep.coordinates.more, "results.json")];
}

function drawCoordinates({ coordinates: { axes, metric, lines }, metric: name }, room) {
  const width = Math.max(room, LEFT + RIGHT + LEAST * axes.length);
  const gap = (width - LEFT - RIGHT) / axes.length;
  const x = (i) => LEFT + i * gap;
  const y = (at) => TOP + (1 - at) * (TALL - TOP - BELOW);
  const bottom = TALL - 6; // where settings end that have no mean
  const letters = (space, each = 6.4) => Math.max(4, Math.floor(space / each));
  const all = [...axes, { key: name, ticks: metric.map(([at, value]) => [at, fmt(value, 4)]) }];
  const text = (said, most, at) => {
    const node = svg("text", at, shorten(said, most));
    if (said.length > most) node.append(svg("title", {}, said));
    return node;
  };
  const drawnAxes = all.map(({ key, ticks }, i) => {
    const last = i === all.length - 1;
    const free = last ? RIGHT + gap / 2 - 8 : i ? gap - 10 : LEFT + gap / 2; // of the names of its neighbours
    const anchor = last ? "end" : i ? "middle" : "start";
    return svg("g", { class: "axis" },
      svg("line", { x1: x(i), y1: y(1), x2: x(i), y2: y(0) }),
      text(last ? spoken(key) : lastOf(key), letters(free, 7.4), { x: last ? width - 2 : i ? x(i) : 0, y: 13, "text-anchor": anchor, class: "key" }),
      ...ticks.flatMap(([at, said]) => [
        svg("line", { x1: x(i) - 3, y1: y(at), x2: x(i) + 3, y2: y(at) }),
        text(String(said), last ? letters(RIGHT - 10) : Math.min(letters(gap - 14), 16), { x: x(i) + 6, y: y(at) + (last ? 4 : -5), class: "tick" })]));
  });
  const paths = [...lines].reverse().flatMap((line, at) => {
    const points = line.at.map((value, i) => (value === null ? null : [x(i), y(value)]));
    points.push([x(axes.length), line.level === null ? bottom : y(line.level)]);
    const d = points.filter(Boolean).map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
    const best = at === lines.length - 1;
    const seen = svg("path", { d, class: line.level === null ? "line lost" : "line", "stroke-width": best ? 3 : 1.4, stroke: line.level === null ? css("--act") : rgb(shade(line.level)) });
    const hit = svg("path", { d, class: "hit" });
    hit.addEventListener("mousemove", (event) => {
      seen.classList.add("hot");
      tip.show([line.label, line.mean === null ? "lost" : `${spoken(name)} ${fmt(line.mean)}`], event.clientX, event.clientY);
    });
    hit.addEventListener("mouseleave", () => { seen.classList.remove("hot"); tip.hide(); });
    return [seen, hit];
  });
  if (lines.some((line) => line.level === null)) drawnAxes.push(svg("text", { x: x(axes.length) + 6, y: bottom + 4, class: "tick lost" }, "lost"));
  return svg("svg", { width, height: TALL, viewBox: `0 0 ${width} ${TALL}`, role: "img", "aria-label": `${lines.length} settings by ${all.map(({ key }) => key).join(", ")}` }, ...paths, ...drawnAxes);
}

// -- two keys ---------------------------------------------------------------------------------------------------------

function keyMap({ map, metric }) {
  const best = (i, j) => map.best[0] === i && map.best[1] === j;
  const cell = (one, i, j) => {
    if (!one) return el("td", { class: "cell missing", title: "not tried" }, "");
    const gone = one.lost ? ` ✕${one.lost > 1 || one.mean !== null ? one.lost : ""}` : "";
    const node = el("td", { class: best(i, j) ? "cell best" : "cell", title: `${lastOf(map.rows)}=${map.row_names[i]}, ${lastOf(map.columns)}=${map.column_names[j]}: ${one.mean === null ? "all runs lost" : `${spoken(metric)} ${fmt(one.mean)}`}, ${one.seeds} ${one.seeds === 1 ? "seed" : "seeds"}${one.lost && one.mean !== null ? `, ${one.lost} lost` : ""}` },
      one.mean === null ? "" : fmt(one.mean, 3), gone ? el("span", { class: one.mean === null ? "act" : null }, gone) : null);
    if (one.level !== null) {
      const colour = shade(one.level);
      node.style.background = rgb(colour);
      node.style.color = ink(colour);
    }
    return node;
  };
  const long = map.column_names.some((name) => name.length > 9);
  const head = el("tr", {}, el("th", {}, `${lastOf(map.rows)} ↓ ${lastOf(map.columns)} →`), map.column_names.map((name) => el("th", { class: long ? "upright" : "cell", scope: "col" }, cut(name, 22))));
  const body = map.cells.map((row, i) => el("tr", {}, el("th", { scope: "row" }, cut(map.row_names[i], narrow() ? 14 : 22)), row.map((one, j) => cell(one, i, j))));
  return el("div", { class: "scroll" }, el("table", { class: "matrix keys" }, el("thead", {}, head), el("tbody", {}, body)));
}

// -- what went wrong --------------------------------------------------------------------------------------------------

function lost({ lost: runs, lost_more }) {
  if (!runs.length) return null;
  const rows = runs.map(([label, seed, status, problem, href]) => [cut(label || "all", room()), href === null ? String(seed) : el("a", { href }, String(seed)), status, problem]);
  return [...firstRows("lost runs", ["setting", "seed", "status", "why"], rows, [1]), more(lost_more, "results.json")];
}

function sweepAlerts({ alerts: rows, alerts_more }) {
  if (!rows.length) return null;
  const shown = rows.map(({ label, act, advice, kinds }) => [cut(label || "all", room()), act ? whole(act) : "", advice ? whole(advice) : "",
    kinds.map(([kind, count]) => (count > 1 ? `${kind} (${whole(count)})` : kind)).join(", ")]);
  return [...firstRows("settings with alerts", ["setting", "to act on", "advice", "kinds"], shown, [1, 2]), more(alerts_more, "the runs' alerts.jsonl")];
}

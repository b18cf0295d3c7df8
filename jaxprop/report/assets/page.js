// The report: what came of the run first, then the pictures, in the order one looks for a cause.
"use strict";

const LEGEND = "Shaded: an alert, from its first sign to its step. Dashed: an action. A bar at the top: not finite. Tinted: lowest to highest between records.";
const ICONS = { good: "✓", watch: "△", bad: "✕", open: "…" };
const COMMANDS = ["fix", "use it with"]; // facts that are typed into a shell or a file
let shownRun = 0; // whose maps are shown, of several runs
let opened = new Set(); // folded parts that were opened

function section(title, hint, ...parts) {
  const kept = parts.flat().filter(Boolean);
  if (!kept.length) return null;
  return el("section", {}, el("h2", {}, title), hint ? el("p", { class: "hint" }, hint) : null, kept);
}

function folded(key, summary, ...parts) {
  const node = el("details", { open: opened.has(key) }, el("summary", {}, summary), parts);
  node.addEventListener("toggle", () => (node.open ? opened.add(key) : opened.delete(key)));
  return node;
}

function factList(facts) {
  return el("dl", {}, facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, COMMANDS.includes(name) ? el("code", {}, text) : text)]));
}

// -- the verdict ------------------------------------------------------------------------------------------------------

function verdict(run, several, folds) {
  const { tone, headline, facts, worst } = run.verdict;
  const list = factList(facts);
  const layers = worst.length
    ? folded(`worst ${run.name}`, tone === "good" || tone === "open" ? "Layers that differ most" : "Layers to look at first",
        table(["layer", "reason"], worst))
    : null;
  return el("article", { class: `verdict ${tone}` },
    el("h2", {}, el("span", { class: "icon", "aria-hidden": "true" }, ICONS[tone]), several ? `${run.name}: ${headline}` : headline),
    folds ? folded(`facts ${run.name}`, "What, why and what to change", list) : list, layers, alerts(run), several ? card(run, true) : null,
    notes(run));
}

/** What was trained, how long it took, what came of it, and the configuration. */
function card(run, within = false) {
  const { facts, config } = run.card;
  if (!facts.length && !config.length) return null;
  const list = el("dl", {}, facts.flatMap(([name, said]) => [el("dt", {}, name), el("dd", {}, said)]));
  const keys = config.length
    ? folded(`config ${run.name}`, `Configuration, ${whole(config.length)} keys`,
        table(["key", "value"], config.map(([key, value]) => [el("code", {}, key), value])))
    : null;
  if (within) return folded(`card ${run.name}`, "Time, size and configuration", list, keys);
  return el("article", { class: "card" }, list, keys);
}

function alerts(run) {
  if (!run.alerts.length) return null;
  const rows = run.alerts.map((alert) => [whole(alert.step), alert.severity, alert.kind, alert.layer || "–", alert.message]);
  const more = run.alerts_more ? el("p", { class: "hint" }, `and ${whole(run.alerts_more)} more in alerts.jsonl`) : null;
  const count = run.alerts.length + run.alerts_more;
  return folded(`alerts ${run.name}`, `${whole(count)} ${count === 1 ? "alert" : "alerts"}`,
    table(["step", "severity", "kind", "layer", "message"], rows, [0]), more);
}

function notes(run) {
  return run.notes.length ? el("ul", { class: "notes" }, run.notes.map((note) => el("li", {}, `Note: ${note}.`))) : null;
}

// -- curves -----------------------------------------------------------------------------------------------------------

function curveOf(run, key, label, style) {
  const curve = run.curves[key];
  return curve ? { label, step: curve.step, value: curve.value, gaps: curve.gaps, ...style } : null;
}

function curves(runs) {
  const several = runs.length > 1;
  const [run] = runs;
  const found = [];
  const add = (title, unit, series, extra = {}) => {
    const kept = series.filter((line) => line && line.step.length);
    if (!kept.length) return;
    const marks = several ? { ticks: alertTicks(runs) } : { bands: run.alerts, actions: run.actions };
    found.push(chart({ title, unit, series: kept, log: spansDecades(kept, extra.decades || 2), ...marks, ...extra }));
  };
  const each = (key, style = () => ({})) => runs.map((one, i) => curveOf(one, key, several ? one.name : title(key), { ...strokeOf(i), ...style(i) }));
  const title = (key) => ({ loss: "train", eval_loss: "eval", lr: "rate", grad_norm: "norm", loss_scale: "scale" })[key];
  const second = { stroke: css("--line-1"), width: 2, dots: true };
  if (several) {
    add("Training loss", "", each("loss"), { decades: 3 });
    add("Evaluation loss", "", each("eval_loss", () => ({ dots: true })), { decades: 3 });
  } else {
    add("Loss", "", [curveOf(run, "loss", "train", strokeOf(0)), curveOf(run, "eval_loss", "eval", second)], { decades: 3, area: run.ranges.loss });
  }
  for (const name of new Set(runs.flatMap((one) => one.metrics))) {
    const evaluated = runs.some((one) => one.curves[`eval_${name}`]);
    if (several && evaluated) add(`Evaluation ${spoken(name)}`, "", each(`eval_${name}`, () => ({ dots: true })), { decades: 3 });
    else if (several) add(`Training ${spoken(name)}`, "", each(name), { decades: 3 });
    else add(capital(spoken(name)), "", [curveOf(run, name, "train", strokeOf(0)), curveOf(run, `eval_${name}`, "eval", second)], { decades: 3 });
  }
  add("Gradient norm", "L2, before clipping", each("grad_norm"), several ? {} : { area: run.ranges.grad_norm });
  add("Learning rate", "", several ? apart(each("lr")) : each("lr"), { height: 120, decades: several ? 2 : 4 });
  add("Loss scale", several ? "" : run.scale_told, each("loss_scale"), { height: 110 });
  if (several) add("Gradient noise scale", "examples", each("noise_scale"), { height: 130 });
  else noise(run, add);
  return found;
}

const PROPER = { wer: "WER", cer: "CER", bleu: "BLEU", chrf: "chrF", map: "mAP", map_50: "mAP at 0.5" };
const spoken = (name) => PROPER[name] || name.replaceAll("_", " ");
const capital = (text) => (Object.values(PROPER).includes(text) ? text : text.charAt(0).toUpperCase() + text.slice(1));

/** Rates of runs that lie far apart, without the zeros of a warmup, so that a logarithmic axis can show them all. */
function apart(series) {
  const tops = series.filter(Boolean).map((line) => Math.max(...line.value));
  if (Math.max(...tops) < 20 * Math.min(...tops)) return series;
  return series.map((line) => line && { ...line, value: line.value.map((x) => (x > 0 ? x : null)) });
}

function noise(run, add) {
  const batch = run.batch_size;
  const lines = batch ? [{ y: batch, label: `batch size ${whole(batch)}` }] : [];
  const line = curveOf(run, "noise_scale", "noise scale", strokeOf(0));
  const log = Boolean(line) && spansDecades([{ value: [...line.value, ...lines.map((l) => l.y)] }], 2);
  add("Gradient noise scale", "examples; a batch far above it gains little from being so large", [line], { height: 130, lines, log });
}

function alertTicks(runs) {
  return runs.flatMap((run, i) =>
    run.alerts.map((alert) => ({ step: alert.step, stroke: strokeOf(i).stroke, label: `${run.name}, step ${whole(alert.step)}: ${alert.kind} ${alert.layer}` })));
}

// -- maps and profiles ------------------------------------------------------------------------------------------------

function maps(runs) {
  if (!runs.some((run) => run.maps.length)) return [];
  shownRun = Math.min(shownRun, runs.length - 1);
  const holder = el("div", {});
  const fill = () => {
    stage.maps = [];
    const run = runs[shownRun];
    holder.replaceChildren(...(run.maps.length ? run.maps.map(heatMap) : [el("p", { class: "hint" }, "This run has no rows of layers.")]));
    for (const map of stage.maps) map.draw();
  };
  holder.build = fill;
  if (runs.length === 1) return [holder];
  const choice = el("select", { onchange: (event) => { shownRun = Number(event.target.value); fill(); } },
    runs.map((run, i) => el("option", { value: i, selected: i === shownRun }, run.name)));
  return [el("label", { class: "choice" }, "Run ", choice), holder];
}

const MOMENTS = ["--line-0", "--line-4", "--line-1"];

function profileChart(profile, title, shared = {}) {
  const n = profile.names.length;
  const label = (v) => profile.names[Math.round(v)] || "";
  const series = profile.lines.map((line, i) => ({
    label: `${line.label} (${whole(line.step)})`, step: profile.names.map((_, at) => at), value: line.values,
    stroke: css(MOMENTS[i % MOMENTS.length]), width: i === profile.lines.length - 1 ? 2.2 : 1.4, dots: n <= 40,
  }));
  return chart({
    title, unit: profile.unit, series, own: "depth", height: 250, log: spansDecades(series, 0.7), ...shared,
    x: {
      label: "", name: label, range: [-0.3, n - 0.7], rotate: 50, size: 92, space: 1,
      splits: (u) => everyNth(n, Math.max(Math.floor(u.bbox.width / devicePixelRatio / 17), 2)),
      values: (u, splits) => splits.map((v) => shorten(label(v), 17)),
    },
  });
}

function everyNth(n, most) {
  const step = Math.ceil(n / most);
  return Array.from({ length: Math.ceil(n / step) }, (_, i) => i * step);
}

function depth(data) {
  const runs = data.runs;
  if (runs.length === 1) return [el("div", { class: "grid" }, runs[0].profiles.map((profile) => profileChart(profile, profile.title)))];
  if (data.compare.note) return [el("div", { class: "grid wide" }, relative(runs))];
  const titles = [...new Set(runs.flatMap((run) => run.profiles.map((profile) => profile.title)))];
  return titles.map((title) => {
    const shown = runs.flatMap((run) => run.profiles.filter((profile) => profile.title === title).map((profile) => [run, profile]));
    const shared = sharedScale(shown.map(([, profile]) => profile));
    return el("div", {}, el("h3", {}, title), el("div", { class: "grid" }, shown.map(([run, profile]) => profileChart(profile, run.name, shared))));
  });
}

/** One vertical scale for pictures side by side. */
function sharedScale(profiles) {
  const values = profiles.flatMap((profile) => profile.lines.flatMap((line) => line.values)).filter((x) => x > 0);
  if (!values.length) return {};
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const log = spansDecades([{ value: values }], 0.7);
  return { log, yRange: log ? roomy(low, high) : [0, 1.06 * high] };
}

/** Of runs with different layers: their last shown moment against the relative position. */
function relative(runs) {
  const titles = [...new Set(runs.flatMap((run) => run.profiles.map((profile) => profile.title)))];
  return titles.map((title) => {
    const series = runs.flatMap((run, i) =>
      run.profiles.filter((profile) => profile.title === title).map((profile) => {
        const line = profile.lines[profile.lines.length - 1];
        const last = Math.max(profile.names.length - 1, 1);
        return { label: `${run.name}, ${line.label}`, step: profile.names.map((_, at) => at / last), value: line.values, ...strokeOf(i), dots: true };
      }));
    const x = { label: "position", range: [-0.03, 1.03], values: (u, splits) => splits.map((v) => fmt(v, 2)) };
    return chart({ title, unit: "from the input, 0, to the output, 1", series, own: "relative", height: 230, log: spansDecades(series, 0.7), x });
  });
}

// -- spikes, and the first value that was not finite --------------------------------------------------------------------

function spike(run, found) {
  const own = `spike ${run.name} ${found.step} ${found.title}`;
  const range = [found.step - 50, found.step + 50];
  const one = (key, title) => {
    const line = found.curves[key];
    if (!line || !line.step.length) return null;
    const series = [{ label: title, ...line, ...strokeOf(0), width: 1.6 }];
    const bands = run.alerts.filter((alert) => alert.step === found.step).slice(0, 1);
    return chart({ title, series, own, bands, height: 130, log: spansDecades(series), x: { range } });
  };
  const rows = found.layers.map(([name, value, median, times]) => [name, value === null ? "not finite" : fmt(value, 3), fmt(median, 3), times === null ? "–" : `${fmt(times, 3)} ×`]);
  const layers = rows.length
    ? [el("p", { class: "hint" }, `Layers highest above their own median, at step ${whole(found.at)}`),
       table(["layer", "gradient norm", "median", "above"], rows, [1, 2, 3])]
    : [el("p", { class: "hint" }, "No rows of layers within 50 steps.")];
  return el("article", { class: "spike" }, el("h3", {}, `${found.title}, step ${whole(found.step)}`),
    el("div", { class: "grid three" }, one("loss", "Loss"), one("grad_norm", "Gradient norm"), el("div", {}, layers)));
}

function place(item) {
  const line = item.file ? `${item.file}${item.line === null ? "" : `:${item.line}`}` : "";
  return [item.layer ? el("span", { class: "where" }, item.layer) : null, line ? el("code", {}, line) : null];
}

function badOf(item) {
  if (item.bad === null) return null;
  const of = item.size === null ? "" : ` of ${whole(item.size)}`;
  return el("span", { class: "bad" }, `${whole(item.bad)}${of} not finite`);
}

function finding(found) {
  const path = found.path.length ? found.path : [found];
  const items = path.map((item, i) => el("li", { class: i === 0 ? "first" : null },
    el("b", {}, item.primitive || "operation"), place(item), item.phase ? el("span", { class: "phase" }, item.phase) : null, badOf(item)));
  if (found.hidden) items.splice(found.hidden_after, 0, el("li", { class: "hidden" }, `${whole(found.hidden)} more operations`));
  const affected = found.affected.length
    ? `reached the gradients of ${found.affected.join(", ")}${found.affected_more ? ` and ${whole(found.affected_more)} more` : ""}`
    : "reached the loss";
  items.push(el("li", { class: "end" }, affected));
  const facts = [found.examples ? `examples of the batch: ${found.examples}` : "", found.index ? `index in the array: ${found.index}` : ""].filter(Boolean);
  return el("article", { class: "finding" },
    el("h3", {}, found.step === null ? "The first value that was not finite" : `Step ${whole(found.step)}`),
    found.message ? el("p", {}, found.message) : null, facts.length ? el("p", { class: "hint" }, facts.join("; ")) : null,
    el("ol", { class: "chain" }, items));
}

function rates(run) {
  const found = run.lr_find;
  if (!found) return null;
  const series = [{ label: "loss", step: found.lr, value: found.loss, stroke: css("--muted"), width: 1, dots: false }];
  if (found.smoothed.length) series.push({ label: "smoothed", step: found.lr, value: found.smoothed, ...strokeOf(0), width: 2.2, dots: false });
  const marks = found.suggested > 0 ? [{ x: found.suggested, label: `suggested ${fmt(found.suggested, 2)}` }] : [];
  const x = { log: true, label: "rate" };
  const yRange = informative(found.smoothed.length ? found.smoothed : found.loss);
  return chart({ title: "Loss", unit: "against the learning rate", series, own: "rates", height: 240, x, marks, yRange });
}

/** The range that shows where the loss falls, although it may end far above where it began. */
function informative(values) {
  const finite = values.filter((x) => x !== null);
  if (!finite.length) return undefined;
  const [low, start, high] = [Math.min(...finite), finite[0], Math.max(...finite)];
  const top = start > low ? Math.min(high, start + 0.6 * (start - low)) : high;
  const room = 0.06 * (top - low) || 0.5;
  return [low - room, top + room];
}

// -- several runs -----------------------------------------------------------------------------------------------------

function comparison(data) {
  if (!data.compare) return null;
  const { headers, rows, order, metric, keys, more, note } = data.compare;
  const named = (i) => el("span", { class: "name" }, el("i", { class: `dot line-${i % 8}` }), data.runs[i].name);
  const lines = rows.map((row, at) => [named(order[at]), ...row.slice(1)]);
  const columns = headers.filter((header) => keys.some(([key]) => key === header));
  const ranked = metric ? `The best ${spoken(metric)} first.` : "";
  const differ = !keys.length
    ? el("p", { class: "hint" }, "The configs are the same in every key.")
    : columns.length === keys.length
      ? null
      : [el("h3", {}, "Where the configs differ"), table(["key", ...order.map(named)], keys.map(([key, values]) => [el("code", {}, key), ...values])),
         more ? el("p", { class: "hint" }, `and ${whole(more)} more keys`) : null];
  return section("Runs", [ranked, note].filter(Boolean).join(" "), el("div", { class: "compared" }, table(headers, lines)), differ);
}

// -- the page ---------------------------------------------------------------------------------------------------------

function report(data) {
  const { runs } = data;
  const several = runs.length > 1;
  const drawnCurves = data.sweep ? data.sweep.charts.flatMap((one) => one.lines) : runs.flatMap((run) => Object.values(run.curves));
  const steps = drawnCurves.flatMap((curve) => [curve.step[0], curve.step[curve.step.length - 1]]).filter((x) => x !== undefined);
  stage.full = steps.length ? [Math.min(...steps), Math.max(...steps)] : [0, 1];
  const live = document.documentElement.dataset.mode === "live";
  const each = (draw) => runs.flatMap((run) => {
    const drawn = [draw(run)].flat().filter(Boolean);
    return drawn.length && several ? [el("h3", { class: "run" }, run.name), ...drawn] : drawn;
  });
  const header = el("header", {}, el("h1", {}, data.title), el("span", { class: "by" }, "jaxprop report"), live ? el("span", { id: "pulse" }, "live") : null);
  if (data.sweep) return [header, ...sweepReport(data)].filter(Boolean);
  const moreSpikes = (run) => (run.spikes_more ? [el("p", { class: "hint" }, `and ${whole(run.spikes_more)} more spikes`)] : []);
  const drawn = [
    header,
    comparison(data),
    el("div", { class: "verdicts" }, (several ? data.compare.order : [0]).map((i) => verdict(runs[i], several, runs.length > 3))),
    several ? null : card(runs[0]),
    section("Over the steps", `Drag to zoom, double-click to see all. ${several ? "Triangles: alerts, in their run's colour." : LEGEND}`, curves(runs)),
    section("Predictions", "", each(panels)),
    section("Every layer at every step", "Layers from the input down to the output. Each column shows the largest value of its steps.", maps(runs)),
    section("Against depth", "From the input, left, to the output.", runs.some((run) => run.profiles.length) ? depth(data) : []),
    section("Spikes", "Fifty steps before and after.", each((run) => [...run.spikes.map((found) => spike(run, found)), ...moreSpikes(run)])),
    section("Where it stopped being finite", "From the first operation with a value that is not finite to what it reached.", each((run) => run.findings.map(finding))),
    section("Learning rate search", "", each(rates)),
  ];
  return drawn.filter(Boolean);
}

function build(node) {
  for (const part of node.querySelectorAll("*")) if (part.build) part.build();
}

function show(data) {
  const main = document.getElementById("report");
  const [x, y] = [scrollX, scrollY];
  stage.clear();
  tip.hide();
  main.replaceChildren(...report(data));
  build(main);
  for (const map of stage.maps) map.draw();
  scrollTo(x, y);
  // uPlot draws a moment later; what is noted is when the frame with everything in it has been made.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    document.documentElement.dataset.drawn = String(Math.round(performance.now()));
  }));
}

/** Asks the page's own server every two seconds; what has not changed is not sent again. */
function follow(get) {
  const pulse = (text, ok) => {
    const node = document.getElementById("pulse");
    if (node) { node.textContent = text; node.classList.toggle("lost", !ok); }
  };
  setInterval(async () => {
    try {
      const answer = await fetch("data.json", { cache: "no-cache" });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      if (text !== get.text) {
        get.text = text;
        get.data = JSON.parse(text);
        show(get.data);
      }
      pulse("live", true);
    } catch {
      pulse("connection lost", false);
    }
  }, 2000);
}

const held = { text: document.getElementById("data").textContent, data: null };
held.data = JSON.parse(held.text);
show(held.data);
let resized = null;
let width = document.documentElement.clientWidth;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    if (document.documentElement.clientWidth !== width) {
      width = document.documentElement.clientWidth;
      show(held.data);
    }
  }, 150);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(held.data));
if (document.documentElement.dataset.mode === "live") follow(held);

"""The report's JavaScript."""

SCRIPT = r"""
(() => {
"use strict";
const get = (id) => document.getElementById(id);
const { points, singles, rows } = JSON.parse(get("front-data").textContent);
const { latency_ms: latency, power_mw: power, energy_mj: energy, accuracy } = points;
const [low, high] = range(accuracy);
const VIRIDIS = ["440154", "472c7a", "3b518b", "2c718e", "21908d", "27ad81", "5cc863", "aadc32", "fde725"]
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const colours = accuracy.map((value) => colour(high > low ? (value - low) / (high - low) : 1));
const canvas = get("plot"), floor = get("floor");
const x = { ticks: [] }, y = { ticks: [] };
const HIT_PX = 30, LABEL_PX = 40;
let least = low, allowed = [], chosen = -1, sorted = "latency_ms", descending = false, all = false, waiting = false;

function range(...lists) {
  let [least, most] = [Infinity, -Infinity];
  for (const list of lists) for (const value of list) [least, most] = [Math.min(least, value), Math.max(most, value)];
  return [least, most];
}

function colour(share) {
  const at = Math.min(share * (VIRIDIS.length - 1), VIRIDIS.length - 1.000001), i = Math.floor(at);
  return `rgb(${VIRIDIS[i].map((from, c) => Math.round(from + (at - i) * (VIRIDIS[i + 1][c] - from)))})`;
}

function linearTicks(from, to, most) {
  const power = 10 ** Math.floor(Math.log10((to - from) / most));
  const step = power * [1, 2, 5, 10].find((factor) => (to - from) / (factor * power) <= most);
  const ticks = [];
  for (let i = Math.ceil(from / step); i * step <= to; i++) ticks.push(Number((i * step).toPrecision(8)));
  return ticks;
}

function logTicks(from, to) {
  for (const factors of [[1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const ticks = [];
    for (let e = Math.floor(Math.log10(from)); 10 ** e <= to; e++)
      ticks.push(...factors.map((factor) => Number((factor * 10 ** e).toPrecision(8))));
    const inside = ticks.filter((tick) => tick >= from && tick <= to);
    if (inside.length > 2) return inside;
  }
  return linearTicks(from, to, 4);
}

function apart(ticks, at) {  // without those whose texts would touch
  let last = -Infinity;
  return ticks.filter((tick) => at(tick) - last > LABEL_PX && ((last = at(tick)), true));
}

function scales(width, height) {
  const [left, right, top, bottom] = [58, 20, 8, 40];
  const alone = Object.values(singles);
  const [x0, x1] = range(latency, ...alone.map((single) => single.latency_ms));
  const [y0, y1] = range(power, ...alone.map((single) => single.power_mw));
  const [from, to] = [Math.log(x0 / 1.06), Math.log(x1 * 1.06)];
  const pad = (y1 - y0) * 0.05 || y1 * 0.05;
  Object.assign(x, { from: left, to: width - right });
  Object.assign(y, { from: height - bottom, to: top });
  x.at = (value) => x.from + (Math.log(value) - from) / (to - from) * (x.to - x.from);
  y.at = (value) => y.from + (value - y0 + pad) / (y1 - y0 + 2 * pad) * (y.to - y.from);
  x.ticks = apart(logTicks(Math.exp(from), Math.exp(to)), x.at);
  y.ticks = linearTicks(y0 - pad, y1 + pad, height / 55);
}

function draw() {
  waiting = false;
  const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
  if (!width) return;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  scales(width, height);
  const pen = canvas.getContext("2d"), text = getComputedStyle(document.body).color;
  pen.scale(ratio, ratio);
  pen.font = "12px system-ui, sans-serif";
  pen.fillStyle = pen.strokeStyle = text;
  const line = (...ends) => { pen.beginPath(); ends.forEach(([a, b]) => pen.lineTo(a, b)); pen.stroke(); };
  pen.textAlign = "center";
  for (const tick of x.ticks) {
    pen.globalAlpha = 0.15;
    line([x.at(tick), y.from], [x.at(tick), y.to]);
    pen.globalAlpha = 1;
    pen.fillText(tick, x.at(tick), y.from + 16);
  }
  pen.fillText("latency (ms)", (x.from + x.to) / 2, y.from + 34);
  pen.textAlign = "right";
  for (const tick of y.ticks) {
    pen.globalAlpha = 0.15;
    line([x.from, y.at(tick)], [x.to, y.at(tick)]);
    pen.globalAlpha = 1;
    pen.fillText(tick, x.from - 5, y.at(tick) + 4);
  }
  pen.save();
  pen.translate(12, (y.from + y.to) / 2);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText("power (mW)", 0, 0);
  pen.restore();
  pen.lineWidth = 1.5;
  for (const single of Object.values(singles)) {
    pen.strokeStyle = pen.fillStyle = single.colour;
    const ends = single.latency_ms.map((ms, i) => [x.at(ms), y.at(single.power_mw[i])]).sort((a, b) => a[0] - b[0]);
    line(...ends);
    for (const [a, b] of ends) pen.fillRect(a - 2.5, b - 2.5, 5, 5);
  }
  const dot = (i, radius) => { pen.beginPath(); pen.arc(x.at(latency[i]), y.at(power[i]), radius, 0, 7); };
  pen.fillStyle = text;
  pen.globalAlpha = 0.15;
  for (let i = 0; i < accuracy.length; i++) if (accuracy[i] < least) { dot(i, 2); pen.fill(); }
  pen.globalAlpha = 0.6;
  pen.strokeStyle = text;
  pen.lineWidth = 1;
  line(...staircase().map((i) => [x.at(latency[i]), y.at(power[i])]).flatMap(
    (end, i, ends) => (i ? [[end[0], ends[i - 1][1]], end] : [end])));
  pen.globalAlpha = 1;
  for (const i of allowed) { dot(i, 3.5); pen.fillStyle = colours[i]; pen.fill(); }
  if (chosen >= 0) {
    dot(chosen, 7);
    pen.lineWidth = 2.5;
    pen.stroke();
  }
}

function staircase() {  // the allowed points, by rising latency, that need less power than all faster ones
  let lowest = Infinity;
  return allowed.filter((i) => power[i] < lowest && ((lowest = power[i]), true));
}

function redraw() {
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  parent.append(made);
  return made;
}

function figure(name, i) {
  const value = points[name][i];
  return value === null ? "" : value.toFixed(2);
}

function choose(i) {
  if (i === chosen || i < 0) return;
  chosen = i;
  const error = points.accuracy_standard_error[i], bound = points.accuracy_lower_bound[i];
  const shown = get("shown");
  shown.replaceChildren();
  element("p", `latency ${figure("latency_ms", i)} ms, power ${figure("power_mw", i)} mW, energy ` +
    `${figure("energy_mj", i)} mJ`, shown);
  element("p", `accuracy ${figure("accuracy", i)}` + (error === null ? "" : ` ± ${error.toFixed(2)}`) + " %" +
    (bound === null ? "" : `, at least ${bound.toFixed(2)} %`), shown);
  for (const name of ["order", "freqs"]) element("code", points[name][i], element("p", "", shown));
  redraw();
}

function point(event) {
  const box = canvas.getBoundingClientRect(), [px, py] = [event.clientX - box.left, event.clientY - box.top];
  let [best, found] = [HIT_PX ** 2, -1];
  for (const i of allowed) {
    const distance = (x.at(latency[i]) - px) ** 2 + (y.at(power[i]) - py) ** 2;
    if (distance < best) [best, found] = [distance, i];
  }
  choose(found);
}

function step(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by || !allowed.length) return;
  event.preventDefault();
  const at = allowed.indexOf(chosen);
  choose(allowed[at < 0 ? 0 : Math.min(Math.max(at + by, 0), allowed.length - 1)]);
}

function filter() {
  least = floor.value === floor.min ? low : Math.min(Number(floor.value), high);
  allowed = [...accuracy.keys()].filter((i) => accuracy[i] >= least);
  get("asked").textContent = `${least.toFixed(2)} %: ${allowed.length} of ${accuracy.length} points`;
  redraw();
}

function fill() {
  const column = points[sorted], sign = descending ? -1 : 1;
  const empty = (i) => column[i] === null;
  const places = [...allowed].sort((a, b) =>
    empty(a) - empty(b) || sign * ((column[a] > column[b]) - (column[a] < column[b])) || a - b);
  const shown = all ? places : places.slice(0, rows), body = document.createElement("tbody");
  const heads = [...document.querySelectorAll("#points th")];
  for (const head of heads) {
    if (head.dataset.column !== sorted) head.removeAttribute("aria-sort");
    else head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  }
  for (const i of shown) {
    const row = element("tr", "", body);
    for (const { dataset: { column: name } } of heads)
      element("td", typeof points[name][i] === "string" ? points[name][i] : figure(name, i), row);
  }
  document.querySelector("#points tbody").replaceWith(body);
  get("more").hidden = shown.length === places.length;
  get("more").textContent = `show all ${places.length}`;
  get("note").textContent = `${shown.length} of ${accuracy.length} points` +
    (least > low ? `, with an accuracy of at least ${least.toFixed(2)} %` : "");
}

get("front").hidden = false;
get("low").textContent = low.toFixed(2);
get("high").textContent = high.toFixed(2);
document.querySelector(".scale").style.background =
  `linear-gradient(90deg, ${VIRIDIS.map((rgb) => `rgb(${rgb})`).join(", ")})`;
for (const [letter, single] of Object.entries(singles)) {
  const entry = element("span", "", get("alone"));
  element("i", "", entry).style.background = single.colour;
  entry.append(`${letter} alone `);
}
Object.assign(floor, { min: low, max: high, value: low, disabled: high === low });
floor.addEventListener("input", filter);
floor.addEventListener("change", fill);
for (const type of ["pointermove", "pointerdown"]) canvas.addEventListener(type, point);
canvas.addEventListener("keydown", step);
new ResizeObserver(redraw).observe(canvas);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
for (const head of document.querySelectorAll("#points th"))
  head.querySelector("button").addEventListener("click", () => {
    descending = sorted === head.dataset.column && !descending;
    sorted = head.dataset.column;
    fill();
  });
get("more").addEventListener("click", () => { all = true; fill(); });
for (const lines of document.querySelectorAll(".timeline"))
  for (const type of ["pointerover", "click"])
    lines.addEventListener(type, (event) => {
      const bar = event.target.closest("rect");
      if (bar) lines.querySelector(".tip").textContent = bar.textContent;
    });
filter();
fill();
})();
"""

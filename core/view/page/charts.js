// Scales, axes, lines, bars and legends of the drawings.

import { css } from "./colours.js";
import { canvas, clamp, el, number, svg } from "./dom.js";

/** The map of low ... high onto from ... to; its `invert` maps back. */
export function linearScale(low, high, from, to) {
  const range = high - low || 1;
  const scale = (value) => from + ((value - low) / range) * (to - from);
  return Object.assign(scale, { invert: (at) => low + ((at - from) / (to - from)) * range });
}

/** The whole number of low ... high that a scale maps nearest to a place. */
export function nearestOf(scale, at, low, high) {
  return clamp(Math.round(scale.invert(at)), low, high);
}

/** Round numbers from low to high, about `most` of them; steps: of a power of ten. */
export function roundTicks(low, high, most, steps = [1, 2, 5, 10]) {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = steps.map((each) => each * power).find((each) => each >= rough);
  const first = Math.ceil(low / step);
  const length = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length }, (_, at) => Number(((first + at) * step).toPrecision(12)));
}

/** How many cells of `size` pixels lie between labels `room` apart: 1, 2, 5, 10 ... */
export function labelStep(size, room, factors = [2, 2.5, 2]) {
  let step = 1;
  for (let i = 0; step * size < room; i++) step *= factors[i % factors.length];
  return step;
}

/** The path through points [x, y]; a null leaves a gap. */
export function linePath(points) {
  const pieces = points.map((point, at) =>
    point ? `${points[at - 1] ? "L" : "M"}${point.map((each) => each.toFixed(2)).join(" ")}` : "",
  );
  return pieces.join("");
}

export function plotText(words, x, y, anchor = "start", kind = "") {
  return svg("text", { class: `plot-text ${kind}`, x, y, "text-anchor": anchor }, words);
}

/** Rules across a plot with their numbers at its left. */
export function rules(ticks, y, left, right, write = (tick) => number(tick, 5)) {
  return ticks.flatMap((tick) => [
    svg("line", { class: "plot-rule", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
    plotText(write(tick), left - 6, y(tick) + 4, "end"),
  ]);
}

/** About three rules from 0 to the most. */
export function rulesTo(most, y, left, right) {
  return rules(roundTicks(0, most, 3, [1, 2, 2.5, 5, 10]), y, left, right, number);
}

/** A drawing in CSS pixels that is painted anew when its width changes. */
export class Chart {
  constructor(name, height, paint) {
    this.height = height;
    this.paint = paint;
    this.svg = svg("svg", { class: name, role: "img" });
    this.node = el("div", { class: "chart" }, this.svg);
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  draw() {
    const width = Math.floor(this.node.clientWidth);
    if (width === 0) return;
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("height", this.height);
    this.svg.replaceChildren();
    this.paint(this.svg, width, this.height);
  }
}

/**
 * A line plot. lines: [{ values, kind }], kind a class: is-main, is-reference. at: the index that is
 * marked; names: texts of the x axis, else its positions are numbered; pick(index): of a click.
 */
export function linePlot({ label, width, height, lines, most, at, names, say, pick }) {
  const [left, right, top, bottom] = [44, width - 14, 18, height - 22];
  const last = lines[0].values.length - 1;
  const x = last > 0 ? linearScale(0, last, left, right) : () => (left + right) / 2;
  const y = linearScale(0, most || 1, bottom, top);
  const node = svg("svg", {
    class: "plot",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": label,
    onclick: (event) => {
      const from = node.getBoundingClientRect().left;
      pick(last > 0 ? nearestOf(x, event.clientX - from, 0, last) : 0);
    },
  });
  node.append(...rulesTo(most, y, left, right));
  const step = names ? 1 : labelStep(width / (last + 1), 60);
  for (let i = 0; i <= last; i += step) {
    node.append(plotText(names ? names[i] : i, x(i), height - 6, "middle"));
  }
  for (const { values, kind } of lines) {
    const points = values.map((value, i) =>
      value === null ? null : [x(i), y(Math.min(value, most))],
    );
    node.append(svg("path", { class: `plot-line ${kind}`, d: linePath(points) }));
    if (kind !== "is-main" || last >= 64) continue;
    for (const point of points.filter(Boolean)) {
      node.append(svg("circle", { class: "plot-dot", cx: point[0], cy: point[1], r: 2.5 }));
    }
  }
  const value = lines[0].values[at] ?? null;
  if (value !== null) {
    const [over, high] = [x(at), y(Math.min(value, most))];
    const anchor = over > width - 60 ? "end" : over < left + 40 ? "start" : "middle";
    node.append(
      svg("line", { class: "plot-at", x1: over, x2: over, y1: top, y2: bottom }),
      svg("circle", { class: "plot-dot is-at", cx: over, cy: high, r: 4.5 }),
      plotText(say(value), over, Math.max(12, high - 9), anchor, "is-strong"),
    );
  }
  return node;
}

/** A bar: a share of the width around it; negative ones have the colour of negative values. */
export function bar(share, kind = "") {
  const node = el("span", { class: `bar-fill ${kind}` });
  node.style.width = `${100 * share}%`;
  return node;
}

/** A legend: a run of colours between two texts. colour: of a share, `from` to 1. */
export function colourRun(low, high, colour, from = 0, width = 96) {
  const run = canvas(width, 10, { role: "img", "aria-label": `colours from ${low} to ${high}` });
  const context = run.getContext("2d");
  for (let x = 0; x < width; x++) {
    context.fillStyle = css(colour(from + ((1 - from) * x) / (width - 1)));
    context.fillRect(x, 0, 1.5, 10);
  }
  return [el("span", { text: low }), run, el("span", { text: high })];
}

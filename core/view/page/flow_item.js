// The lens in the domain's own form: at each level, the picture or the series of its guesses.

import { linearScale, linePath, nearestOf } from "./charts.js";
import { tone } from "./colours.js";
import { choice } from "./controls.js";
import { canvas, clamp, div, el, fixed, number, percent, resize } from "./dom.js";
import { flowCard } from "./flow_lens.js";
import { PictureCells } from "./item.js";
import { draw } from "./labels.js";
import { mean } from "./tensors.js";

const SERIES_NEAR = 72; // positions of a series around the chosen one

/** The lens of a picture. */
export class FlowPictures {
  constructor(context) {
    this.context = context;
    const { domain, lens, input } = context.page.data;
    this.domain = domain;
    const { height, width, channels } = domain;
    const size = clamp(8 * Math.max(height, width), 128, 160);
    this.cells = new PictureCells(domain, size);
    this.outlines = [];
    const figure = (name, bytes, note) => {
      const outline = el("i", { class: "flow-outline" });
      this.outlines.push(outline);
      const shown = draw(bytes, height, width, channels, size);
      shown.setAttribute("role", "img");
      shown.setAttribute("aria-label", `${name}: ${note}`);
      return el(
        "figure",
        { class: "flow-picture", onclick: (event) => this.#pick(event, shown) },
        el("div", {}, shown, outline),
        el("figcaption", {}, el("strong", { text: name }), el("span", { text: note })),
      );
    };
    const known = input.targets.flatMap((target, place) =>
      target !== null && domain.cells[place + 1] ? [[target, place]] : [],
    );
    const figures = domain.guesses.map((bytes, level) => {
      const exact = known.filter(([target, place]) => target === lens.top[level][place][0]);
      return figure(context.after(level), bytes, `${percent(exact.length / known.length)} exact`);
    });
    this.caption = el("p", { class: "quiet" });
    this.root = flowCard(
      "The lens as pictures",
      "Every patch is the likeliest one at that level, given the true patches before it. Look for the block after which the picture comes into focus.",
      div("flow-pictures", figures, figure("the true picture", domain.pixels, "what is read")),
      this.caption,
    );
  }

  #pick(event, shown) {
    const [at] = this.cells.under(event, shown);
    if (at > 0) this.context.state.set({ stack: "blocks", query: at - 1 });
  }

  show() {
    const { place } = this.context;
    const cell = this.domain.cells[place + 1];
    for (const outline of this.outlines) {
      outline.hidden = !cell;
      if (cell) outlineAt(outline, this.cells.box(cell), 2);
    }
    this.caption.textContent = cell
      ? `Outlined: row ${cell[0]}, column ${cell[1]}, which position ${place} predicts. Click on a patch to choose another.`
      : `What position ${place} predicts is no patch. Click on a patch to choose the position that predicts it.`;
  }
}

/** Places an outline around a box [x, y, width, height], `wider` by some pixels. */
export function outlineAt(outline, [x, y, width, height], wider) {
  outline.style.left = `${x}px`;
  outline.style.top = `${y}px`;
  outline.style.width = `${width + wider}px`;
  outline.style.height = `${height + wider}px`;
}

/** The lens of a series. */
export class FlowSeries {
  constructor(context) {
    this.context = context;
    const { page, labels } = context;
    const { lens, input, domain } = page.data;
    this.truth = input.ids.map((_, place) => domain.values[place + labels.offset] ?? null);
    this.near = this.truth.length > SERIES_NEAR;
    this.figures = lens.top.map((level, depth) => {
      const guesses = level.map(([id], place) => labels.value(id, place + 1));
      const errors = guesses.map((value, place) =>
        value === null || this.truth[place] === null ? null : Math.abs(value - this.truth[place]),
      );
      const name = context.after(depth);
      const error = `mean absolute error ${number(mean(errors))}`;
      const plot = canvas(100, 96, {
        role: "img",
        "aria-label": `${name}: guessed and true values, ${error}`,
        onclick: (event) => this.#pick(event),
      });
      const now = el("span");
      const caption = [el("strong", { text: name }), el("span", { text: error }), now];
      const node = el("figure", {}, el("figcaption", {}, caption), plot);
      return { guesses, plot, now, node };
    });
    const nodes = this.figures.map(({ node }) => node);
    const parts = {
      near: `${SERIES_NEAR} positions around the chosen one`,
      all: "the whole series",
    };
    const change = (part) => {
      this.near = part === "near";
      this.show();
    };
    this.root = flowCard(
      "The lens as series",
      "The blue line joins the likeliest next value at that level, given the true values before it; the grey line is the true series. Look for the block after which they meet.",
      this.near
        ? div("flow-controls", choice("how much of the series", parts, "near", change))
        : null,
      div("flow-series", nodes),
    );
  }

  #pick(event) {
    const over = event.clientX - event.target.getBoundingClientRect().left;
    this.context.state.set({ stack: "blocks", query: nearestOf(this.x, over, ...this.window) });
  }

  show() {
    const { place } = this.context;
    const width = this.context.space(this.figures[0].node);
    const height = 96;
    const decimals = this.context.labels.decimals(place + 1);
    const last = this.truth.length - 1;
    const from = this.near ? clamp(place - SERIES_NEAR / 2, 0, last - SERIES_NEAR + 1) : 0;
    const to = this.near ? from + SERIES_NEAR - 1 : last;
    this.window = [from, to];
    const within = (values) => values.slice(from, to + 1);
    const known = within(this.truth).filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const range = 1.24 * (high - low) || 1;
    const x = linearScale(from, to, 4, width - 4);
    const y = linearScale(low, low + range, 0.9 * height, -0.1 * height);
    this.x = x;
    const line = (context, values, stroke, thick) => {
      const point = (value, at) => (value === null ? null : [x(from + at), y(value)]);
      context.strokeStyle = tone(stroke);
      context.lineWidth = thick;
      context.stroke(new Path2D(linePath(within(values).map(point))));
    };
    for (const { guesses, plot, now } of this.figures) {
      const context = resize(plot, width, height);
      context.fillStyle = tone("--line");
      context.fillRect(x(place) - 0.5, 0, 1.5, height);
      line(context, this.truth, "--quiet", this.near ? 2.5 : 1);
      line(context, guesses, "--accent", 1.4);
      const guess = guesses[place];
      if (guess !== null) {
        context.fillStyle = tone("--accent");
        context.beginPath();
        context.arc(x(place), clamp(y(guess), 3, height - 3), 3.5, 0, 7);
        context.fill();
      }
      const [guessed, truly] = [guess, this.truth[place]].map((value) => fixed(value, decimals));
      now.textContent = `position ${place}: ${guessed}, truly ${truly}`;
    }
  }
}

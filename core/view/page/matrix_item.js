// What a query reads, over the item in the domain's own form, and as a table.

import { bar, linearScale, linePath, nearestOf } from "./charts.js";
import { css, sequential, tint, tone } from "./colours.js";
import { choice, table } from "./controls.js";
import { canvas, div, el, fixed, number, percent, resize } from "./dom.js";
import { PictureCells } from "./item.js";
import { draw } from "./labels.js";

/** The item, shaded by the weights that one query gives to its positions. */
export class MatrixItem {
  constructor(page, labels, stack, pick) {
    Object.assign(this, { labels, stack, pick, domain: labels.domain });
    this.first = page.positions(stack).first;
    this.offset = this.first + (stack === "encoder" ? 0 : labels.offset);
    this.count = labels.ids(stack).length - this.first;
    this.paint = { picture: this.#picture, series: this.#series }[this.domain.form];
    this.view = canvas(1, 1, {
      class: "mx-drawing",
      role: "img",
      onclick: (event) => {
        const at = this.under(event) ?? null;
        if (at !== null) this.pick(at + this.first);
      },
    });
    this.words = Array.from({ length: this.count }, (_, at) => at)
      .filter((at) => !this.paint || this.#at(at) === null)
      .map((at) => this.#word(at));
    const words = this.words.map(({ node }) => node);
    this.node = el("div", {}, this.paint ? this.view : null, div("mx-words", words));
  }

  #word(at) {
    const fill = el("span", { class: "mx-bar" });
    const chip = this.labels.chipAt(at + this.first, this.stack, 22);
    const onclick = () => this.pick(at + this.first);
    return { at, fill, node: el("button", { class: "mx-word", onclick }, chip, fill) };
  }

  /** Where a position stands: its cell of the picture or its value, null if it has none. */
  #at(at) {
    const place = at + this.offset;
    const { form, cells, values } = this.domain;
    return (form === "picture" ? cells[place] : values[place - 1]) ?? null;
  }

  /** weights: of each position; query: the row's own position, null where it is of another stack. */
  show({ weights, masked, query, key, width }) {
    this.weights = weights;
    this.most = Math.max(...weights, 1e-9);
    for (const { at, node, fill } of this.words) {
      const share = weights[at] / this.most;
      tint(node, sequential(0.85 * share));
      fill.style.width = `${100 * share}%`;
      node.classList.toggle("is-masked", masked(at));
      node.classList.toggle("is-query", at === query);
      node.classList.toggle("is-key", at === key);
      const words = masked(at) ? "masked" : number(weights[at]);
      node.title = `${this.labels.position(at + this.first, this.stack)}: ${words}`;
      node.setAttribute("aria-label", node.title);
    }
    if (!this.paint) return;
    const what = this.paint(query, key, width);
    const best = weights.indexOf(Math.max(...weights));
    const place = this.labels.position(best + this.first, this.stack);
    this.view.setAttribute(
      "aria-label",
      `${what} shaded by weight. The largest weight, ${percent(weights[best])}, is on position ${place}.`,
    );
  }

  #picture(query, key, width) {
    const { domain, weights } = this;
    const cells = new PictureCells(domain, Math.min(width, 260));
    const context = resize(this.view, cells.width, cells.height);
    this.base ??= draw(domain.pixels, domain.height, domain.width, domain.channels, 512);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = 0.55;
    context.drawImage(this.base, 0, 0, cells.width, cells.height);
    const sums = cells.places.map((places) =>
      places.reduce((sum, place) => sum + (weights[place - this.offset] ?? 0), 0),
    );
    const most = Math.max(...sums, 1e-9);
    context.fillStyle = "#e8731a";
    cells.each((box, _, number) => {
      context.globalAlpha = 0.92 * (sums[number] / most);
      context.fillRect(...box);
    });
    context.globalAlpha = 1;
    const place = (at) => (at === null ? -1 : at + this.offset);
    cells.outline(context, place(key), "#ffffff", "#8a3a00", [4, 3]);
    cells.outline(context, place(query), "#ffffff", "#134d8c");
    this.under = (event) => {
      const places = cells.under(event, this.view).map((each) => each - this.offset);
      return places.find((at) => at >= 0 && at < this.count);
    };
    return "The picture, its cells";
  }

  #series(query, key, width) {
    const high = 170;
    const context = resize(this.view, width, high);
    const values = Array.from({ length: this.count }, (_, at) => this.#at(at));
    const last = this.count - 1;
    const known = values.filter((value) => value !== null);
    const [low, top] = [Math.min(...known), Math.max(...known)];
    const x = linearScale(0, Math.max(1, last), 6, width - 6);
    const y = linearScale(low, top, high - 22, 18);
    const points = values.map((value, at) => (value === null ? null : [x(at), y(value)]));
    context.strokeStyle = tone("--line");
    context.lineWidth = 1.2;
    context.stroke(new Path2D(linePath(points)));
    const mark = (at, name, dash) => {
      if (at === null) return;
      context.strokeStyle = tone(name);
      context.setLineDash(dash);
      context.stroke(new Path2D(`M${x(at)} 12V${high - 18}`));
    };
    mark(key, "--warm", [4, 3]);
    mark(query, "--accent", []);
    context.fillStyle = css(sequential(0.75));
    points.forEach((point, at) => {
      const share = this.weights[at] / this.most;
      if (!point || share < 0.01) return;
      context.globalAlpha = 0.25 + 0.75 * share;
      context.beginPath();
      context.arc(...point, 1.2 + 5 * Math.sqrt(share), 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
    context.fillStyle = tone("--quiet");
    context.font = "11px system-ui, sans-serif";
    const time = (at) => String(this.domain.times[Math.max(0, at + this.offset - 1)] ?? "");
    context.fillText(time(0), 4, high - 5);
    context.fillText(number(top, 4), 4, 11);
    context.textAlign = "right";
    context.fillText(time(last), width - 4, high - 5);
    this.under = (event) =>
      nearestOf(x, event.clientX - this.view.getBoundingClientRect().left, 0, last);
    return "The series, its points";
  }
}

/** The keys of a query with their scores and weights, sorted by position or by weight. */
export class MatrixRow {
  constructor(labels) {
    this.labels = labels;
    this.by = "position";
    const change = (by) => {
      this.by = by;
      this.show(this.shown);
    };
    const options = { position: "by position", weight: "by weight" };
    this.content = el("div");
    this.sorts = choice("order", options, this.by, change, "joined");
  }

  /** body: where the table is put; stack, chosen: of the keys and the selected one. */
  show(shown) {
    this.shown = shown;
    const { body, rows, earlier, stack, chosen } = shown;
    const seen = rows.filter(({ masked }) => !masked);
    if (this.by === "weight") seen.sort((a, b) => b.weight - a.weight);
    const most = Math.max(...seen.map(({ weight }) => weight), 1e-9);
    const cells = seen.map(({ key, score, weight }) => {
      const chip = this.labels.chipAt(key, stack, 16);
      return [key, chip, fixed(score, 3), fixed(weight, 4), bar(weight / most)];
    });
    const columns = [["key", "number"], ["token"], ["score", "number"], ["weight", "number"]];
    const kind = (at) => seen[at].key === chosen && "is-key";
    const masked = rows.length - seen.length;
    const words = [
      masked && `${masked} masked keys are left out.`,
      earlier && `Earlier keys, which this page does not have: ${percent(earlier)}.`,
    ].filter(Boolean);
    const filled = table([...columns, ["", "mx-bars"]], cells, { class: "mx-terms" }, { kind });
    const note = el("p", { class: "quiet", text: words.join(" ") });
    if (!body.contains(this.sorts)) body.replaceChildren(this.sorts, this.content);
    this.content.replaceChildren(filled, note);
  }
}

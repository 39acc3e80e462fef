// The logit lens: what each level of the stream would predict at each position.

import { bar, colourRun, linePlot } from "./charts.js";
import { isDark, sequential, tint, warm } from "./colours.js";
import { ARROWS, choice, keepKey } from "./controls.js";
import { clamp, count, div, el, fixed, number, percent } from "./dom.js";

const SPARE_COLUMNS = 6; // columns that are built beyond each side of the window

export function flowCard(title, about, ...children) {
  return el(
    "section",
    { class: "card flow-card" },
    el("h2", { text: title }),
    el("p", { class: "flow-about", text: about }),
    children,
  );
}

/** The end of a scale of probabilities: 1, or the largest where all are small. */
function shareLimit(values) {
  const most = values.flat().reduce((largest, value) => Math.max(largest, value), 0);
  return most > 0.5 || most === 0 ? 1 : most;
}

/** The grid of levels and positions. Only columns near its window are in the document. */
export class FlowLens {
  constructor(context) {
    const { page, labels } = context;
    const { lens, input } = page.data;
    Object.assign(this, { context, page, labels, lens, input });
    this.total = input.ids.length;
    this.mode = "p";
    this.looked = null; // the cell under the pointer or with the focus
    this.columns = new Map();
    this.modes = this.#modes();
    this.width = this.#columnWidth();
    this.legend = el("span", { class: "colour-run" });
    this.details = div("flow-details");
    this.plots = div("flow-pair");
    this.grid = this.#grid();
    const options = Object.entries(this.modes).map(([name, { text }]) => [name, text]);
    const change = (mode) => {
      this.mode = mode;
      this.#repaint();
    };
    this.root = flowCard(
      "The logit lens",
      "Each row reads the stream after one more block, as if the final norm and the head came next. " +
        "Follow a column down, from the token that is read to the token that truly follows: look for the row where the guess settles.",
      div(
        "flow-controls",
        choice("what the colour shows", Object.fromEntries(options), this.mode, change),
        this.legend,
        el(
          "span",
          { class: "colour-run" },
          el("i", { class: "flow-corner" }),
          "the true next token",
        ),
      ),
      div("flow-lens", el("div", {}, this.grid, this.plots), this.details),
    );
  }

  /** What the colour of a cell can show: a share of the scale of each level and position. */
  #modes() {
    const { lens } = this;
    const size = this.page.config.vocab_size;
    const guesses = lens.p.map((level) => level.map(([p]) => p));
    const [ofGuess, ofTrue] = [shareLimit(guesses), shareLimit(lens.p_true)];
    this.most = Math.max(...lens.entropy.flat());
    const of = (levels, share) => (level, place) => {
      const value = levels[level][place];
      return value === null ? null : share(value);
    };
    return {
      p: {
        text: "probability of the guess",
        share: of(guesses, (p) => p / ofGuess),
        colour: sequential,
        ends: ["0 %", percent(ofGuess)],
      },
      true: {
        text: "probability of the true next",
        share: of(lens.p_true, (p) => p / ofTrue),
        colour: sequential,
        ends: ["0 %", percent(ofTrue)],
      },
      rank: {
        text: "rank of the true next",
        share: of(lens.rank, (rank) => 1 - Math.log(rank) / Math.log(size)),
        colour: sequential,
        ends: [`rank ${count(size)}`, "rank 1"],
      },
      entropy: {
        text: "entropy",
        share: of(lens.entropy, (entropy) => entropy / (this.most || 1)),
        colour: warm,
        ends: ["0 nats", `${number(this.most)} nats`],
      },
    };
  }

  /** CSS pixels of a column: what nine of ten of its labels need. */
  #columnWidth() {
    if (this.page.data.domain.form === "picture") return 36;
    const lengths = this.lens.top.flatMap((level) =>
      level.map(([id], place) => this.labels.text(id, place + 1).length),
    );
    lengths.sort((a, b) => a - b);
    return clamp(16 + 7.3 * lengths[Math.floor(0.9 * (lengths.length - 1))], 36, 92);
  }

  #grid() {
    const names = ["reads", ...this.context.levels, "truly next"];
    const edges = { 0: " is-top", [names.length - 1]: " is-bottom" };
    this.rows = names.map((name, row) =>
      el(
        "div",
        { class: `flow-row${edges[row] ?? ""}`, role: "row", "aria-rowindex": row + 1 },
        el("div", { class: "flow-row-name", role: "rowheader", text: name }),
      ),
    );
    const content = el("div", { role: "presentation" }, this.rows);
    content.style.width = `calc(var(--flow-names) + ${this.total * this.width}px)`;
    return el(
      "div",
      {
        class: "flow-grid",
        role: "grid",
        tabindex: "-1",
        "aria-label": "logit lens: rows are levels, columns are positions",
        "aria-rowcount": names.length,
        "aria-colcount": this.total + 1,
        onscroll: () => this.#fill(),
        onpointerover: (event) => this.#look(event.target),
        onpointerleave: () => this.#look(null),
        onfocusin: (event) => this.#look(event.target),
        onfocusout: () => this.#look(null),
        onclick: (event) => this.#choose(this.#cell(event.target)),
        onkeydown: (event) => this.#key(event),
      },
      content,
    );
  }

  /** Builds the columns near the window and takes away those far from it. */
  #fill() {
    const { scrollLeft, clientWidth } = this.grid;
    const first = Math.max(0, Math.floor(scrollLeft / this.width) - SPARE_COLUMNS);
    const end = Math.ceil((scrollLeft + clientWidth) / this.width) + SPARE_COLUMNS;
    const last = Math.min(this.total - 1, end);
    const kept = [this.chosen?.place, Number(document.activeElement?.dataset?.place ?? -1)];
    for (const [place, column] of this.columns) {
      if ((place >= first && place <= last) || kept.includes(place)) continue;
      for (const cell of column) cell.remove();
      this.columns.delete(place);
    }
    for (let place = first; place <= last; place++) {
      if (!this.columns.has(place)) this.#build(place);
    }
  }

  #build(place) {
    const { labels, lens } = this;
    const target = this.input.targets[place];
    const cell = (role, ...children) => el("div", { class: "flow-cell", role }, ...children);
    const next = (id) => labels.chip(id, place + 1, 20);
    const unknown = el("span", { class: "quiet", text: "?" });
    const guesses = lens.levels.map((_, level) => {
      const [id] = lens.top[level][place];
      const node = cell("gridcell", next(id));
      node.classList.add("is-guess");
      node.classList.toggle("is-true", id === target);
      Object.assign(node.dataset, { level, place });
      node.setAttribute("aria-label", this.#words(level, place));
      return node;
    });
    const column = [
      cell("columnheader", el("small", { text: place }), labels.chipAt(place, "blocks", 20)),
      ...guesses,
      cell("gridcell", target === null ? unknown : next(target)),
    ];
    column.forEach((node, row) => {
      node.style.left = `calc(var(--flow-names) + ${place * this.width}px)`;
      node.style.width = `${this.width}px`;
      node.setAttribute("aria-colindex", place + 2);
      this.rows[row].append(node);
    });
    this.columns.set(place, column);
    this.#paint(place, column);
    this.#mark(place, column);
  }

  #words(level, place) {
    const { lens, labels } = this;
    const text = labels.text(lens.top[level][place][0], place + 1);
    const words = [
      `${this.context.levels[level]}, position ${place}`,
      `guess ${text} with ${percent(lens.p[level][place][0])}`,
    ];
    const rank = lens.rank[level][place];
    if (rank !== null) words.push(`true one rank ${rank}`);
    return words.join(", ");
  }

  #paint(place, column) {
    const { share, colour } = this.modes[this.mode];
    column.slice(1, -1).forEach((cell, level) => {
      const value = share(level, place);
      cell.classList.toggle("is-unknown", value === null);
      tint(cell, value === null ? null : colour(value));
    });
  }

  #mark(place, column) {
    column.forEach((cell, row) => {
      const inColumn = place === this.chosen?.place;
      const chosen = inColumn && row === this.chosen.level + 1;
      cell.classList.toggle("is-chosen", chosen);
      cell.classList.toggle("is-column", inColumn);
      if (!cell.dataset.place) return;
      cell.tabIndex = chosen ? 0 : -1;
      cell.setAttribute("aria-selected", chosen);
    });
  }

  #repaint() {
    for (const [place, column] of this.columns) this.#paint(place, column);
    const { ends, colour } = this.modes[this.mode];
    this.legend.replaceChildren(...colourRun(...ends, colour));
  }

  /** The cell of a node: its level and position. */
  #cell(node) {
    const found = node?.closest("[data-place]")?.dataset;
    return found ? { level: Number(found.level), place: Number(found.place) } : null;
  }

  #look(node) {
    this.looked = this.#cell(node);
    this.#explain();
  }

  /** A click: the position and the block; of an earlier position than the page has, its lens only. */
  #choose(cell) {
    if (!cell) return;
    const { context } = this;
    const { level, place } = cell;
    context.level = level;
    if (place < this.page.positions().first) {
      context.place = place;
      this.show();
      return;
    }
    const chosen = { stack: "blocks", query: place };
    if (level > 0) context.block = chosen.block = level - 1;
    context.state.set(chosen);
  }

  #key(event) {
    const cell = this.#cell(event.target);
    if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
    const { level, place } = cell;
    const [down, right] = ARROWS[event.key] ?? [0, 0];
    const to = { Home: 0, End: this.total - 1 }[event.key] ?? place + right;
    const moves = event.key in ARROWS || event.key === "Home" || event.key === "End";
    if (event.key === "Enter" || event.key === " ") this.#choose(cell);
    else if (moves) this.#focus(level + down, to);
    else return;
    keepKey(event);
  }

  #focus(level, place) {
    const row = clamp(level, 0, this.lens.levels.length - 1);
    const column = clamp(place, 0, this.total - 1);
    this.#reveal(column);
    const cell = this.columns.get(column)[row + 1];
    cell.focus({ preventScroll: true });
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** Scrolls so that a position is in the window. middle: into its middle. */
  #reveal(place, middle = false) {
    const { grid, width } = this;
    const view = grid.clientWidth - this.rows[0].firstChild.offsetWidth;
    const left = place * width;
    const isBefore = left < grid.scrollLeft;
    if (isBefore || left + width > grid.scrollLeft + view) {
      const before = middle ? (view - width) / 2 : isBefore ? width : view - 2 * width;
      grid.scrollLeft = Math.max(0, left - before);
    }
    this.#fill();
  }

  show() {
    const { level, place } = this.context;
    const moved = this.chosen?.place !== place;
    this.chosen = { level, place };
    if (moved) this.#reveal(place, true);
    else this.#fill();
    if (this.dark !== isDark()) this.#repaint();
    this.dark = isDark();
    for (const [at, column] of this.columns) this.#mark(at, column);
    this.#explain();
    this.#draw();
  }

  /** Writes out the cell that is looked at, else the chosen one. */
  #explain() {
    const { lens, labels, input } = this;
    const { level, place } = this.looked ?? this.chosen;
    const target = input.targets[place];
    const where = level ? `After ${this.context.levels[level]}` : "The embedding";
    const guesses = lens.top[level][place].map((id, number) => {
      const p = lens.p[level][place][number];
      return el(
        "li",
        { class: id === target ? "is-true" : null },
        labels.name(id, place + 1, 18),
        el("span", { class: "bar-track" }, bar(p)),
        el("span", { class: "flow-number", text: percent(p) }),
      );
    });
    const facts = [
      ["probability of the true next", percent(lens.p_true[level][place])],
      ["its rank (1: likeliest)", count(lens.rank[level][place] ?? 0)],
      ["its loss", `${fixed(lens.nll[level][place])} nats`],
      ["entropy", `${fixed(lens.entropy[level][place])} nats`],
    ].slice(target === null ? -1 : 0);
    this.details.replaceChildren(
      el("h3", { text: `${where}, position ${place}` }),
      el(
        "p",
        { class: "flow-step" },
        "reads ",
        labels.chipAt(place),
        target === null ? "; what follows is not known" : "; truly next ",
        target === null ? null : labels.chip(target, place + 1),
      ),
      el("ol", { class: "flow-guesses" }, guesses),
      el(
        "dl",
        { class: "flow-facts" },
        facts.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]),
      ),
    );
  }

  /** Probability of the true next token and entropy at the chosen position, over the levels. */
  #draw() {
    const { lens } = this;
    const { level, place } = this.chosen;
    const space = this.context.space(this.plots);
    const width = space >= 620 ? (space - 24) / 2 : space;
    const key = [level, place, space].join();
    if (key === this.drawn) return;
    this.drawn = key;
    const names = lens.levels.map((_, at) => (at ? at - 1 : "embed"));
    const pick = (at) => this.#choose({ level: at, place });
    const plot = (title, levels, most, say) => {
      const values = levels.map((row) => row[place]);
      const label = `${title} at position ${place}: ${values.map((value) => say(value)).join(", ")}`;
      const lines = [{ values, kind: "is-main" }];
      return el(
        "figure",
        {},
        el("figcaption", { text: `${title} at position ${place}, after each block` }),
        values.every((value) => value === null)
          ? el("p", { class: "quiet", text: "What truly follows is not known here." })
          : linePlot({ label, width, height: 130, lines, most, at: level, names, say, pick }),
      );
    };
    const most = shareLimit(lens.p_true);
    this.plots.replaceChildren(
      plot("Probability of the true next token", lens.p_true, most, percent),
      plot("Entropy (nats)", lens.entropy, this.most, fixed),
    );
  }
}

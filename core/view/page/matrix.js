// The matrix form of a layer: its matrices with their numbers, a cell written out, and what a query
// reads over the item.

import { colourRun } from "./charts.js";
import { diverging, isDark } from "./colours.js";
import { choice, folded } from "./controls.js";
import { clamp, div, el, number, percent } from "./dom.js";
import { attention } from "./matrix_attention.js";
import { WrittenCell } from "./matrix_cells.js";
import { feedForward } from "./matrix_ffn.js";
import { CHIP_ROOM, fitCells, MatrixFigure, NUMBER_CELL } from "./matrix_grid.js";
import { MatrixItem, MatrixRow } from "./matrix_item.js";
import { indices, isTokens, MatrixReader, valueAt } from "./matrix_reader.js";
import { convolution, recurrence } from "./matrix_recurrent.js";

const LENS_CELLS = [5, 9]; // rows and columns of the lens
const HELP_WORDS =
  "Point at a cell to read it, click it to write it out. Arrow keys move the selected cell.";
const ITEM_NAMES = { picture: "the picture", series: "the series" };

export function mountMatrix(root, page, state, labels) {
  const panel = new MatrixPanel(root, page, state, labels);
  return (selection) => panel.show(selection);
}

function formOf(reader) {
  if (`${reader.here}state` in reader.page.data.tensors) return recurrence(reader);
  if (reader.layer.name === "mixer") return reader.missing("Mixer");
  const forms = { mlp: feedForward, conv: convolution, rnn: recurrence };
  return (forms[reader.layer.name] ?? attention)(reader);
}

class MatrixPanel {
  constructor(root, page, state, labels) {
    Object.assign(this, { root, page, state, labels });
    this.numbers = false;
    this.at = {}; // the selected feature on each kind of axis
    this.title = el("h2");
    this.formula = el("span", { class: "mx-formula" });
    this.aside = el("span", { class: "quiet" });
    this.notes = el("p", { class: "quiet mx-notes" });
    this.readout = el("p", { class: "mx-readout quiet" });
    this.equation = div("mx-equation");
    this.legend = el("span", { class: "colour-run mx-colours" });
    const cells = { whole: "Whole matrices", numbers: "Numbers" };
    const zoom = (name) => {
      this.numbers = name === "numbers";
      this.#refresh();
    };
    const card = (...children) => el("section", { class: "card" }, ...children);
    this.itemTitle = el("h3");
    this.itemBody = el("div");
    this.itemLegend = el("p", { class: "quiet mx-legend" });
    this.item = card(this.itemTitle, this.itemBody, this.itemLegend);
    this.cell = new WrittenCell(page);
    this.detail = card(this.cell.node);
    this.extra = card();
    this.lensNode = el("section", { class: "card mx-lens" });
    this.row = new MatrixRow(labels);
    this.table = folded("", () => this.#table(), { class: "card mx-table" });
    this.main = div(
      "mx-main",
      el("div", {}, this.equation, this.readout, this.lensNode, this.table),
      div("mx-side", this.item, this.detail, this.extra),
    );
    const formula = el("div", {}, this.formula, " ", this.aside);
    const zooms = choice("Cells", cells, "whole", zoom, "joined");
    const heading = div("mx-heading", this.title, formula);
    root.append(div("mx-head", heading, this.legend, zooms), this.notes, this.main);
    new ResizeObserver(() => {
      const isShown = this.selection && !root.hidden;
      if (isShown && this.equation.clientWidth !== this.width) this.#refresh();
    }).observe(this.equation);
  }

  show(selection) {
    this.selection = selection;
    this.#refresh();
  }

  #refresh() {
    const { stack, block, part, head } = this.selection;
    const key = [stack, block, part, head, isDark()].join();
    if (key !== this.drawn) {
      this.drawn = key;
      this.#read();
    }
    this.main.classList.toggle("is-wide", this.numbers);
    this.width = this.equation.clientWidth;
    const laid = [this.width, this.numbers].join();
    if (this.laid !== laid) {
      this.laid = laid;
      this.#layout();
    }
    this.#adopt();
    this.#paint();
    this.#explain();
    this.#item();
    this.#table();
    const { extra } = this.form;
    this.extra.hidden = !extra;
    const choose = (id, cell) => this.#choose(this.figures.get(id), cell);
    if (extra) this.extra.replaceChildren(...extra(this.place, choose));
  }

  /** Builds the figures of a layer. */
  #read() {
    this.legend.replaceChildren(...colourRun("negative", "positive", diverging, -1, 72));
    this.reader = new MatrixReader(this.page, this.state, this.labels);
    this.form = formOf(this.reader);
    const { title, formula, aside = "", notes, lines, item, focus } = this.form;
    this.title.textContent = title;
    this.formula.textContent = formula;
    this.aside.textContent = aside;
    this.notes.textContent = notes.join(" ");
    const act = {
      hover: (figure, cell) => this.#hover(figure, cell),
      choose: (figure, cell) => this.#choose(figure, cell),
      move: (figure, by) => this.#move(figure, by),
      focus: ({ spec }) => this.#focus(spec.id),
    };
    this.figures = new Map();
    for (const spec of lines.flat().filter(({ sign }) => !sign)) {
      this.figures.set(spec.id, new MatrixFigure(spec, this.labels, act));
    }
    const node = ({ id, sign: text, note }) => {
      if (!text) return this.figures.get(id).node;
      const words = note ? el("small", { text: note }) : null;
      return div("mx-sign", el("span", { text }), words);
    };
    this.equation.replaceChildren(...lines.map((line) => div("mx-line", line.map(node))));
    this.laid = this.over = this.lens = null;
    if (!this.figures.has(this.focus)) this.focus = focus;
    this.#features();
    this.drawing = item
      ? new MatrixItem(this.page, this.labels, item, (place) => this.#pick(place))
      : null;
    if (this.drawing) this.itemBody.replaceChildren(this.drawing.node);
  }

  /** Keeps the selected features that the layer has; else the one largest at the query, or 0. */
  #features() {
    for (const { spec } of this.figures.values()) {
      for (const axis of [spec.rows, spec.columns]) {
        if (!isTokens(axis) && !(this.at[axis.kind] < axis.count)) this.at[axis.kind] = null;
      }
    }
    const { rows, columns, at } = this.figures.get(this.form.focus)?.spec ?? {};
    if (columns && !isTokens(columns)) {
      const row = this.selection.query - rows.first;
      const sizes = indices(columns.count).map((column) => Math.abs(at(row, column)));
      this.at[columns.kind] ??= sizes.indexOf(Math.max(...sizes));
    }
    for (const kind of ["width", "stream", "hidden"]) this.at[kind] ??= 0;
  }

  #layout() {
    const { units, fits } = fitCells(this.form.lines, this.width, this.reader.query.count);
    this.units = this.numbers ? null : units;
    this.lens = null;
    for (const figure of this.figures.values()) figure.layout(this.units, (kind) => fits[kind]);
  }

  /** Takes over a cell that another panel selected. */
  #adopt() {
    const { tensor, row, column } = this.selection;
    const chosen = `${tensor}/${row}/${column}`;
    if (chosen === this.adopted) return;
    this.adopted = chosen;
    if (tensor === null || row === null) return;
    const figure = [...this.figures.values()].find(({ spec }) => spec.tensor === tensor);
    if (!figure) return;
    this.focus = figure.spec.id;
    for (const axis of [figure.spec.rows, figure.spec.columns]) {
      if (!isTokens(axis) && row < axis.count) this.at[axis.kind] = row;
    }
  }

  /** The selected number on each kind of axis, counted from the first that the page has. */
  get place() {
    const within = (value, axis) => clamp(value - axis.first, 0, axis.count - 1);
    return {
      ...this.at,
      query: within(this.selection.query, this.reader.query),
      key: within(this.selection.key, this.reader.key),
    };
  }

  #paint() {
    const focused = this.figures.get(this.focus)?.spec;
    const marks = new Set(this.form.row ? ["query", "key"] : ["query"]);
    if (focused) marks.add(focused.rows.kind).add(focused.columns.kind);
    const { place } = this;
    for (const [id, figure] of this.figures) {
      figure.show(place, this.over?.place, marks, id === this.focus);
    }
    this.#lens();
    this.readout.textContent = this.over ? this.#words(this.over) : HELP_WORDS;
  }

  #words({ figure: { spec }, place }) {
    const value = valueAt(spec, place);
    const shown = value === Number.NEGATIVE_INFINITY ? "masked" : number(value, 4);
    const [row, column] = [spec.rows, spec.columns].map((axis) =>
      this.reader.word(axis, place[axis.kind]),
    );
    return `${spec.title}: row ${row}, column ${column} = ${shown}`;
  }

  #hover(figure, cell) {
    const { rows, columns } = figure?.spec ?? {};
    const place = figure && { [rows.kind]: cell[0], [columns.kind]: cell[1] };
    const key = figure && [figure.spec.id, ...cell].join();
    if (key === (this.over?.key ?? null)) return;
    this.over = figure && { figure, place, key };
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (!this.root.hidden) this.#paint();
    });
  }

  /** The cells around the selected or pointed-at one, with their numbers, where they are small. */
  #lens() {
    const figure = this.over?.figure ?? this.figures.get(this.focus);
    const small = this.units && figure && Math.min(...figure.size) < CHIP_ROOM;
    this.lensNode.hidden = !small;
    if (!small) return;
    if (this.lens?.source !== figure) {
      const choose = (_, cell) => this.#choose(figure, cell);
      const move = (_, by) => this.#move(figure, by);
      const act = { choose, move, hover() {}, focus() {} };
      this.lens = new MatrixFigure(figure.spec, this.labels, act);
      this.lens.source = figure;
      const room = Math.max(3, Math.floor((this.width - 90) / NUMBER_CELL[0]));
      this.lens.layout(null, (_, side) => Math.min(LENS_CELLS[side], room));
      this.lensNode.replaceChildren(this.lens.node);
    }
    const marks = new Set([figure.spec.rows.kind, figure.spec.columns.kind]);
    this.lens.show({ ...this.place, ...this.over?.place }, null, marks, true);
  }

  #focus(id) {
    if (id === this.focus) return;
    this.focus = id;
    this.#paint();
    this.#explain();
  }

  /** Selects a cell: its query and key in the page's selection, its features here. */
  #choose({ spec }, [row, column]) {
    const { id, rows, columns, tensor = null, asStored } = spec;
    this.focus = id;
    const cell = asStored ? { row, column } : { row: column, column: row };
    const changes = tensor ? { tensor, ...cell } : { tensor, row: null, column: null };
    this.adopted = `${changes.tensor}/${changes.row}/${changes.column}`;
    const take = (axis, at) => {
      if (isTokens(axis)) changes[axis.kind] = at + axis.first;
      else this.at[axis.kind] = at;
    };
    take(rows, row);
    take(columns, column);
    this.state.set(changes);
  }

  #move(figure, [down, right]) {
    const { rows, columns } = figure.spec;
    const { place } = this;
    this.#choose(figure, [
      clamp(place[rows.kind] + down, 0, rows.count - 1),
      clamp(place[columns.kind] + right, 0, columns.count - 1),
    ]);
  }

  /** Selects a position of the item. */
  #pick(place) {
    this.state.set(this.form.row ? { key: place } : { query: place });
  }

  #explain() {
    const figure = this.figures.get(this.focus);
    this.detail.hidden = !figure;
    if (figure) this.cell.show(figure.spec.explain(this.place));
  }

  #item() {
    this.item.hidden = !this.drawing;
    if (!this.drawing) return;
    const { place, form } = this;
    const { query: axis, key: keys } = this.reader;
    const words = this.reader.word(axis, place.query);
    const width = this.itemBody.clientWidth || 300;
    if (form.taps) {
      const read = form.taps(place.query);
      const weights = indices(axis.count).map((at) => (read.includes(at) ? 1 : 0));
      const masked = (at) => at > place.query;
      this.itemTitle.textContent = `What position ${words} reads`;
      this.itemLegend.textContent = "Shaded: the positions under the taps of the convolution.";
      this.drawing.show({ weights, masked, query: place.query, key: null, width });
      return;
    }
    const { rows, earlier } = form.row(place);
    const weights = rows.map(({ weight }) => weight);
    const crosses = keys.stack !== axis.stack;
    const over = crosses ? "the source" : (ITEM_NAMES[this.labels.domain.form] ?? "the sequence");
    const before = `Positions before ${keys.first} have ${percent(earlier)} together.`;
    this.itemTitle.textContent = `Attention of ${words} over ${over}`;
    this.itemLegend.textContent = `Strongest shade: ${percent(Math.max(...weights))}. ${earlier ? before : ""}`;
    const masked = (at) => rows[at].masked;
    const query = crosses ? null : place.query;
    this.drawing.show({ weights, masked, query, key: place.key, width });
  }

  /** The row of the query as a table. */
  #table() {
    const { row } = this.form;
    this.table.hidden = !row;
    if (!row) return;
    const [summary, body] = this.table.children;
    const { query, key: keys } = this.reader;
    summary.textContent = `Row of ${this.reader.word(query, this.place.query)} as a table`;
    if (!this.table.open) return;
    this.row.show({ body, ...row(this.place), stack: keys.stack, chosen: this.selection.key });
  }
}

// What a layer computes, as matrices. Rows are positions here, as in a textbook; the boxes of the 3D
// walk are transposed.
//
// A form: { title, formula, notes, lines, focus, item, row, taps, extra }. lines: rows of figures and
// signs. A figure: { id, title, rows, columns (axes), at, limit, weights, tensor, explain }. An axis:
// { kind, count, first, stack }. A place: the numbers of the selected row on each kind of axis. A
// cell written out, which explain(place) gives: { name, lines, terms, what, notes }.

import { number } from "./dom.js";
import { largeSize } from "./tensors.js";

const AXES = { width: "feature", stream: "stream", hidden: "unit" };

export function isTokens({ kind }) {
  return kind === "query" || kind === "key";
}

export function sign(text, note = "") {
  return { sign: text, note };
}

export function valueAt({ rows, columns, at }, place) {
  return at(place[rows.kind], place[columns.kind]);
}

/** The selected layer: its tensors as figures. */
export class MatrixReader {
  constructor(page, state, labels) {
    const { stack, block, part, head } = state.selection;
    const layer = state.layer();
    Object.assign(this, { page, labels, layer, head, stack, block, heads: state.heads });
    this.at = `${stack}.${block}`;
    this.here = `${this.at}.${layer.name}.hook_`;
    this.out = `${this.at}.hook_${layer.name}_out`;
    this.cross = part === "cross";
    this.query = this.#positions("query", stack);
    this.key = this.#positions("key", this.cross ? "encoder" : stack);
  }

  #positions(kind, stack) {
    const { total, first } = this.page.positions(stack);
    return { kind, stack, first, count: total - first };
  }

  has(...parts) {
    return parts.every((part) => this.page.has(this.here + part));
  }

  /** A form; without lines where this page lacks the tensors of the layer. */
  form(noun, { notes, ...form }) {
    const { first, stack } = this.query;
    const heads = this.heads > 1 ? `, head ${this.head} of ${this.heads}` : "";
    const last = this.page.positions(stack).total - 1;
    const cut = first && form.lines ? `This page has positions ${first} to ${last} only.` : null;
    return {
      title: `${noun} in ${this.labels.block(stack, this.block)}${heads}`,
      formula: "",
      lines: [],
      ...form,
      notes: [...notes, cut].filter(Boolean),
    };
  }

  missing(noun) {
    const left = this.page.data.left_out.filter((each) => /blocks|positions/i.test(each));
    return this.form(noun, {
      notes: [`This page does not have the tensors of this layer. ${left.join(" ")}`],
    });
  }

  /** The words for a number on an axis. */
  word(axis, at) {
    if (isTokens(axis)) return this.labels.position(at + axis.first, axis.stack);
    return `${AXES[axis.kind]} ${axis.kept ? axis.kept[at] : at}`;
  }

  cellName(what, { rows, columns }, place) {
    const words = [rows, columns].map((axis) => this.word(axis, place[axis.kind]));
    return `${what}(${words.join(", ")})`;
  }

  /** A figure of a tensor with a row for each position. what, note: of a cell that is only read. */
  figure(id, title, tensor, rows, kind, { head = null, what = id, note = "" } = {}) {
    const matrix = this.page.matrix(tensor, head);
    const at = (row, column) => matrix.at(column, row);
    const { kept } = this.page.record(tensor);
    const columns = { kind, count: matrix.rows, first: 0, kept };
    const figure = { id, title, rows, columns, at, limit: matrix.limit, tensor };
    figure.explain = (place) =>
      plainCell(this.cellName(what, figure, place), valueAt(figure, place), note);
    return figure;
  }

  /** What all of the layer writes into the stream, after a sign; nothing where it is left out. */
  written(before, title, what, note) {
    if (!this.page.has(this.out)) return [];
    return [before, this.figure("all", title, this.out, this.query, "stream", { what, note })];
  }
}

/** A cell whose number is read from the page. */
export function plainCell(name, result, ...notes) {
  return { name, lines: [{ text: "", result }], notes };
}

/** A line of a cell: its result beside what the tensor of a figure has. */
export function storedLine(text, result, figure, place) {
  return { text, result, stored: valueAt(figure, place), tensor: figure.tensor };
}

/** A term of a sum: a product. */
export function product(label, a, b, digits = 3) {
  return { label, text: `${number(a, digits)} × ${number(b, digits)}`, value: a * b };
}

/** The first terms of a sum, and how many follow. */
export function sumText(terms) {
  const shown = terms.slice(0, terms.length <= 4 ? 4 : 3);
  const rest = terms.length - shown.length;
  return `${shown.map(({ text }) => text).join(" + ")}${rest ? ` + … ${rest} more` : ""}`;
}

export function sumOf(terms) {
  return terms.reduce((sum, { value }) => sum + value, 0);
}

export function indices(length) {
  return Array.from({ length }, (_, at) => at);
}

/** A size that a share of the values of a matrix does not exceed; positive: of those above 0. */
export function matrixLimit(rows, columns, at, share = 0.99, positive = false) {
  const step = Math.max(1, Math.floor((rows * columns) / 20000));
  const values = [];
  for (let i = 0; i < rows * columns; i += step) {
    const value = at(Math.floor(i / columns), i % columns);
    if (value !== 0 || !positive) values.push(value);
  }
  return largeSize(values, share) || 1;
}

// A matrix as a picture: a canvas with a window of it, labels beside it and its shape beneath.

import { labelStep } from "./charts.js";
import { diverging, ink, picture, sequential, tone } from "./colours.js";
import { ARROWS, keepKey } from "./controls.js";
import { canvas, clamp, count, div, el, fixed, number, resize } from "./dom.js";
import { isTokens, valueAt } from "./matrix_reader.js";

export const NUMBER_CELL = [42, 20]; // CSS pixels of a cell with its number
export const CHIP_ROOM = 13; // the smallest cell beside which a token fits
const AXIS_SIZES = { tokens: 216, width: 112, stream: 256, hidden: 300 }; // CSS pixels of an axis
const MOST_SIZES = { tokens: 28, width: 12, stream: 6, hidden: 4 }; // the largest cells
const BAND_TONES = { query: "--accent", key: "--warm" };

function kindOf(axis) {
  return isTokens(axis) ? "tokens" : axis.kind;
}

/**
 * How large cells are such that the widest line fits: units, CSS pixels of a cell on each kind of
 * axis; fits, how many cells with numbers are shown of each.
 */
export function fitCells(lines, width, tokens) {
  const counts = {};
  const side = tokens <= 20 ? 48 : 28;
  const sums = lines.map((line) => {
    const sum = { tokens: 0, width: 0, stream: 0, hidden: 0, fixed: 0 };
    for (const { sign, note, rows, columns, bare } of line) {
      if (sign) {
        sum.fixed += note ? 12 + 6.5 * note.length : 28;
        continue;
      }
      for (const axis of [rows, columns]) {
        counts[kindOf(axis)] = Math.max(counts[kindOf(axis)] ?? 0, axis.count);
      }
      sum[kindOf(columns)] += 1;
      sum.fixed += isTokens(rows) && !bare ? side + 12 : 12;
    }
    return sum;
  });
  const kinds = Object.keys(counts);
  const sizes = (scale) =>
    Object.fromEntries(
      kinds.map((kind) => {
        const unit = Math.min(MOST_SIZES[kind], (AXIS_SIZES[kind] * scale) / counts[kind]);
        return [kind, unit >= 1 ? Math.floor(unit) : unit];
      }),
    );
  const isWide = (units) =>
    sums.some(
      (sum) =>
        kinds.reduce((wide, kind) => wide + sum[kind] * units[kind] * counts[kind], sum.fixed) >
        width,
    );
  let scale = 1.25;
  while (scale > 0.55 && isWide(sizes(scale))) scale -= 0.05;
  const fits = { width: 5, stream: 6, hidden: 8 };
  const room = sums
    .filter((sum) => sum.tokens)
    .map((sum) => {
      const other = sum.width * fits.width + sum.stream * fits.stream;
      return ((width - sum.fixed) / NUMBER_CELL[0] - other) / sum.tokens;
    });
  fits.tokens = clamp(Math.floor(Math.min(...room, 8)), 3, 8);
  return { units: sizes(scale), fits };
}

export class MatrixFigure {
  constructor(spec, labels, act) {
    Object.assign(this, { spec, labels });
    const { rows, columns, at, limit, weights } = spec;
    this.colour = weights ? sequential : diverging;
    this.image = picture({ rows: rows.count, columns: columns.count, at }, limit, this.colour);
    this.view = canvas(1, 1, {
      class: "mx-canvas",
      tabindex: "0",
      role: "img",
      onpointermove: (event) => act.hover(this, this.#cell(event)),
      onpointerleave: () => act.hover(null, null),
      onclick: (event) => act.choose(this, this.#cell(event)),
      onkeydown: (event) => this.#key(event, act),
      onfocus: () => act.focus(this),
    });
    this.above = div("mx-above");
    this.left = div("mx-left");
    const title = "Rows × columns, and the values with the strongest colours";
    const strongest = `${weights ? "0 … " : "±"}${number(limit, 2)}`;
    this.node = el(
      "figure",
      { class: "mx-figure" },
      el("div", { class: "mx-title", text: spec.title }),
      div("mx-plot", this.above, this.left, this.view),
      el(
        "figcaption",
        { class: "mx-shape", title },
        el("b", { text: `${count(rows.count)} × ${count(columns.count)}` }),
        ` ${strongest}`,
      ),
    );
  }

  #cell(event) {
    const box = this.view.getBoundingClientRect();
    const [row, column, rows, columns] = this.window;
    const down = Math.floor((event.clientY - box.top) / this.size[1]);
    const right = Math.floor((event.clientX - box.left) / this.size[0]);
    return [row + clamp(down, 0, rows - 1), column + clamp(right, 0, columns - 1)];
  }

  #key(event, act) {
    const move = ARROWS[event.key];
    if (!move) return;
    keepKey(event);
    const times = event.shiftKey ? 10 : 1;
    act.move(this, [times * move[0], times * move[1]]);
  }

  /** units: as of fitCells, or null: cells with numbers, as many as fits(kind, side) says. */
  layout(units, fits) {
    this.units = units;
    this.fits = fits;
    this.drawn = null;
  }

  #span(axis, chosen, side) {
    if (this.units) return [0, axis.count];
    const most = Math.min(axis.count, this.fits(kindOf(axis), side));
    const start = Math.round((chosen ?? 0) - (most - 1) / 2);
    return [clamp(start, 0, axis.count - most), most];
  }

  /** place: the selected number on each kind of axis; hover: the same, or null; marks: which kinds
   * have bands; isFocus: whether the cell has a frame. */
  show(place, hover, marks, isFocus) {
    const { rows, columns, title } = this.spec;
    const { units, view } = this;
    const [row, height] = this.#span(rows, place[rows.kind], 0);
    const [column, width] = this.#span(columns, place[columns.kind], 1);
    const size = units ? [units[kindOf(columns)], units[kindOf(rows)]] : NUMBER_CELL;
    const key = [row, column, height, width, ...size].join();
    if (key !== this.drawn) {
      this.drawn = key;
      this.window = [row, column, height, width];
      this.size = size;
      this.context = resize(view, width * size[0], height * size[1]);
      this.#labels();
    }
    this.#paint();
    for (const kind of ["width", "stream", "hidden", "key", "query"]) {
      if (marks.has(kind)) this.#band(kind, place[kind], []);
      const over = hover?.[kind] ?? place[kind];
      if (over !== place[kind]) this.#band(kind, over, [3, 3]);
    }
    if (isFocus) this.#frame(place[rows.kind], place[columns.kind]);
    this.#markLabels(this.left, rows.kind, place);
    this.#markLabels(this.above, columns.kind, place);
    view.classList.toggle("is-focus", isFocus);
    const cell = `row ${place[rows.kind] + rows.first}, column ${place[columns.kind] + columns.first}`;
    const value = number(valueAt(this.spec, place), 4);
    view.setAttribute(
      "aria-label",
      `${title}, ${rows.count} by ${columns.count}. Selected: ${cell}: ${value}. Arrow keys move.`,
    );
  }

  #paint() {
    const { context, size } = this;
    const [row, column, height, width] = this.window;
    const [wide, high] = [width * size[0], height * size[1]];
    const back = tone("--back");
    context.fillStyle = back;
    context.fillRect(0, 0, wide, high);
    context.strokeStyle = tone("--line");
    context.lineWidth = 1;
    context.beginPath();
    for (let x = -high; x < wide; x += 5) {
      context.moveTo(x, high);
      context.lineTo(x + high, 0);
    }
    context.stroke();
    context.imageSmoothingEnabled = Math.min(...size) < 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, column, row, width, height, 0, 0, wide, high);
    if (Math.min(...size) >= 6) {
      context.fillStyle = back;
      for (let i = 1; i < width; i++) context.fillRect(i * size[0] - 0.5, 0, 1, high);
      for (let i = 1; i < height; i++) context.fillRect(0, i * size[1] - 0.5, wide, 1);
    }
    if (size[0] >= NUMBER_CELL[0] && size[1] >= 14) this.#numbers();
  }

  #numbers() {
    const { context, spec, size } = this;
    const [row, column, height, width] = this.window;
    const decimals = [20, 0.2, 0.06].filter((each) => spec.limit < each).length + 1;
    const tiny = 0.5 * 10 ** -decimals;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let i = 0; i < height; i++) {
      for (let j = 0; j < width; j++) {
        const value = spec.at(row + i, column + j);
        if (!Number.isFinite(value)) continue;
        context.fillStyle = ink(this.colour(value / spec.limit));
        const text = Math.abs(value) < tiny ? "0" : fixed(value, decimals);
        context.fillText(text, (j + 0.5) * size[0], (i + 0.5) * size[1] + 0.5);
      }
    }
  }

  /** A frame around the row or column of a kind of axis. */
  #band(kind, at, dashes) {
    const { context, spec } = this;
    const [row, column, height, width] = this.window;
    const [wide, high] = this.size;
    context.strokeStyle = tone(BAND_TONES[kind] ?? "--quiet");
    context.lineWidth = 1.5;
    context.setLineDash(dashes);
    const thick = (start, size) => (size >= 3 ? [start, size] : [start + size / 2 - 1.5, 3]);
    if (spec.rows.kind === kind) {
      const [y, size] = thick((at - row) * high, high);
      context.strokeRect(0.75, y + 0.75, width * wide - 1.5, size - 1.5);
    }
    if (spec.columns.kind === kind) {
      const [x, size] = thick((at - column) * wide, wide);
      context.strokeRect(x + 0.75, 0.75, size - 1.5, height * high - 1.5);
    }
    context.setLineDash([]);
  }

  /** A frame around one cell, at least 7 pixels wide, so that it is seen. */
  #frame(down, right) {
    const { context } = this;
    const [row, column] = this.window;
    const [wide, high] = this.size;
    const size = [Math.max(7, wide), Math.max(7, high)];
    const x = (right - column + 0.5) * wide - size[0] / 2;
    const y = (down - row + 0.5) * high - size[1] / 2;
    const strokes = { "--back": 4, "--text": 2 };
    for (const [stroke, width] of Object.entries(strokes)) {
      context.lineWidth = width;
      context.strokeStyle = tone(stroke);
      context.strokeRect(x, y, ...size);
    }
  }

  #markLabels(side, kind, place) {
    for (const label of side.children) {
      const chosen = Number(label.dataset.at) === place[kind];
      label.classList.toggle("is-query", chosen && kind === "query");
      label.classList.toggle("is-key", chosen && kind === "key");
    }
  }

  #labels() {
    const [row, column, height, width] = this.window;
    const { rows, columns, bare } = this.spec;
    const has = (axis) => isTokens(axis) || !this.units;
    this.#side(this.left, !bare && has(rows) ? rows : null, row, height, this.size[1], "top");
    this.#side(this.above, has(columns) ? columns : null, column, width, this.size[0], "left");
    this.above.style.width = `${width * this.size[0]}px`;
    this.left.style.height = `${height * this.size[1]}px`;
  }

  /** Labels of an axis: tokens where a cell is large enough, else numbers of some positions. */
  #side(node, axis, start, length, size, edge) {
    node.replaceChildren();
    node.classList.toggle("is-empty", !axis);
    if (!axis) return;
    const chips = isTokens(axis) && size >= CHIP_ROOM;
    const isAbove = edge === "left";
    node.classList.toggle("has-chips", chips);
    node.classList.toggle("is-upright", chips && isAbove && this.units !== null);
    const step = chips || !this.units ? 1 : labelStep(size, isAbove ? 34 : 18, [2]);
    for (let at = start; at < start + length; at += step) {
      const place = at + axis.first;
      const label = el("span", { class: "mx-label", "data-at": at });
      label.append(chips ? this.labels.chipAt(place, axis.stack, 13) : (axis.kept?.[at] ?? place));
      const room = Math.max(size, chips || isAbove ? 0 : 12);
      const offset = (at - start + 0.5) * size - room / 2;
      label.style[edge] = `${clamp(offset, 0, length * size - room)}px`;
      label.style[isAbove ? "width" : "height"] = `${room}px`;
      node.append(label);
    }
  }
}

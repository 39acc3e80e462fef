// The item in the domain's own form: the cells of a picture.

import { clamp } from "./dom.js";

/** The cells (patches) of a picture that is drawn with a longer side of `size` CSS pixels. */
export class PictureCells {
  constructor(domain, size) {
    this.domain = domain;
    this.scale = size / Math.max(domain.height, domain.width);
    [this.width, this.height] = [domain.width * this.scale, domain.height * this.scale];
    [this.wide, this.high] = [this.width / domain.columns, this.height / domain.rows];
    /** For each cell, row by row, where in the item's sequence its ids stand. */
    this.places = Array.from({ length: domain.rows * domain.columns }, () => []);
    domain.cells.forEach((cell, at) => {
      if (cell) this.of(cell).push(at);
    });
  }

  /** The places of a cell [row, column]. */
  of([row, column]) {
    return this.places[row * this.domain.columns + column];
  }

  /** The places of the cell at a point of an element. */
  under(event, node) {
    const box = node.getBoundingClientRect();
    const { rows, columns } = this.domain;
    return this.of([
      clamp(Math.floor((event.clientY - box.top) / this.high), 0, rows - 1),
      clamp(Math.floor((event.clientX - box.left) / this.wide), 0, columns - 1),
    ]);
  }

  /** [x, y, width, height] of a cell. */
  box([row, column]) {
    return [column * this.wide, row * this.high, this.wide, this.high];
  }

  /** Calls paint(box, places, number) for every cell with ids. */
  each(paint) {
    this.places.forEach((places, number) => {
      const { columns } = this.domain;
      const cell = [Math.floor(number / columns), number % columns];
      if (places.length) paint(this.box(cell), places, number);
    });
  }

  /** A frame around the cell of a place, if it has one. */
  outline(context, place, back, colour, dashes = []) {
    const cell = this.domain.cells[place];
    if (!cell) return;
    const [x, y, wide, high] = this.box(cell);
    const stroke = (style, width, pattern) => {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.setLineDash(pattern);
      context.strokeRect(x + 1.5, y + 1.5, wide - 3, high - 3);
    };
    stroke(back, 4, []);
    stroke(colour, 2.5, dashes);
    context.setLineDash([]);
  }
}

// What is written into the 3D walk: names, numbers of blocks and heads, tokens along slabs.

import { LAYER_NAMES, tokenAt } from "./space_scene.js";

const ASLANT = -0.85; // radians, of names above columns that are close to each other

/** The middle of the upper edge of a slab on the canvas, or of its lower one. */
export function edgeOf({ at: [x, y, wide, skew, tall] }, isLower = false) {
  return [x + wide / 2, y + skew / 2 + (isLower ? tall : 0)];
}

/** Writes where there is room. It reads what the painter has drawn, and what is chosen. */
export class Words {
  constructor(painter, labels) {
    Object.assign(this, { painter, labels, scene: painter.scene });
    this.widths = new Map();
    this.chips = new Map();
  }

  /** Writes into a frame; the most important words come first. */
  draw() {
    const { painter, scene } = this;
    const { hovered, selected, lit, sources, shown } = painter;
    Object.assign(this, { context: painter.context, colours: painter.colours });
    this.taken = []; // by other words: [left, top, right, bottom]
    this.headed = new Map(); // how high the tokens above a slab reach
    this.seen = new Set(shown);
    const focus = new Set([hovered, selected, ...lit].filter((each) => this.seen.has(each)));
    for (const slab of focus) this.#headings(slab);
    for (const slab of shown) {
      if (!focus.has(slab) && slab.at[2] / slab.columns > 20) this.#headings(slab);
    }
    this.#titles(focus);
    const chosen = hovered ?? selected;
    if (this.seen.has(chosen)) this.#shape(chosen);
    for (const slab of sources) {
      if (slab !== scene.of(slab.tensor)[0] || !this.seen.has(slab)) continue;
      const [x, y] = edgeOf(slab);
      this.#write(slab.label, x, y - 12);
    }
    this.#blocks();
    for (const layer of scene.layers) this.#wing(layer);
    this.#heads();
    for (const slab of shown) {
      if (slab.there || slab.opacity < 0.6) continue;
      if (slab.at[2] <= 70 && slab !== hovered && (!lit.has(slab) || slab.head)) continue;
      const [x, y] = edgeOf(slab);
      this.#write("left out of this page", x, y + slab.at[4] / 2);
    }
  }

  #font(size, weight = "") {
    const font = `${weight} ${size}px ${this.colours.font}`.trim();
    if (this.context.font !== font) this.context.font = font;
    return font;
  }

  #measure(text, font) {
    const key = `${font} ${text}`;
    if (!this.widths.has(key)) this.widths.set(key, this.context.measureText(text).width);
    return this.widths.get(key);
  }

  #isFree([left, top, right, bottom]) {
    return this.taken.every(
      (each) => right < each[0] || left > each[2] || bottom < each[1] || top > each[3],
    );
  }

  /** Writes text if no other is in its way. align: center or right of (x, y), its middle. */
  #write(text, x, y, { size = 12, weight, colour, align = "center", must = false } = {}) {
    const width = this.#measure(text, this.#font(size, weight));
    const start = align === "center" ? x - width / 2 : x - width;
    const box = [start - 4, y - size * 0.75, start + width + 4, y + size * 0.75];
    const { width: most, height } = this.painter;
    const isIn = box[2] > 0 && box[0] < most && box[3] > 0 && box[1] < height;
    if (!isIn || !(must || this.#isFree(box))) return false;
    this.taken.push(box);
    this.#stroke(text, x, y, align, colour);
    return true;
  }

  /** Text with a rim in the colour of the page. */
  #stroke(text, x, y, align, colour = this.colours.quiet) {
    const { context } = this;
    context.textAlign = align;
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = 4;
    context.strokeStyle = this.colours.back;
    context.strokeText(text, x, y);
    context.fillStyle = colour;
    context.fillText(text, x, y);
  }

  #turned(x, y, angle, write) {
    const { context } = this;
    context.save();
    context.translate(x, y);
    context.rotate(angle);
    write();
    context.restore();
  }

  /** The names of chosen slabs, above all heads of each. */
  #titles(focus) {
    const firsts = [...focus].map((slab) => {
      const [top] = this.scene.of(slab.tensor);
      return this.seen.has(top) ? top : slab;
    });
    for (const slab of new Set(firsts)) {
      const [x, y] = edgeOf(slab);
      const up = this.headed.get(slab) ?? 12;
      const look = { size: 13, weight: "600", colour: this.colours.text };
      for (let line = 0; line < 3; line++) {
        const down = Math.max(10, y - up - 17 * line);
        if (this.#write(slab.label, x, down, { ...look, must: line === 2 })) break;
      }
    }
  }

  /** Numbers of the blocks along the spine. */
  #blocks() {
    const { colours, painter, scene } = this;
    const done = new Set();
    for (const { stack, stream, wing } of scene.layers) {
      const [slab] = stream ?? [];
      const block = wing[0]?.[0].block ?? null;
      const key = `${stack}.${block}`;
      if (!this.seen.has(slab) || block === null || done.has(key) || slab.opacity < 0.1) continue;
      done.add(key);
      let name = "block";
      if (scene.page.config.encoder_layers) name = stack === "encoder" ? "encoder" : "decoder";
      const isOwn = stack === painter.selection.stack && block === painter.selection.block;
      const [x, y] = edgeOf(slab, true);
      const colour = isOwn ? colours.accent : colours.quiet;
      this.#write(`${name} ${block}`, x, y + 14, { weight: "600", colour });
    }
  }

  /** Names of a wing and of its columns, aslant where these are close to each other. */
  #wing({ stack, wing }) {
    const { scale, selection, selected, hovered, lit, sources } = this.painter;
    const shown = wing
      .map(([slab]) => slab)
      .filter((slab) => this.seen.has(slab) && slab.opacity > 0.5);
    if (!shown.length) return;
    const [{ part, block }] = shown;
    const isOwn = stack === selection.stack && block === selection.block;
    if (!isOwn && block !== null && scale <= 1.7) return;
    if (isOwn && block !== null) {
      const slabs = wing.flat().filter((slab) => this.seen.has(slab));
      const ends = [wing[0], wing.at(-1)].map((column) => column.at(-1));
      const [left, right] = ends.map((slab) => (this.seen.has(slab) ? edgeOf(slab)[0] : null));
      const low = Math.max(...slabs.map((slab) => edgeOf(slab, true)[1]));
      const name = wing.map(([{ tensor }]) => LAYER_NAMES[tensor.split(".")[2]]).find(Boolean);
      this.#write(name, ((left ?? right) + (right ?? left)) / 2, low + 14);
    }
    const isFar = scale < 1.5;
    if (part === "embedding" && isFar) {
      const [x, y] = edgeOf(shown[0], true);
      this.#write("embedding", x, y + 14);
      return;
    }
    const apart = shown[1] ? Math.abs(shown[1].at[0] - shown[0].at[0]) : 1e3;
    const font = this.#font(12);
    const widest = Math.max(...shown.map((slab) => this.#measure(slab.label, font)));
    if (apart <= ((isFar || !isOwn) && part !== "head" ? 30 : 15)) return;
    for (const slab of shown) {
      const [x, y] = edgeOf(slab);
      if (apart > widest + 8) this.#write(slab.label, x, y - 11);
      else if (!lit.has(slab) && !sources.has(slab) && slab !== selected && slab !== hovered) {
        const length = this.#measure(slab.label, font);
        const end = [x + length * Math.cos(ASLANT), y - 8 + length * Math.sin(ASLANT)];
        if (!this.#isFree([x - 5, end[1], end[0], y])) continue;
        this.#font(12);
        this.#turned(x, y - 7, ASLANT, () => this.#stroke(slab.label, 0, 0, "left"));
      }
    }
  }

  /** Numbers of heads, left of their slabs. */
  #heads() {
    const { lit, shown } = this.painter;
    for (const slab of shown) {
      const [x, y, wide, , tall] = slab.at;
      if (slab.head === null || slab.opacity < 0.8 || tall < 26) continue;
      if (this.scene.of(slab.tensor).length < 2 || (wide < 40 && !lit.has(slab))) continue;
      const text = wide > 120 ? `head ${slab.head}` : `${slab.head}`;
      this.#write(text, x - 6, y + tall / 2, { size: 11, align: "right" });
    }
  }

  /** How many columns and rows a slab has, along two of its edges. */
  #shape(slab) {
    const [x, y, wide, skew, tall] = slab.at;
    if (wide < 40) return;
    const { columns, rows } = slab.axes;
    const along = `${slab.columns} ${columns} →`;
    if (this.#measure(along, this.#font(12)) < wide * 1.6) {
      const angle = Math.atan2(skew, wide);
      this.#turned(...edgeOf(slab, true), angle, () => this.#stroke(along, 0, 13, "center"));
    }
    const down = `${slab.rows} ${rows} →`;
    if (tall > 90) {
      const place = [x + wide + 12, y + skew + tall / 2];
      this.#turned(...place, Math.PI / 2, () => this.#stroke(down, 0, 0, "center"));
    }
  }

  // -- tokens and numbers along a slab -------------------------------------------------------------

  /** Tokens above the columns and names beside the rows, where cells are large enough. */
  #headings(slab) {
    const [, , wide, , tall] = slab.at;
    if (wide / slab.columns < 11 || slab.opacity < 0.6) return;
    const [above, below, from, to] = this.painter.visible(slab);
    if (from >= to || above >= below) return;
    this.#columnNames(slab, from, to, above > 0);
    if (tall / slab.rows >= 11) this.#rowNames(slab, above, below, from);
  }

  /** isSunk: the upper edge of the slab is above the canvas. */
  #columnNames(slab, from, to, isSunk) {
    const { context, colours, labels } = this;
    const { selection } = this.painter;
    const [x, y, wide, skew] = slab.at;
    const [w, s] = [wide / slab.columns, skew / slab.columns];
    const room = Math.floor((w - 4) / 7.3);
    const size = Math.min(18, w - 3);
    let highest = 12;
    if (isSunk) this.#band(x + w * from, 0, w * (to - from), 26);
    for (let column = from; column < to; column++) {
      const right = x + w * (column + 0.5);
      const top = isSunk ? 13 : y + s * (column + 0.5) - 10;
      const token = tokenAt(labels, slab.columnStack, column);
      const image = this.#chip(token[0]);
      if (image) {
        context.drawImage(image, right - size / 2, top - size / 2 - 2, size, size);
        highest = 30;
        continue;
      }
      const isOwn = column === selection.query && slab.columnStack === slab.stack;
      const letters = [...labels.text(...token)];
      const write = (count, ...at) => context.fillText(letters.slice(0, count).join(""), ...at);
      context.fillStyle = isOwn ? colours.accent : colours.quiet;
      context.font = `${isOwn ? "600 " : ""}12px ${colours.mono}`;
      context.textBaseline = "middle";
      if (letters.length <= room || isSunk) {
        context.textAlign = "center";
        write(Math.max(1, room), right, top);
        highest = Math.max(highest, 28);
      } else {
        context.textAlign = "left";
        this.#turned(right, top + 4, -0.95, () => write(12, 0, 0));
        highest = Math.max(highest, 18 + 6.2 * Math.min(12, letters.length));
      }
    }
    this.headed.set(slab, highest);
    if (!isSunk) this.taken.push([x + w * from, y - highest + 12, x + w * to, y]);
  }

  #rowNames(slab, above, below, from) {
    const { context, colours, labels } = this;
    const [x, y, , skew, tall] = slab.at;
    const h = tall / slab.rows;
    const isCut = from > 0; // the left edge of the slab is outside of the canvas
    const start = isCut ? y + (skew / slab.columns) * from : y;
    const size = Math.min(18, h - 3);
    if (isCut) this.#band(0, Math.max(0, y), slab.byQuery ? 64 : 34, tall);
    context.font = `12px ${colours.mono}`;
    context.textBaseline = "middle";
    context.textAlign = isCut ? "left" : "right";
    for (let row = above; row < below; row++) {
      const right = isCut ? 6 : x - 7;
      const down = start + h * (row + 0.5);
      if (above > 0 && down < 26) continue;
      const image = slab.byQuery && this.#chip(tokenAt(labels, slab.stack, row)[0]);
      const isOwn = slab.byQuery && row === this.painter.selection.query;
      context.fillStyle = isOwn ? colours.accent : colours.quiet;
      if (image) context.drawImage(image, isCut ? 6 : right - size, down - size / 2, size, size);
      else context.fillText(slab.rowName(row, labels), right, down);
    }
    if (!isCut) this.taken.push([x - 40, y, x, y + tall]);
  }

  #band(x, y, width, height) {
    this.context.globalAlpha = 0.9;
    this.context.fillStyle = this.colours.back;
    this.context.fillRect(x, y, width, height);
    this.context.globalAlpha = 1;
  }

  #chip(id) {
    if (!this.chips.has(id)) this.chips.set(id, this.labels.thumbnail(id, 24));
    return this.chips.get(id);
  }
}

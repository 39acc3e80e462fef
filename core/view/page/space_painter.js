// Draws the scene of the 3D walk on its canvas, from far to near.

import { css, ink, tone } from "./colours.js";
import { fixed, resize } from "./dom.js";
import { Camera } from "./space_camera.js";
import { clamped } from "./space_scene.js";
import { Words } from "./space_words.js";

const FADE = 90; // milliseconds in which an opacity moves most of its way
const BUDGET = 12; // milliseconds of a frame that may be spent on new pictures
export const READABLE = 30; // pixels of a cell from which on its number is written into it

/** The colours of this theme, and mixtures of its back and its text. */
function spaceColours(node) {
  const read = (name) => tone(`--${name}`);
  const channels = (name) =>
    read(name)
      .match(/[\d.]+/g)
      .map(Number);
  const [back, text] = [channels("back"), channels("text")];
  const mixed = (share) => css(back.map((from, i) => Math.round(from + share * (text[i] - from))));
  const names = ["back", "text", "quiet", "accent", "warm", "raised", "mono"];
  return {
    ...Object.fromEntries(names.map((name) => [name, read(name)])),
    ...{ edge: mixed(0.3), side: mixed(0.36), top: mixed(0.2), flow: mixed(0.42) },
    font: getComputedStyle(node).fontFamily,
  };
}

/** The left, right, upper and lower end of a slab on the canvas. */
function extent({ at: [x, y, wide, skew, tall] }) {
  return [x, x + wide, y + Math.min(0, skew), y + tall + Math.max(0, skew)];
}

/** The same of several slabs, and the middle. */
function slabBounds(slabs) {
  const ends = slabs.map(extent);
  const [left, top] = [0, 2].map((i) => Math.min(...ends.map((each) => each[i])));
  const [right, bottom] = [1, 3].map((i) => Math.max(...ends.map((each) => each[i])));
  return { left, right, x: (left + right) / 2, y: (top + bottom) / 2 };
}

/**
 * Draws a scene. The panel sets what is lit, what that is made of (sources), the selected and the
 * hovered slab with a cell of each, the slabs that must not be hidden (focus), the middle of the
 * free part of the canvas, and `scale`: the zoom as a multiple of that of the overview.
 */
export class Painter {
  constructor(node, scene, labels) {
    Object.assign(this, { node, scene });
    this.camera = new Camera();
    this.width = this.height = 1;
    this.lit = this.sources = new Set();
    this.selected = this.hovered = this.cell = this.pointed = this.selection = null;
    this.shown = [];
    this.words = new Words(this, labels);
  }

  theme() {
    this.colours = spaceColours(this.node);
    for (const slab of this.scene.slabs) slab.pictures = [];
  }

  resize(width, height) {
    [this.width, this.height] = [width, height];
    this.ratio = window.devicePixelRatio || 1;
    this.context = resize(this.node, width, height);
  }

  get isClose() {
    return this.scale > 1.8;
  }

  /** How opaque a slab is to be. */
  #opacity(slab) {
    const isBefore = slab.z < this.depth - 0.01;
    if (slab === this.selected || this.lit.has(slab)) return 1;
    if (this.lit.size) {
      if (this.sources.has(slab)) return 0.9;
      if (isBefore) return 0.05;
      return slab.part === "stream" ? 0.4 : 0.16;
    }
    if (!this.isClose) return isBefore && slab.block !== null && this.#hides(slab) ? 0.22 : 1;
    const { stack, block } = this.selected ?? this.selection;
    if (isBefore) return 0.04;
    return slab.stack === stack && slab.block === block ? 1 : 0.5;
  }

  /** Whether a slab before what the camera is to see is in its way. */
  #hides(slab) {
    const [left, right, top, bottom] = extent(slab);
    return this.focus.some((other) => {
      const [from, to, high, low] = extent(other);
      return left < to && right > from && top < low && bottom > high;
    });
  }

  /**
   * Draws a frame. `passed`: milliseconds since the last one, null for a view without transitions.
   * Returns whether something is still to come: opacities on their way or pictures not made yet.
   */
  draw(passed, budget = BUDGET) {
    const { context, camera } = this;
    const { rx, rz, dx, dy, dz } = camera.axes;
    this.axes = camera.axes;
    const left = this.middle[0] - rx * camera.x - rz * camera.z;
    const top = this.middle[1] - dx * camera.x - dy * camera.y - dz * camera.z;
    const project = ([x, y, z]) => [left + rx * x + rz * z, top + dx * x + dy * y + dz * z];
    for (const slab of this.scene.slabs) {
      const [x, y] = project([slab.x, slab.y, slab.z]);
      slab.at = [x, y, rx * slab.columns, dx * slab.columns, dy * slab.rows];
    }
    this.depth = Math.min(...this.focus.map((slab) => slab.z));
    const share = passed === null ? 1 : 1 - Math.exp(-passed / FADE);
    const until = performance.now() + budget;
    let isPending = false;
    this.#pixels();
    context.globalAlpha = 1;
    context.clearRect(0, 0, this.width, this.height);
    this.shown = [];
    for (const each of this.scene.order(camera.yaw, camera.pitch)) {
      if (each.points) {
        this.#link(each, each.points.map(project));
        continue;
      }
      const goal = this.#opacity(each);
      each.opacity += (goal - each.opacity) * share;
      if (Math.abs(goal - each.opacity) > 0.01) isPending = true;
      else each.opacity = goal;
      const [start, end, high, low] = extent(each);
      if (start > this.width || end < 0 || high > this.height || low < 0) continue;
      this.shown.push(each);
      this.#slab(each);
    }
    for (const slab of this.shown.toReversed()) {
      if (!slab.there || slab.pictures.length) continue;
      isPending = true;
      if (performance.now() >= until) break;
      slab.picture(1);
    }
    context.globalAlpha = 1;
    this.#outlines();
    this.#sources();
    this.words.draw();
    return isPending;
  }

  // -- slabs ---------------------------------------------------------------------------------------

  /** Draws in pixels of the page from now on. */
  #pixels() {
    this.context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
  }

  /** Draws in columns and rows of a slab at (x, y) from now on. */
  #units(x, y) {
    const { rx, dx, dy } = this.axes;
    const { ratio } = this;
    this.context.setTransform(ratio * rx, ratio * dx, 0, ratio * dy, ratio * x, ratio * y);
  }

  /** The path of a parallelogram: from (x, y) along (ax, ay) and (bx, by). */
  #face(x, y, ax, ay, bx, by) {
    const { context } = this;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + ax, y + ay);
    context.lineTo(x + ax + bx, y + ay + by);
    context.lineTo(x + bx, y + by);
    context.closePath();
  }

  #slab(slab) {
    const { context, colours } = this;
    const [x, y, wide, skew, tall] = slab.at;
    context.globalAlpha = slab.opacity;
    if (slab.there) {
      if (slab.opacity >= 0.3) this.#sides(slab);
      this.#units(x, y);
      this.#front(slab);
      this.#pixels();
    }
    if (slab.there && wide * tall <= 90) return;
    context.strokeStyle = colours.edge;
    context.lineWidth = 0.75;
    context.setLineDash(slab.there ? [] : [3, 3]);
    this.#face(x, y, wide, skew, 0, tall);
    context.stroke();
    context.setLineDash([]);
  }

  /** Two sides, so thick that a slab stays visible from the side. */
  #sides({ at: [x, y, wide, skew, tall], columns, rows }) {
    const { context, colours, axes } = this;
    const thick = Math.max(1, 2.2 / this.camera.zoom);
    const [tx, ty] = [axes.rz * thick, axes.dz * thick];
    context.fillStyle = colours.side;
    if (Math.abs(tx) < 2 && Math.abs(ty) < 2) {
      this.#units(x + tx, y + ty);
      context.fillRect(0, 0, columns, rows);
      this.#pixels();
      return;
    }
    if (tx > 0) this.#face(x + wide, y + skew, 0, tall, tx, ty);
    else this.#face(x, y, 0, tall, tx, ty);
    context.fill();
    context.fillStyle = colours.top;
    this.#face(x, ty < 0 ? y : y + tall, wide, skew, tx, ty);
    context.fill();
  }

  #front(slab) {
    const { context, colours, axes } = this;
    const { columns, rows, opacity } = slab;
    const size = Math.min(axes.rx, axes.dy);
    const isMade = slab.pictures.length > 0;
    if (!isMade || slab.values.gaps) {
      context.fillStyle = isMade ? colours.back : colours.top;
      context.fillRect(0, 0, columns, rows);
    }
    if (isMade) {
      context.imageSmoothingEnabled = size < 2;
      context.drawImage(slab.picture(size), 0, 0, columns, rows);
    }
    if (opacity < 0.3) return;
    if (isMade && size > 12) this.#cells(slab, size);
    if (slab.at[2] > 5) this.#query(slab);
  }

  /** The selected position: a column of every slab of its stack, a row where rows are queries. */
  #query({ stack, columnStack, byQuery, columns, rows }) {
    const { context, axes } = this;
    const { query, stack: own } = this.selection;
    if (stack !== own) return;
    context.fillStyle = this.colours.accent;
    if (byQuery) {
      const line = Math.min(1, 1.2 / axes.dy);
      context.fillRect(0, query, columns, line);
      context.fillRect(0, query + 1 - line, columns, line);
    } else if (columnStack === own) {
      const line = Math.min(1, 1.2 / axes.rx);
      context.fillRect(query, 0, line, rows);
      if (line < 0.5) context.fillRect(query + 1 - line, 0, line, rows);
    }
  }

  /** The range of cells [first, end, first, end] of rows and columns that the canvas shows. */
  visible({ at: [x, y, wide, skew, tall], columns, rows }) {
    const from = clamped(Math.floor((-x / wide) * columns), 0, columns);
    const to = clamped(Math.ceil(((this.width - x) / wide) * columns), 0, columns);
    const tops = [from, to].map((column) => y + (skew / columns) * column);
    const above = Math.floor((-Math.max(...tops) / tall) * rows);
    const below = Math.ceil(((this.height - Math.min(...tops)) / tall) * rows);
    return [clamped(above, 0, rows), clamped(below, 0, rows), from, to];
  }

  /** Lines between cells of `size` pixels and, where there is room, the numbers in them. */
  #cells(slab, size) {
    const { context, colours, ratio } = this;
    const { rx, dx, dy } = this.axes;
    const [above, below, from, to] = this.visible(slab);
    context.fillStyle = colours.back;
    context.globalAlpha = 0.7 * slab.opacity * Math.min(1, (size - 12) / 16);
    for (let row = above + 1; row < below; row++) context.fillRect(from, row, to - from, 0.7 / dy);
    for (let at = from + 1; at < to; at++) context.fillRect(at, above, 0.7 / rx, below - above);
    context.globalAlpha = slab.opacity;
    if (size < READABLE) return;
    const [x, y] = slab.at;
    context.setTransform(ratio, (ratio * dx) / rx, 0, ratio, ratio * x, ratio * y);
    context.font = `${(size * 0.28).toFixed(1)}px ${colours.font}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let row = above; row < below; row++) {
      for (let column = from; column < to; column++) {
        const value = slab.values.at(row, column);
        if (Number.isNaN(value)) continue;
        const isMasked = value === Number.NEGATIVE_INFINITY;
        context.fillStyle = isMasked ? colours.quiet : ink(slab.colour(value));
        context.fillText(fixed(value), (column + 0.5) * rx, (row + 0.52) * dy);
      }
    }
    this.#units(x, y);
  }

  // -- lines ---------------------------------------------------------------------------------------

  #link({ kind, block, z }, points) {
    const { context, colours } = this;
    const { rx } = this.axes;
    const isBefore = this.isClose && z < this.depth - 0.01;
    const opacity = isBefore ? 0.06 : this.lit.size ? 0.16 : 0.55;
    context.globalAlpha = kind === "spine" ? Math.min(1, 1.7 * opacity) : opacity;
    context.strokeStyle = context.fillStyle = colours.flow;
    context.lineWidth = block === this.selection.block ? 1.25 : 1;
    if (kind === "spine") context.lineWidth = clamped(rx * 1.5, 1.5, 5);
    context.beginPath();
    for (const point of points) context.lineTo(...point);
    context.stroke();
    if (kind === "arrow") this.#head(...points.slice(-2), 5, 0.5);
    if (kind !== "sum") return;
    const [x, y] = points.at(-1);
    const size = clamped(6 * rx, 3, 9);
    context.globalAlpha = Math.min(1, opacity * 1.8);
    context.beginPath();
    context.arc(x, y, size, 0, 7);
    context.fillStyle = colours.raised;
    context.fill();
    context.moveTo(x - size, y);
    context.lineTo(x + size, y);
    context.moveTo(x, y - size);
    context.lineTo(x, y + size);
    context.stroke();
  }

  /** The head of an arrow. width: half of that of its end, as a share of its size. */
  #head([fromX, fromY], [x, y], most, width) {
    const { context } = this;
    const length = Math.hypot(x - fromX, y - fromY);
    if (length < 4) return;
    const size = Math.min(most, length * 0.6);
    const [ux, uy] = [((x - fromX) / length) * size, ((y - fromY) / length) * size];
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x - ux + width * uy, y - uy - width * ux);
    context.lineTo(x - ux - width * uy, y - uy + width * ux);
    context.fill();
  }

  /** Outlines of what is lit, selected and hovered, and of a cell of the last two. */
  #outlines() {
    const { context, colours } = this;
    context.lineJoin = "round";
    const outline = (slab, colour, width, cell) => {
      if (!this.shown.includes(slab)) return;
      const [x, y, wide, skew, tall] = slab.at;
      context.strokeStyle = colour;
      context.lineWidth = width;
      this.#face(x, y, wide, skew, 0, tall);
      context.stroke();
      if (!cell) return;
      const [w, s, h] = [wide / slab.columns, skew / slab.columns, tall / slab.rows];
      context.lineWidth = 2;
      this.#face(x + w * cell.column, y + s * cell.column + h * cell.row, w, s, 0, h);
      context.stroke();
    };
    for (const slab of this.lit) outline(slab, colours.accent, 1.75);
    outline(this.selected, colours.accent, 2.5, this.cell);
    outline(this.hovered, colours.warm, 1.75, this.pointed);
  }

  /** Arrows to what is lit from what it is made of. */
  #sources() {
    const { context, colours } = this;
    const lit = [...this.lit].filter((slab) => this.shown.includes(slab));
    if (!lit.length) return;
    const into = slabBounds(lit);
    context.strokeStyle = context.fillStyle = colours.accent;
    context.lineWidth = 1.5;
    context.globalAlpha = 0.85;
    for (const slabs of Map.groupBy(this.sources, (slab) => slab.tensor).values()) {
      if (slabs.some((slab) => !this.shown.includes(slab))) continue;
      const from = slabBounds(slabs);
      if (Math.abs(from.x - into.x) + Math.abs(from.y - into.y) < 12) continue;
      const isRight = into.x >= from.x;
      let [start, end] = isRight ? [from.right, into.left] : [from.left, into.right];
      if (isRight ? end < start : end > start) [start, end] = [from.x, into.x];
      const lift = Math.min(90, 14 + 0.16 * Math.hypot(end - start, into.y - from.y));
      const bend = [(start + end) / 2, (from.y + into.y) / 2 - lift];
      context.beginPath();
      context.moveTo(start, from.y);
      context.quadraticCurveTo(...bend, end, into.y);
      context.stroke();
      this.#head(bend, [end, into.y], 9, 0.45);
    }
    context.globalAlpha = 1;
  }

  /** The nearest slab at a place of the canvas, its cell and point there; null where none is. */
  find(right, down) {
    for (const slab of this.shown.toReversed()) {
      if (slab.opacity < 0.12) continue;
      const [x, y, wide, skew, tall] = slab.at;
      const column = ((right - x) / wide) * slab.columns;
      const row = ((down - y - (skew * column) / slab.columns) / tall) * slab.rows;
      const pad = wide < 10 ? (3 / wide) * slab.columns : 0; // thin slabs are hard to meet
      if (column < -pad || column >= slab.columns + pad || row < 0 || row >= slab.rows) continue;
      const cell = {
        row: Math.floor(row),
        column: clamped(Math.floor(column), 0, slab.columns - 1),
      };
      return { slab, cell, point: [slab.x + column, slab.y + row, slab.z] };
    }
    return null;
  }
}

// The scene of the 3D walk: a slab for each tensor or head, and the lines of the flow between them.
// x points right, y down, z away from the viewer.

import { diverging, picture, sequential, shade } from "./colours.js";
import { number } from "./dom.js";

const LEFT_OUT = "left out of this page";
const SLAB_COLOURS = {
  features: diverging,
  scores: diverging,
  weights: (share) => sequential(Math.sqrt(Math.max(0, share))),
};
export const LAYER_NAMES = {
  attn: "attention",
  rnn: "recurrence",
  conv: "convolution",
  mixer: "mixer",
  cross_attn: "cross-attention",
  mlp: "feed-forward",
};
/** What a tensor within a layer is made of: the first list of which its layer has any. */
const MADE_OF = {
  rot_q: ["q"],
  rot_k: ["k"],
  attn_scores: ["rot_q rot_k", "q k"],
  pattern: ["attn_scores"],
  z: ["pattern v state"],
  post: ["value gate pre pre_linear"],
  cell: ["gate_i gate_f gate_g"],
  state: ["cell gate_o gate_z gate_n"],
  q: ["state"],
  k: ["state"],
};
/** The layers that may write what leads to a state of the stream. */
const WRITERS = {
  resid_mid: "attn rnn conv mixer",
  resid_mid_cross: "cross_attn",
  resid_post: "mlp cross_attn attn rnn conv mixer",
};

export function clamped(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

/** What Labels.text() and Labels.chip() need for a position of a stack: an id and its place. */
export function tokenAt(labels, stack, at) {
  const { source, ids } = labels.input;
  return stack === "encoder" ? [source[at], null] : [ids[at], at];
}

/** A box with values. Its columns are absolute positions, its rows features or query positions. */
class Slab {
  constructor(page, box) {
    Object.assign(this, box);
    this.page = page;
    this.stack = box.tensor.startsWith("encoder.") ? "encoder" : "blocks";
    this.byQuery = /(attn_scores|pattern)$/.test(box.tensor);
    const ofSource = /cross_attn\.hook_(k|v|rot_k|attn_scores|pattern)$/.test(box.tensor);
    this.columnStack = ofSource ? "encoder" : this.stack;
    this.firstColumn = page.positions(this.columnStack).first;
    this.firstRow = this.byQuery ? page.positions(this.stack).first : 0;
    this.there = page.has(box.tensor);
    this.opacity = 1;
    this.pictures = [];
  }

  /** The rows that the page has, where it does not have all. */
  get keptRows() {
    return this.tensor === "logits" ? undefined : this.page.record(this.tensor)?.kept;
  }

  get values() {
    if (!this.found) {
      const matrix = this.page.matrix(this.tensor, this.head);
      const rows = this.keptRows && new Map(this.keptRows.map((row, i) => [row, i]));
      const at = (row, column) => {
        const own = rows ? rows.get(row) : row - this.firstRow;
        const place = column - this.firstColumn;
        return own === undefined || own < 0 || place < 0 ? Number.NaN : matrix.at(own, place);
      };
      const gaps = this.byQuery || this.firstColumn || rows;
      this.found = { at, gaps, limit: matrix.limit, kind: matrix.kind };
    }
    return this.found;
  }

  /** The picture for cells of `size` pixels, halved until its pixels are no smaller than those. */
  picture(size) {
    if (!this.pictures.length) {
      const { rows, columns } = this;
      const { at, limit, kind } = this.values;
      this.pictures.push(picture({ rows, columns, at }, limit, SLAB_COLOURS[kind]));
    }
    let level = 0;
    for (; level < 5 && size * 2 ** level < 0.55; level++) {
      if (this.pictures[level + 1]) continue;
      const before = this.pictures[level];
      const image = document.createElement("canvas");
      image.width = Math.ceil(before.width / 2);
      image.height = Math.ceil(before.height / 2);
      image.getContext("2d").drawImage(before, 0, 0, image.width, image.height);
      this.pictures.push(image);
    }
    return this.pictures[level];
  }

  colour(value) {
    const { limit, kind } = this.values;
    return shade(value / (limit || 1), SLAB_COLOURS[kind]);
  }

  /** What stands along its columns and rows. */
  get axes() {
    if (this.byQuery) return { column: "key", row: "query", columns: "keys", rows: "queries" };
    let row = "feature";
    if (this.tensor === "logits") row = "id";
    else if (/mlp/.test(this.tensor) && this.rows === this.page.config.hidden) row = "unit";
    return { column: "position", row, columns: "positions", rows: `${row}s` };
  }

  /** A short name of a row: a number, a query's token or, of logits, the token of an id. */
  rowName(row, labels) {
    const kept = this.tensor === "logits" && this.page.record("logits")?.kept;
    if (!this.byQuery && !kept) return `${row}`;
    const text = kept ? labels.text(kept[row]) : labels.text(...tokenAt(labels, this.stack, row));
    return [...text].slice(0, 8).join("");
  }

  /** A cell in words: position 5 “the”, feature 12. */
  cellName({ row, column }, labels) {
    const place = labels.position(column, this.columnStack);
    if (this.byQuery) return `query ${labels.position(row, this.stack)}, key ${place}`;
    if (this.tensor !== "logits") return `position ${place}, ${this.axes.row} ${row}`;
    const id = this.page.record("logits")?.kept?.[row] ?? row;
    return `position ${place}, id ${id} “${labels.text(id)}”`;
  }

  /** The value of a cell in words. */
  cellValue({ row, column }) {
    const value = this.there ? this.values.at(row, column) : Number.NaN;
    if (Number.isNaN(value)) return LEFT_OUT;
    return value === Number.NEGATIVE_INFINITY ? "−∞ (masked)" : number(value, 4);
  }
}

/** The slabs, in layers of the same depth, and the lines between them. */
export class Scene {
  constructor(page) {
    this.page = page;
    this.slabs = page.data.boxes.map((box) => new Slab(page, box));
    this.byName = Map.groupBy(this.slabs, (slab) => slab.tensor);
    this.bySame = Map.groupBy(this.byName.keys(), (name) => this.#same(name));
    this.orders = new Map();
    this.layers = [];
    this.links = [];
    for (const stack of ["encoder", "blocks"]) {
      const own = this.slabs.filter((slab) => slab.stack === stack);
      const layers = [...Map.groupBy(own, (slab) => slab.z)].map(([z, slabs]) => {
        const columns = [...Map.groupBy(slabs, (slab) => slab.tensor).values()];
        columns.sort((a, b) => a[0].x - b[0].x);
        const stream = columns.find(([slab]) => slab.part === "stream");
        return { stack, z, stream, wing: columns.filter((column) => column !== stream) };
      });
      layers.sort((a, b) => a.z - b.z);
      this.layers.push(...layers);
      layers.forEach((layer, number) => {
        const next = layers.slice(number + 1).find((each) => each.stream);
        this.links.push(...this.#links(layer, next));
      });
    }
  }

  #same(name) {
    const same = this.page.record(name)?.same;
    return same ? this.#same(same) : name;
  }

  /** The slabs of a tensor: its own, or those of one that is the same. */
  of(name) {
    if (this.byName.has(name)) return this.byName.get(name);
    const same = this.bySame.get(this.#same(name));
    if (same) return this.byName.get(same.find((each) => /resid/.test(each)) ?? same[0]);
    const before = /^(\w+)\.(\d+)\.hook_resid_pre$/.exec(name);
    return before ? (this.byName.get(`${before[1]}.${before[2] - 1}.hook_resid_post`) ?? []) : [];
  }

  /** The slab of a tensor that a head of the layer uses: heads may share keys and values. */
  slab(name, head, heads) {
    const slabs = this.of(name);
    return slabs[Math.floor((head * slabs.length) / heads)] ?? slabs[0];
  }

  /**
   * Slabs and lines from far to near, for signs of yaw and pitch: the camera is orthographic and
   * never looks from behind, so that z and these signs tell what hides what.
   */
  order(yaw, pitch) {
    const right = yaw >= 0 ? 1 : -1;
    const above = pitch >= 0 ? 1 : -1;
    const key = 2 * right + above;
    if (!this.orders.has(key)) {
      const place = (each) => (each.points ? -1e9 : right * each.x);
      const farFirst = (a, b) => b.z - a.z || place(a) - place(b) || above * (b.y - a.y);
      this.orders.set(key, [...this.links, ...this.slabs].sort(farFirst));
    }
    return this.orders.get(key);
  }

  /**
   * Lines of the flow: the stream to a wing, along the wing, and back onto the stream of the next
   * layer. A line in depth sorts just before the farther of the layers that it joins.
   */
  *#links({ z, stream, wing }, next) {
    const [own] = stream ?? next.stream;
    const { block } = (wing[0] ?? stream)[0];
    const axis = own.x + own.columns / 2;
    const isSum = stream && this.page.config.residual !== false;
    const line = (kind, depth, ...points) => ({ kind, block, z: depth, points });
    const behind = next && next.z - 1e-3;
    if (isSum && next) yield line("spine", behind, [axis, 0, z], [axis, 0, next.z]);
    if (!wing.length) return;
    const [first, last] = [wing[0][0], wing.at(-1)[0]];
    const isRight = first.x > axis;
    const gap = wing[1] ? wing[1][0].x - first.x - first.columns : first.columns / 2;
    for (let i = 1; i < wing.length; i++) {
      const [from, to] = [wing[i - 1][0], wing[i][0]];
      yield line("arrow", z, [from.x + from.columns, 0, z], [to.x, 0, z]);
    }
    if (stream && isRight) yield line("arrow", z, [own.x + own.columns, 0, z], [first.x, 0, z]);
    else if (stream) {
      const [start, end] = [own, wing[0].at(-1)].map((slab) => slab.y + slab.rows);
      const lowest = Math.max(start, end) + 0.4 * gap;
      const into = first.x + first.columns / 2;
      yield line(
        "arrow",
        z,
        [axis, start, z],
        [axis, lowest, z],
        [into, lowest, z],
        [into, end, z],
      );
    }
    if (!next || first.part === "head") return;
    const end = last.x + last.columns;
    const out = end + gap / (isRight ? 2 : 4);
    const back = isSum ? (z + next.z) / 2 : next.z;
    const path = stream
      ? [
          [out, 0, z],
          [out, 0, back],
        ]
      : [[axis, 0, z]];
    yield line(isSum ? "sum" : "arrow", behind, [end, 0, z], ...path, [axis, 0, back]);
  }

  #known(...names) {
    return names.filter((each) => this.of(each).length);
  }

  /** What a stack ends with: its last norm or, where it has none, its last state. */
  #end(stack, blocks) {
    const norm = `${stack === "encoder" ? "encoder." : ""}ln_final.hook_normalized`;
    return this.#known(norm)[0] ?? `${stack}.${blocks - 1}.hook_resid_post`;
  }

  /** Names of the tensors that one is made of. */
  madeOf(name) {
    const { config } = this.page;
    const blocks = { encoder: config.encoder_layers, blocks: config.layers };
    const parts = /^((encoder|blocks)\.(\d+))\.(?:(\w+)\.)?hook_(\w+)$/.exec(name);
    if (name === "logits") return [this.#end("blocks", blocks.blocks)];
    if (name.endsWith("ln_final.hook_normalized")) {
      const stack = name.startsWith("encoder") ? "encoder" : "blocks";
      return [`${stack}.${blocks[stack] - 1}.hook_resid_post`];
    }
    if (!parts) return [];
    const [, at, stack, block, layer = "", what] = parts;
    const isPost = config.norm_position === "post";
    const stage = (each) => ({ cross_attn: 1, ln_cross: 1, mlp: 2, ln2: 2 })[each] ?? 0;
    const states = ["pre", "mid", "mid_cross", "post"].map((each) => `${at}.hook_resid_${each}`);
    const norms = ["ln1", "ln_cross", "ln2"].map((each) => `${at}.${each}.hook_normalized`);
    const before = (list, end) => this.#known(...list.slice(0, end)).at(-1) ?? states[0];
    const read = (each) => {
      if (isPost) return before(norms, stage(each));
      return this.#known(norms[stage(each)])[0] ?? before(states, stage(each) + 1);
    };
    if (layer.startsWith("ln")) {
      return [isPost ? states[stage(layer) + 1] : before(states, stage(layer) + 1)];
    }
    if (what === "resid_pre") {
      return block > 0 ? [] : [`${stack === "encoder" ? "encoder." : ""}hook_embed`];
    }
    if (WRITERS[what]) {
      const out = (each) => `${at}.hook_${each}_out`;
      const writer = WRITERS[what].split(" ").find((each) => this.#known(out(each)).length);
      const written = writer ? [out(writer)] : [];
      if (config.residual === false) return written;
      return [isPost ? read(writer) : before(states, states.indexOf(name)), ...written];
    }
    if (what.endsWith("_out")) {
      const own = `${at}.${what.slice(0, -4)}`;
      return this.#known(`${own}.hook_z`, `${own}.hook_post`, `${own}.hook_state`);
    }
    if (layer === "cross_attn" && /^[kv]$/.test(what))
      return [this.#end("encoder", blocks.encoder)];
    for (const list of MADE_OF[what] ?? []) {
      const found = this.#known(...list.split(" ").map((each) => `${at}.${layer}.hook_${each}`));
      if (found.length) return found;
    }
    return [read(layer)];
  }
}

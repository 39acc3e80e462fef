// The page's tensors: decoded when they are first asked for, or computed from others as their
// recipe says (core/view/packing.py has the same recipes).

/** Opens the data of this page. */
export async function open() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const packed = Uint8Array.from(
    atob(document.getElementById("tensors").textContent.trim()),
    (letter) => letter.charCodeAt(0),
  );
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Page(data, new Uint8Array(await new Response(stream).arrayBuffer()));
}

export class Page {
  constructor(data, bytes) {
    this.data = data;
    this.bytes = bytes;
    this.config = data.architecture.config;
    // everywhere on this page the likeliest id has rank 1
    data.lens.rank = data.lens.rank.map((level) =>
      level.map((rank) => (rank === null ? null : rank + 1)),
    );
    this.decoded = new Map();
  }

  /** Number of positions of a stack, and the first of them that the page has. */
  positions(stack = "blocks") {
    const { ids, source } = this.data.input;
    return stack === "encoder"
      ? { total: source.length, first: this.data.source_first }
      : { total: ids.length, first: this.data.first };
  }

  has(name) {
    const record = this.data.tensors[name];
    if (!record) return false;
    if (record.same) return this.has(record.same);
    return !record.recipe || record.recipe.of.every((each) => this.has(each));
  }

  record(name) {
    return this.data.tensors[name];
  }

  /** { shape, values (Float32Array, row-major), record } */
  tensor(name) {
    if (!this.decoded.has(name)) this.decoded.set(name, this.#make(name));
    return this.decoded.get(name);
  }

  #make(name) {
    const record = this.data.tensors[name];
    if (!record) throw new Error(`this page has no ${name}`);
    if (record.same) return { ...this.tensor(record.same), record };
    const size = record.shape.reduce((product, each) => product * each, 1);
    let values;
    if (record.recipe) {
      values = compute(
        record.recipe,
        record.recipe.of.map((each) => this.tensor(each)),
      );
    } else {
      values = decode(this.bytes, record.at, size, record.type, record.shape.at(-1));
    }
    return { shape: record.shape, values, record };
  }

  /**
   * A tensor, or one head of it, as the matrix that its box shows: { rows, columns, at(row, column),
   * limit, kind }. Columns are positions and rows features; of scores and patterns, columns are
   * keys and rows are queries. kind: scores, weights or features.
   */
  matrix(name, head = null) {
    const { shape, values, record } = this.tensor(name);
    const byQuery = /(attn_scores|pattern)$/.test(name);
    if (byQuery) {
      const [, rows, columns] = shape;
      const start = (head ?? 0) * rows * columns;
      const kind = name.endsWith("pattern") ? "weights" : "scores";
      const limit = kind === "weights" ? 1 : record.largest;
      const at = (row, column) => values[start + row * columns + column];
      return { rows, columns, at, limit, kind, name, head };
    }
    const columns = shape[0];
    const rows = shape.at(-1);
    const stride = shape.length === 3 ? shape[1] * rows : rows;
    const start = shape.length === 3 ? (head ?? 0) * rows : 0;
    const at = (row, column) => values[start + column * stride + row];
    return { rows, columns, at, limit: robust(values, record), kind: "features", name, head };
  }
}

function robust(values, record) {
  record.limit ??= largeSize(sampled(values, 4000), 0.99) || record.largest || 1;
  return record.limit;
}

/** About `most` of many values. */
function sampled(values, most) {
  const step = Math.max(1, Math.floor(values.length / most));
  return step === 1 ? values : values.filter((_, at) => at % step === 0);
}

/** A size that few of the finite values exceed, so that one outlier does not make others pale. */
export function largeSize(values, share = 0.99) {
  const sizes = [];
  for (const value of values) {
    if (value !== null && Number.isFinite(value)) sizes.push(Math.abs(value));
  }
  sizes.sort((a, b) => a - b);
  return sizes[Math.floor(share * (sizes.length - 1))];
}

/** The mean of what is known; null if nothing is. */
export function mean(values) {
  let [sum, size] = [0, 0];
  for (const value of values) {
    if (value === null || value === undefined) continue;
    sum += value;
    size += 1;
  }
  return size ? sum / size : null;
}

// -- bytes ---------------------------------------------------------------------------------------

/** Values from planes of bytes: the first byte of all, then their second bytes ... */
function decode(bytes, start, size, type, columns) {
  if (type === "f16") {
    const values = new Float32Array(size);
    for (let i = 0; i < size; i++) {
      values[i] = half(bytes[start + i] | (bytes[start + size + i] << 8));
    }
    return values;
  }
  if (type === "f32") {
    const whole = new Uint8Array(4 * size);
    for (let i = 0; i < size; i++) {
      for (let plane = 0; plane < 4; plane++) {
        whole[4 * i + plane] = bytes[start + plane * size + i];
      }
    }
    return new Float32Array(whole.buffer);
  }
  const scales = decode(bytes, start + size, size / columns, "f32", 1);
  const values = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const code = (bytes[start + i] << 24) >> 24;
    values[i] = code === -128 ? Number.NEGATIVE_INFINITY : code * scales[Math.floor(i / columns)];
  }
  return values;
}

/** The number that 16 bits stand for (IEEE 754 binary16). */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// -- recipes -------------------------------------------------------------------------------------

const gelu = (x) => 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x ** 3)));
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
export const ACTIVATIONS = {
  relu: (x) => Math.max(x, 0),
  relu2: (x) => Math.max(x, 0) ** 2,
  gelu,
  glu: sigmoid,
  bilinear: (x) => x,
  reglu: (x) => Math.max(x, 0),
  geglu: gelu,
  swiglu: (x) => x * sigmoid(x),
};

function compute(recipe, inputs) {
  const [a, b, c] = inputs.map((each) => each.values);
  switch (recipe.op) {
    case "add":
      return a.map((value, i) => value + b[i]);
    case "product":
      return a.map((value, i) => value * b[i]);
    case "activation": {
      const activate = ACTIVATIONS[recipe.kind];
      return a.map((value, i) => activate(value) * (b ? b[i] : 1));
    }
    case "softmax":
      return softmaxRows(a, inputs[0].shape.at(-1));
    case "norm":
      return norm(a, inputs[0].shape.at(-1), recipe, b, c);
    case "scores":
      return scores(recipe, inputs[0], inputs[1]);
    default:
      return mix(inputs[0], inputs[1]);
  }
}

function softmaxRows(values, columns) {
  const out = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += columns) {
    out.set(softmax(values.subarray(start, start + columns)), start);
  }
  return out;
}

/** The softmax of numbers, some of which may be minus infinity. */
export function softmax(logits) {
  let largest = Number.NEGATIVE_INFINITY;
  for (const each of logits) largest = Math.max(largest, each);
  const weights = Float64Array.from(logits, (each) => Math.exp(each - largest));
  const total = weights.reduce((sum, each) => sum + each, 0);
  return weights.map((each) => each / total);
}

function norm(values, columns, recipe, weight, bias) {
  const out = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += columns) {
    const row = values.subarray(start, start + columns);
    const mean = recipe.kind === "layernorm" ? row.reduce((sum, x) => sum + x, 0) / columns : 0;
    const square = row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / columns;
    const root = Math.sqrt(square + recipe.eps);
    for (let i = 0; i < columns; i++) {
      out[start + i] = ((row[i] - mean) / root) * weight[i] + (bias ? bias[i] : 0);
    }
  }
  return out;
}

function scores(recipe, queries, keys) {
  const [asked, heads, width] = queries.shape;
  const [read, groups] = keys.shape;
  const out = new Float32Array(heads * asked * read).fill(Number.NEGATIVE_INFINITY);
  for (let head = 0; head < heads; head++) {
    const group = Math.floor((head * groups) / heads);
    for (let i = 0; i < asked; i++) {
      const from = recipe.window ? Math.max(0, i - recipe.window + 1) : 0;
      const to = recipe.causal ? i + 1 : read;
      for (let j = from; j < to; j++) {
        let sum = 0;
        for (let d = 0; d < width; d++) {
          sum +=
            queries.values[(i * heads + head) * width + d] *
            keys.values[(j * groups + group) * width + d];
        }
        out[(head * asked + i) * read + j] = sum * recipe.scale;
      }
    }
  }
  return out;
}

function mix(pattern, values) {
  const [heads, asked, read] = pattern.shape;
  const flat = values.shape.length === 2; // one head over states
  const [groups, width] = flat ? [1, values.shape[1]] : [values.shape[1], values.shape[2]];
  const out = new Float32Array(asked * heads * width);
  for (let head = 0; head < heads; head++) {
    const group = Math.floor((head * groups) / heads);
    for (let i = 0; i < asked; i++) {
      for (let j = 0; j < read; j++) {
        const weight = pattern.values[(head * asked + i) * read + j];
        if (!weight) continue;
        for (let d = 0; d < width; d++) {
          out[(i * heads + head) * width + d] +=
            weight * values.values[(j * groups + group) * width + d];
        }
      }
    }
  }
  return out;
}

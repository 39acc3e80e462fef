// Attention as matrices: scores, weights, the mix of values, what a head writes.

import { fixed, number, percent } from "./dom.js";
import {
  indices,
  matrixLimit,
  plainCell,
  product,
  sign,
  storedLine,
  sumOf,
  sumText,
  valueAt,
} from "./matrix_reader.js";

/** Scores and weights of a head, with a row for each query. */
export class Looks {
  constructor(reader) {
    const { page, head, query, key, here } = reader;
    const [scores, pattern] = [`${here}attn_scores`, `${here}pattern`];
    const score = page.matrix(scores, head).at;
    const weight = page.matrix(pattern, head).at;
    this.reader = reader;
    this.masked = (row, column) => score(row, column) === Number.NEGATIVE_INFINITY;
    this.weight = weight;
    const axes = { rows: query, columns: key, asStored: true };
    this.scores = {
      ...{ id: "scores", title: "scores", ...axes, tensor: scores },
      at: score,
      limit: matrixLimit(query.count, key.count, score, 1),
    };
    this.weights = {
      ...{ id: "weights", title: "weights", ...axes, tensor: pattern },
      ...{ bare: true, weights: true },
      at: (row, column) => (this.masked(row, column) ? score(row, column) : weight(row, column)),
      limit: matrixLimit(query.count, key.count, weight, 0.99, true),
      explain: (place) => this.#explainWeight(place),
    };
  }

  /** The keys that a query sees. */
  seen(query) {
    return indices(this.reader.key.count).filter((key) => !this.masked(query, key));
  }

  /** The share of a query's weight that falls on positions which this page does not have. */
  earlier(query) {
    const { page, here, head, query: axis } = this.reader;
    const name = `${here}pattern_earlier`;
    return page.has(name) ? page.tensor(name).values[head * axis.count + query] : 0;
  }

  /** The row of a query: for each key its score and weight. */
  row({ query }) {
    const rows = indices(this.reader.key.count).map((at) => {
      const masked = this.masked(query, at);
      const weight = masked ? 0 : this.weight(query, at);
      return { key: at + this.reader.key.first, masked, score: this.scores.at(query, at), weight };
    });
    return { rows, earlier: this.earlier(query) };
  }

  /** The cell of a place that the mask takes out; null for others. */
  maskedCell(name, { query, key }, result) {
    if (!this.masked(query, key)) return null;
    const [at, of] = [key + this.reader.key.first, query + this.reader.query.first];
    const why = at > of ? "comes after" : "is too far before";
    const note = `Masked: key ${at} ${why} query ${of}, so its score is −∞ and its weight 0.`;
    return plainCell(name, result, note);
  }

  /** The softmax of one score among those of its query. */
  #explainWeight(place) {
    const { query, key } = place;
    const { key: keys } = this.reader;
    const name = this.reader.cellName("weight", this.weights, place);
    const masked = this.maskedCell(name, place, 0);
    if (masked) return masked;
    const seen = this.seen(query);
    const largest = Math.max(...seen.map((at) => this.scores.at(query, at)));
    const shift = largest > 50 ? largest : 0;
    const terms = seen.map((at) => {
      const score = this.scores.at(query, at) - shift;
      const term = { text: `exp(${number(score)})`, value: Math.exp(score) };
      return { ...term, label: this.reader.word(keys, at), chosen: at === key };
    });
    const { text, value } = terms.find(({ chosen }) => chosen);
    const sum = sumOf(terms);
    const earlier = this.earlier(query);
    const share = earlier ? ` × (1 − ${number(earlier)})` : "";
    const line = storedLine(
      `= ${text} / (${sumText(terms)})${share} = ${number(value)} / ${number(sum)}${share}`,
      (value / sum) * (1 - earlier),
      { ...this.weights, at: this.weight },
      place,
    );
    const notes = [
      earlier &&
        `Keys before position ${keys.first} are not in this page. They have ${percent(earlier)} of the weight.`,
      shift &&
        `The largest score, ${number(largest)}, is subtracted from all. The weights stay the same.`,
    ].filter(Boolean);
    return { name, lines: [line], terms, what: "Exponentials that make up the sum", notes };
  }

  /** A feature of the weighted sum of values, which a figure holds. */
  explainMix(place, values, figure) {
    const { query } = place;
    const { reader } = this;
    const feature = place[figure.columns.kind];
    const terms = this.seen(query).map((at) =>
      product(reader.word(reader.key, at), this.weight(query, at), values.at(at, feature)),
    );
    const name = `mix(${reader.word(reader.query, query)}, feature ${feature})`;
    const line = storedLine(`= ${sumText(terms)}`, sumOf(terms), figure, place);
    const notes = [];
    const earlier = this.earlier(query);
    if (earlier) {
      notes.push(
        `This sum is over the keys of this page only. Keys before position ${reader.key.first} have ${percent(earlier)} of the weight. The stored mix over all keys is ${number(line.stored, 4)}.`,
      );
      line.stored = null;
    }
    return { name, lines: [line], terms, what: "Weight × value of each key", notes };
  }
}

export function attention(reader) {
  const { page, here, head, heads, cross, query, key } = reader;
  const { config, data } = page;
  const noun = cross ? "Cross-attention" : "Attention";
  if (!reader.has("rot_q", "rot_k", "v", "attn_scores", "pattern", "z")) {
    return reader.missing(noun);
  }
  const { groups, head_width: w } = data.architecture;
  const group = Math.floor((head * groups) / heads);
  const causal = !cross && query.stack === "blocks";
  const slope = causal && config.positions === "alibi" ? alibiSlope(head, heads) : 0;
  const turned = !page.record(`${here}rot_q`).same;
  const mark = turned ? "′" : "";
  const changes = [
    config.qk_norm && "normalised",
    config.positions === "rope" && !cross && "rotated by their positions",
  ].filter(Boolean);

  /** Queries, keys or values. */
  const input = (letter, part, rows, of) => {
    const title = letter.toUpperCase() + (letter === "v" ? "" : mark);
    const figure = reader.figure(letter, title, here + part, rows, "width", { head: of });
    figure.explain = (place) => {
      let note = `W_${letter} is not in this page, so this number is read, not computed.`;
      if (part !== letter && turned && reader.has(letter)) {
        const before = page.matrix(here + letter, of).at(place.width, place[rows.kind]);
        note = `Before it was ${changes.join(" and ")}: ${number(before)}.`;
      }
      const name = reader.cellName(title, figure, place);
      return plainCell(name, valueAt(figure, place), note);
    };
    return figure;
  };
  const q = input("q", "rot_q", query, head);
  const keys = input("k", "rot_k", key, group);
  const v = input("v", "v", key, group);
  const k = {
    ...keys,
    ...{ title: `K${mark}ᵀ`, rows: keys.columns, columns: keys.rows, asStored: true },
    at: (row, column) => keys.at(column, row),
  };
  const looks = new Looks(reader);
  const { scores, weights } = looks;
  scores.explain = (place) => {
    const name = reader.cellName("score", scores, place);
    const masked = looks.maskedCell(name, place, Number.NEGATIVE_INFINITY);
    if (masked) return masked;
    const terms = indices(w).map((j) =>
      product(`feature ${j}`, q.at(place.query, j), keys.at(place.key, j), 2),
    );
    const away = place.key + key.first - place.query - query.first;
    const bias = slope ? ` + ${number(slope)} × ${number(away)}` : "";
    const sum = sumOf(terms);
    const root = fixed(Math.sqrt(w));
    const line = storedLine(
      `= (${sumText(terms)}) / √${w}${bias} = ${number(sum)} / ${root}${bias}`,
      sum / Math.sqrt(w) + slope * away,
      scores,
      place,
    );
    return { name, lines: [line], terms, what: "Products that make up the sum" };
  };
  const z = reader.figure("mix", "mix", `${here}z`, query, "width", { head });
  z.explain = (place) => looks.explainMix(place, v, z);
  const hasOutput = page.has(`${reader.at}.${reader.layer.name}.W_O`);
  const writes = hasOutput
    ? headWrites(reader, z)
    : reader.written(
        sign("→", "all heads, W_O"),
        "attention writes",
        "attention writes",
        "Without W_O this page cannot compute it from the mixes.",
      );
  const note = `÷ √${w}${slope ? ", bias" : ""}${causal ? ", mask" : ""}`;
  const sees = config.window
    ? `the last ${config.window} positions up to its own`
    : "itself and earlier positions";
  const bias = slope ? ` + ${number(slope)} (key − query)` : "";
  return reader.form(noun, {
    formula: `softmax(Q${mark} K${mark}ᵀ / √${w}${bias}${causal ? " + mask" : ""}) V W_O`,
    aside: `√${w} = ${fixed(Math.sqrt(w))}`,
    notes: [
      turned && `Q′ and K′ are the queries and keys as scores use them: ${changes.join(" and ")}.`,
      groups < heads && `Head ${head} reads key and value head ${group} of ${groups}.`,
      slope &&
        `The stored scores contain the ALiBi bias: slope ${number(slope)} times (key − query).`,
      causal && `Hatched cells are masked: a query sees ${sees}.`,
      !hasOutput &&
        "This page does not have the weights W_O: the output of all heads together is shown.",
    ],
    lines: [
      [q, sign("×"), k, sign("=", note), scores, sign("→", "softmax"), weights],
      [sign("×"), v, sign("="), z, ...writes],
    ],
    focus: "scores",
    item: key.stack,
    row: (place) => looks.row(place),
  });
}

/** The projection of what the head mixed. */
function headWrites(reader, z) {
  const { page, query, head, heads, layer, out } = reader;
  const stem = `${reader.at}.${layer.name}`;
  const { shape, values } = page.tensor(`${stem}.W_O`);
  const [, w, width] = shape;
  const weight = (of, j, stream) => values[(of * w + j) * width + stream];
  const columns = { kind: "stream", count: width, first: 0 };
  const figure = (id, title, rows, at, more) => {
    return { id, title, rows, columns, at, limit: matrixLimit(rows.count, width, at), ...more };
  };
  const own = (row, column) => weight(head, row, column);
  const projection = figure("o", "W_O", { kind: "width", count: w, first: 0 }, own);
  projection.explain = (place) => {
    const name = reader.cellName("W_O", projection, place);
    return plainCell(name, valueAt(projection, place), "A learned weight of this head.");
  };
  const mixed = new Float32Array(query.count * width);
  for (let row = 0; row < query.count; row++) {
    for (let j = 0; j < w; j++) {
      const factor = z.at(row, j);
      for (let column = 0; column < width; column++) {
        mixed[row * width + column] += factor * own(j, column);
      }
    }
  }
  const at = (row, column) => mixed[row * width + column];
  const writes = figure("writes", "this head writes", query, at, { bare: true });
  writes.explain = (place) => {
    const { stream } = place;
    const terms = indices(w).map((j) =>
      product(`feature ${j}`, z.at(place.query, j), own(j, stream)),
    );
    const mixes = indices(heads).map((each) => page.matrix(z.tensor, each).at);
    const parts = mixes.map((mix, of) =>
      indices(w).reduce((sum, j) => sum + mix(j, place.query) * weight(of, j, stream), 0),
    );
    let text = `all heads: ${parts.map((value) => number(value, 2)).join(" + ")}`;
    if (page.has(`${stem}.b_O`)) {
      parts.push(page.tensor(`${stem}.b_O`).values[stream]);
      text += ` + bias ${number(parts.at(-1), 2)}`;
    }
    const all = { text, result: parts.reduce((sum, value) => sum + value, 0) };
    const normed = page.config.norm_position === "sandwich";
    if (page.has(out) && !normed) {
      Object.assign(all, { stored: page.matrix(out).at(stream, place.query), tensor: out });
    }
    return {
      name: reader.cellName("writes", writes, place),
      lines: [{ text: `= ${sumText(terms)}`, result: sumOf(terms) }, all],
      terms,
      what: "Mix × W_O of each feature",
      notes: normed ? ["A norm changes this sum before the stream takes it up."] : [],
    };
  };
  return [sign("×"), projection, sign("="), writes];
}

/** The slope of a head (core/model/positions.py). */
function alibiSlope(head, heads) {
  const power = 2 ** Math.floor(Math.log2(heads));
  return head < power
    ? 2 ** ((-8 * (head + 1)) / power)
    : 2 ** ((-4 * (2 * (head - power) + 1)) / power);
}

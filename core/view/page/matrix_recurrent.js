// Recurrent and convolutional layers as matrices.

import { diverging, tint } from "./colours.js";
import { table } from "./controls.js";
import { clamp, count, div, el, fixed, number } from "./dom.js";
import { Looks } from "./matrix_attention.js";
import { indices, sign, storedLine, valueAt } from "./matrix_reader.js";

const STATE_PARTS = {
  gate_i: "input gate i",
  gate_f: "forget gate f",
  gate_g: "candidate g",
  gate_r: "reset gate r",
  gate_z: "update gate z",
  gate_n: "candidate n",
  gate_o: "output gate o",
  cell: "cell c",
  state: "state h",
};
const RECURRENCES = {
  lstm: "c[t] = f × c[t−1] + i × g,  h[t] = o × tanh(c[t])",
  gru: "h[t] = (1 − z) × n + z × h[t−1]",
  rnn: "h[t] = tanh(W x[t] + U h[t−1] + b)",
};

/** A recurrence, which may be a GRU with attention over its states. */
export function recurrence(reader) {
  const { here, query } = reader;
  const attends = reader.layer.name === "attn";
  const noun = attends ? "GRU with attention" : "Recurrence";
  if (!reader.has("state")) return reader.missing(noun);
  const figures = Object.entries(STATE_PARTS)
    .filter(([part]) => reader.has(part))
    .map(([part, title]) => reader.figure(part, title, here + part, query, "stream"));
  const parts = Object.fromEntries(figures.map((figure) => [figure.id, figure]));
  const kind = parts.cell ? "lstm" : parts.gate_z ? "gru" : "rnn";
  for (const figure of figures) {
    figure.explain = (place) => explainState(reader, kind, parts, figure, place);
  }
  const half = figures.length > 4 ? Math.ceil(figures.length / 2) : figures.length;
  const own = {
    formula: RECURRENCES[kind],
    notes: [
      "Each position is a row; the recurrence goes down the rows, feature by feature.",
      kind === "gru" &&
        "The reset gate r acts within the candidate: n = tanh(W x + r × (U h[t−1] + b)).",
    ],
    lines: [figures.slice(0, half), figures.slice(half)].filter((line) => line.length),
    focus: "state",
    extra: (place) => featureOverTime(reader, figures, place),
  };
  const looks = attends && reader.has("q", "k", "attn_scores", "pattern", "z");
  return reader.form(noun, looks ? withAttention(reader, own, parts.state) : own);
}

/** One step of the recurrence, for one feature. */
function explainState(reader, kind, parts, figure, place) {
  const { query: t, stream: j } = place;
  const { first } = reader.query;
  const position = t + first;
  const of = Object.fromEntries(
    Object.keys(parts).map((id) => [id.replace("gate_", ""), parts[id].at(t, j)]),
  );
  const held = t > 0 || !first; // whether the page has the state before
  const before = (id) => (t > 0 ? parts[id].at(t - 1, j) : 0);
  const past = position ? `[${position - 1}]` : "[−1]";
  const lines = [];
  const notes = [];
  if (!held) notes.push("The state before this position is not in this page.");
  else if (t === 0) notes.push("Before position 0 the state is 0.");
  const line = (id, text, result) => lines.push(storedLine(text, result, parts[id], place));
  const [i, f, g, o] = [of.i, of.f, of.g, of.o].map((value) => number(value));
  if (kind === "lstm") {
    if (held) {
      const old = before("cell");
      const text = `c[${position}] = f × c${past} + i × g = ${f} × ${number(old)} + ${i} × ${g}`;
      line("cell", text, of.f * old + of.i * of.g);
    }
    const text = `h[${position}] = o × tanh(c[${position}]) = ${o} × tanh(${number(of.cell)})`;
    line("state", text, of.o * Math.tanh(of.cell));
  } else if (kind === "gru" && held) {
    const old = before("state");
    const rest = `${number(1 - of.z)} × ${number(of.n)} + ${number(of.z)} × ${number(old)}`;
    const text = `h[${position}] = (1 − z) × n + z × h${past} = ${rest}`;
    line("state", text, (1 - of.z) * of.n + of.z * old);
  } else if (kind === "rnn") {
    const text = `h[${position}] = tanh(W x[${position}] + U h${past} + b)`;
    lines.push({ text, result: of.state });
    if (held) notes.push(`In this feature h${past} = ${number(before("state"))}.`);
    notes.push("W, U and b are not in this page, so the state is read, not computed.");
  }
  if (figure.id.startsWith("gate")) {
    const value = number(valueAt(figure, place), 4);
    notes.push(`${figure.title} = ${value}; its weights are not in this page.`);
  }
  return { name: `${reader.word(reader.query, t)}, feature ${j}`, lines, notes };
}

/** The gates and states of one feature over time, around the selected position. */
function featureOverTime(reader, figures, { query, stream }) {
  const { query: axis, labels } = reader;
  const start = clamp(query - 4, 0, Math.max(0, axis.count - 9));
  const rows = indices(Math.min(9, axis.count)).map((i) => {
    const place = start + i + axis.first;
    const values = figures.map(({ at }) => fixed(at(start + i, stream)));
    return [place, labels.chipAt(place, axis.stack, 16), ...values];
  });
  const kind = (i) => start + i === query && "is-query";
  const names = figures.map(({ title }) => [title.split(" ").at(-1), "number"]);
  const node = table([["t", "number"], [""], ...names], rows, { class: "mx-trace" }, { kind });
  [...node.tBodies[0].rows].forEach((row, i) => {
    figures.forEach(({ at }, each) => {
      tint(row.cells[each + 2], diverging(0.8 * at(start + i, stream)));
    });
  });
  return [el("h3", { text: `Feature ${stream} over time` }), div("scroll", node)];
}

/** The form of a GRU with attention over its states. */
function withAttention(reader, form, states) {
  const { here, query, key } = reader;
  const looks = new Looks(reader);
  const input = (id, rows, of) =>
    reader.figure(id, id, here + id, rows, "width", {
      note: `Computed from the state of the ${of}.`,
    });
  const [q, k] = [input("q", query, "query"), input("k", key, "key")];
  const z = reader.figure("mix", "mix of states", `${here}z`, query, "stream");
  z.explain = (place) => looks.explainMix(place, states, z);
  looks.scores.explain = (place) => {
    const name = reader.cellName("score", looks.scores, place);
    const masked = looks.maskedCell(name, place, Number.NEGATIVE_INFINITY);
    if (masked) return masked;
    const terms = indices(q.columns.count).map((j) => {
      const [a, b] = [q.at(place.query, j), k.at(place.key, j)];
      const text = `tanh(${number(a, 2)} + ${number(b, 2)})`;
      return { label: `feature ${j}`, text, value: Math.tanh(a + b) };
    });
    const notes = [
      "Each tanh below is multiplied by a learned number of v. v is not in this page, so the score is read, not computed.",
    ];
    const lines = [{ text: "= v · tanh(q + k)", result: valueAt(looks.scores, place) }];
    return { name, lines, terms, what: "tanh(q + k) of each feature", notes };
  };
  const { scores, weights } = looks;
  const note = "Computed from the state and the mix by a matrix that is not in this page.";
  const writes = reader.written(sign("→", "[h, mix] W_O"), "the layer writes", "output", note);
  return {
    ...form,
    formula: `${form.formula},  score = v · tanh(q[t] + k[s])`,
    notes: [
      ...form.notes,
      "Hatched cells are masked: a query sees its own state and earlier ones.",
    ],
    lines: [
      ...form.lines,
      [q, sign("+"), k, sign("→", "v · tanh"), scores, sign("→", "softmax"), weights],
      [sign("×", "states h"), sign("="), z, ...writes],
    ],
    focus: "scores",
    item: key.stack,
    row: (place) => looks.row(place),
  };
}

export function convolution(reader) {
  const { page, here, query } = reader;
  if (!reader.has("value", "gate", "post")) return reader.missing("Convolution");
  const { kernel } = page.config;
  const dilation = dilationOf(page.config, reader.block);
  const taps = (at) => indices(kernel).map((j) => at - j * dilation);
  const [value, gate, post] = ["value", "gate", "post"].map((part) =>
    reader.figure(part, part, here + part, query, "stream"),
  );
  post.title = "value × gate";
  const explain = (place) => {
    const { query: t, stream: j } = place;
    const [a, b] = [value.at(t, j), gate.at(t, j)];
    const words = taps(t).map((at) => (at + query.first < 0 ? "zeros" : reader.word(query, at)));
    const text = `= value × gate = ${number(a)} × ${number(b)}`;
    return {
      name: `${reader.word(query, t)}, feature ${j}`,
      lines: [storedLine(text, a * b, post, place)],
      notes: [
        `Value and gate are computed from: ${words.join(", ")}. Their weights are not in this page.`,
      ],
    };
  };
  for (const figure of [value, gate, post]) figure.explain = explain;
  const note = "Computed from value × gate by a matrix that is not in this page.";
  const writes = reader.written(sign("→", "output projection"), "the layer writes", "output", note);
  const field = page.data.architecture.receptive_field;
  const x = `x[t − ${dilation === 1 ? "" : dilation}j]`;
  return reader.form("Convolution", {
    formula: `value = tanh(Σ_j W_j ${x}),  gate = σ(Σ_j U_j ${x})`,
    aside: `j = 0 … ${kernel - 1}`,
    notes: [
      `A position reads ${kernel} positions, ${dilation} apart (dilation ${dilation}): its own and earlier ones. Places before position 0 count as zeros.`,
      field && `All blocks together see ${count(field)} positions.`,
    ],
    lines: [[value, sign("⊙"), gate, sign("="), post], writes].filter((line) => line.length),
    focus: "post",
    item: query.stack,
    taps,
  });
}

/** The dilation of a block (core/model/conv.py). */
function dilationOf({ kernel, context }, block) {
  let cycle = 1;
  while (kernel > 1 && (kernel - 1) * (2 ** cycle - 1) < context - 1) cycle += 1;
  return 2 ** (block % cycle);
}

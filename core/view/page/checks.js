// What is exact and what is not: recomputed sums, and the precision of every stored tensor.

import { table } from "./controls.js";
import { count, div, el, fixed, number } from "./dom.js";

const TYPES = { f16: "16-bit float", f32: "32-bit float", i8: "8-bit integer, a scale a row" };

export function mountChecks(root, page) {
  root.append(
    el(
      "div",
      { class: "card" },
      el("h2", { text: "What this page holds" }),
      el(
        "ul",
        {},
        page.data.left_out.map((sentence) => el("li", { text: sentence })),
      ),
    ),
    el(
      "div",
      { class: "card checks-card" },
      el("h2", { text: "Recomputed here" }),
      el("p", {
        class: "quiet",
        text: "This page computes each of these from the values it holds when the panel opens.",
      }),
      wide(["what", "largest difference", "over"], recomputed(page)),
    ),
    el(
      "div",
      { class: "card checks-card" },
      el("h2", { text: "Tensors" }),
      el("p", {
        class: "quiet",
        text:
          "The largest error is against the values of the model, in 32-bit floats; what is " +
          "computed here is as far off as the tensors that it comes from make it.",
      }),
      wide(["name", "shape", "held as", "largest error", "largest value"], records(page)),
    ),
  );
  return () => {};
}

function wide(heads, rows) {
  const kind = (head, at) => (/^(largest|over)/.test(head) ? "number" : at ? null : "mono");
  const columns = heads.map((head, at) => [head, kind(head, at)]);
  return div("scroll", table(columns, rows));
}

/** Rows of what can be computed in two ways: softmax rows, scores from queries and keys. */
function recomputed(page) {
  const rows = [];
  for (const name of Object.keys(page.data.tensors)) {
    if (!page.has(name)) continue;
    if (name.endsWith(".hook_pattern")) {
      rows.push([`rows of ${name} sum to 1`, ...difference(rowSums(page, name), 1)]);
    }
    if (name.endsWith(".hook_attn_scores")) {
      const found = products(page, name);
      if (found) rows.push([`Q·K of ${name}`, ...found]);
    }
  }
  rows.push(["probabilities of the next id sum to 1", ...lastSum(page)]);
  return rows;
}

function difference(values, target) {
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value - target)), 0);
  return [number(largest, 2), count(values.length)];
}

/** The sums of the rows of a pattern; with what earlier positions have where they are left out. */
function rowSums(page, name) {
  const { shape, values } = page.tensor(name);
  const earlier = page.has(`${name}_earlier`) ? page.tensor(`${name}_earlier`).values : null;
  const sums = [];
  for (let row = 0; row < shape[0] * shape[1]; row++) {
    let sum = earlier ? earlier[row] : 0;
    for (let i = 0; i < shape[2]; i++) sum += values[row * shape[2] + i];
    sums.push(sum);
  }
  return sums;
}

/** Stored scores against q · k / √w; null where they are computed here or have a bias. */
function products(page, name) {
  const stem = name.slice(0, -"attn_scores".length);
  const [asks, reads] = [`${stem}rot_q`, `${stem}rot_k`];
  const biased = page.config.positions === "alibi" && !name.includes("cross");
  if (page.record(name).recipe || biased || !page.has(asks) || !page.has(reads)) return null;
  const [queries, keys, scores] = [asks, reads, name].map((each) => page.tensor(each));
  const [asked, heads, width] = queries.shape;
  const [read, groups] = keys.shape;
  let largest = 0;
  let compared = 0;
  for (let head = 0; head < heads; head++) {
    const group = Math.floor((head * groups) / heads);
    for (let i = 0; i < asked; i++) {
      for (let j = 0; j < read; j++) {
        const stored = scores.values[(head * asked + i) * read + j];
        if (!Number.isFinite(stored)) continue;
        let sum = 0;
        for (let d = 0; d < width; d++) {
          const q = queries.values[(i * heads + head) * width + d];
          sum += q * keys.values[(j * groups + group) * width + d];
        }
        largest = Math.max(largest, Math.abs(sum / Math.sqrt(width) - stored));
        compared += 1;
      }
    }
  }
  return [number(largest, 2), count(compared)];
}

function lastSum(page) {
  const { values } = page.tensor("last_logits");
  const largest = values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const total = values.reduce((sum, value) => sum + Math.exp(value - largest), 0);
  const sum = values.reduce((sum, value) => sum + Math.exp(value - largest) / total, 0);
  return difference([sum], 1);
}

function records(page) {
  return Object.entries(page.data.tensors).map(([name, record]) => [
    name,
    record.shape.join(" × ") + (record.kept ? ` of ${count(record.of)}` : ""),
    held(page, name, record),
    record.error === 0 ? "0" : number(record.error, 2),
    fixed(record.largest, 3),
  ]);
}

function held(page, name, record) {
  if (record.same) return `the same as ${record.same}`;
  if (record.recipe) {
    const of = record.recipe.of.map((each) => each.split(".hook_").at(-1)).join(", ");
    return page.has(name) ? `computed: ${record.recipe.op} of ${of}` : "left out";
  }
  return TYPES[record.type];
}

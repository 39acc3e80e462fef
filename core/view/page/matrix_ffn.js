// Feed-forward layers as matrices; the activation function with the hidden units on it.

import { bar, linearScale, linePath } from "./charts.js";
import { tone } from "./colours.js";
import { table } from "./controls.js";
import { canvas, count, el, number } from "./dom.js";
import { indices, sign, storedLine } from "./matrix_reader.js";
import { ACTIVATIONS } from "./tensors.js";

const WRITTEN = { gelu: "gelu", glu: "sigmoid", geglu: "gelu", swiglu: "silu" };

/** An activation function applied to a name or number, written out. */
function activation(kind, x) {
  if (kind === "bilinear") return x;
  if (WRITTEN[kind]) return `${WRITTEN[kind]}(${x})`;
  return `max(0, ${x})${kind === "relu2" ? "²" : ""}`;
}

export function feedForward(reader) {
  const { page, here, query } = reader;
  const { ffn, gated, norm_position } = page.config;
  if (!reader.has("pre", "post")) return reader.missing("Feed-forward");
  const norms = norm_position === "post" ? ["ln_cross", "ln1"] : ["ln2"];
  const read = norms.map((norm) => `${reader.at}.${norm}.hook_normalized`).find((x) => page.has(x));
  const hidden = (id, title, part) => reader.figure(id, title, here + part, query, "hidden");
  const pre = hidden("pre", gated ? "hidden, gate" : "hidden", "pre");
  const post = hidden("post", "activation", "post");
  const linear = reader.has("pre_linear") && hidden("linear", "hidden, linear", "pre_linear");
  const explain = (place) => {
    const [before, times] = [pre, linear || null].map((each) =>
      each?.at(place.query, place.hidden),
    );
    const activated = ACTIVATIONS[ffn](before);
    const words = `${number(activated)} × ${number(times)}`;
    return {
      name: `${reader.word(post.columns, place.hidden)} at ${reader.word(query, place.query)}`,
      lines: [
        storedLine(
          `= ${activation(ffn, number(before))}${linear ? ` × ${number(times)} = ${words}` : ""}`,
          linear ? activated * times : activated,
          post,
          place,
        ),
      ],
    };
  };
  for (const figure of [pre, post, linear]) if (figure) figure.explain = explain;
  const x = { note: "What the layer reads." };
  const first = read
    ? [reader.figure("x", "x, normalised", read, query, "stream", x), sign("→", "× W_up")]
    : [];
  const writes = reader.written(
    sign("→", "× W_down"),
    "feed-forward writes",
    "writes",
    "A sum over all hidden units. W_down is not in this page.",
  );
  const { kept, of } = page.record(`${here}post`);
  return reader.form("Feed-forward", {
    formula: linear
      ? `(${activation(ffn, "x W_gate")} ⊙ x W_linear) W_down`
      : `${activation(ffn, "x W_up")} W_down`,
    notes: [
      kept &&
        `Of ${count(of)} hidden units this page has the ${count(kept.length)} with the largest activations.`,
      linear && "The activation of the gate is multiplied by the linear half.",
    ],
    lines: [
      [...first, pre],
      [...(linear ? [sign("×"), linear, sign("=")] : [sign("→", ffn)]), post, ...writes],
    ],
    focus: "post",
    extra: (place, choose) => {
      const units = indices(post.columns.count).map((at) => ({
        at,
        unit: kept ? kept[at] : at,
        pre: pre.at(place.query, at),
        linear: linear ? linear.at(place.query, at) : null,
        post: post.at(place.query, at),
      }));
      const text = `A dot for each of ${count(units.length)} units; the ring is the selected one.`;
      const onChoose = (at) => choose("post", [place.query, at]);
      return [
        el("h3", { text: `Largest hidden units at ${reader.word(query, place.query)}` }),
        largestUnits(units, place.hidden, onChoose),
        el("h3", { text: `Activation function: ${ffn}` }),
        activationCurve(ffn, units, place.hidden),
        el("p", { class: "quiet", text }),
      ];
    },
  });
}

function largestUnits(units, chosen, choose) {
  const size = ({ post }) => Math.abs(post);
  const largest = [...units].sort((a, b) => size(b) - size(a)).slice(0, 10);
  const most = Math.max(size(largest[0]), 1e-9);
  const linear = largest[0].linear !== null;
  const rows = largest.map((each) => {
    const text = each.unit;
    const button = el("button", { class: "mx-unit", text, onclick: () => choose(each.at) });
    const shown = linear ? [each.pre, each.linear, each.post] : [each.pre, each.post];
    const filled = bar(size(each) / most, each.post < 0 ? "" : "is-positive");
    return [button, ...shown.map((value) => number(value)), filled];
  });
  const columns = ["unit", "before", ...(linear ? ["linear"] : []), "after"].map((head, at) => [
    head,
    at ? "number" : null,
  ]);
  const kind = (at) => largest[at].at === chosen && "is-query";
  return table([...columns, ["", "mx-bars"]], rows, { class: "mx-terms" }, { kind });
}

function activationCurve(ffn, units, chosen) {
  const activate = ACTIVATIONS[ffn];
  const [width, height] = [300, 150];
  const low = Math.min(-1, ...units.map(({ pre }) => pre));
  const high = Math.max(1, ...units.map(({ pre }) => pre));
  const label = `${ffn} from ${number(low, 2)} to ${number(high, 2)}, with the hidden units on it`;
  const node = canvas(width, height, { role: "img", "aria-label": label });
  const context = node.getContext("2d");
  const steps = indices(121).map((i) => low + ((high - low) * i) / 120);
  const values = steps.map(activate);
  const [bottom, top] = [Math.min(0, ...values), Math.max(...values, 0.1)];
  const x = linearScale(low, high, 8, width - 8);
  const y = linearScale(bottom, top, height - 18, 16);
  const dot = (pre, radius) => {
    context.beginPath();
    context.arc(x(pre), y(activate(pre)), radius, 0, 2 * Math.PI);
  };
  context.strokeStyle = tone("--line");
  context.stroke(new Path2D(`M${x(low)} ${y(0)}H${x(high)}M${x(0)} ${y(bottom)}V${y(top)}`));
  context.strokeStyle = tone("--quiet");
  context.lineWidth = 1.5;
  context.stroke(new Path2D(linePath(steps.map((step, i) => [x(step), y(values[i])]))));
  context.fillStyle = tone("--warm");
  context.globalAlpha = 0.35;
  for (const { pre } of units) {
    dot(pre, 2.2);
    context.fill();
  }
  context.globalAlpha = 1;
  context.strokeStyle = tone("--text");
  context.lineWidth = 2;
  dot(units[chosen].pre, 5.5);
  context.stroke();
  context.fillStyle = tone("--quiet");
  context.font = "11px system-ui, sans-serif";
  context.fillText(number(low, 2), 4, height - 4);
  context.textAlign = "right";
  context.fillText(number(high, 2), width - 4, height - 4);
  context.fillText(number(top, 2), width - 4, 11);
  return node;
}

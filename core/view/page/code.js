// Architecture and pseudo code: what the model is made of, and each line that it computes.

import { bar } from "./charts.js";
import { picture } from "./colours.js";
import { folded, table } from "./controls.js";
import { count, div, el, svg } from "./dom.js";
import { where } from "./state.js";

const NAMES = {
  attention: "attention",
  conv: "convolution",
  rnn: "RNN",
  gru: "GRU",
  lstm: "LSTM",
  "attention-rnn": "RNN with attention",
};
const NORMS = { rmsnorm: "RMSNorm", layernorm: "LayerNorm", none: "no norm" };
const FFN = { relu2: "ReLU²", relu: "ReLU", gelu: "GELU", glu: "GLU", swiglu: "SwiGLU" };
const POSITIONS = {
  rope: "rotary positions (RoPE)",
  sinusoidal: "sinusoidal positions",
  learned: "learned positions",
  alibi: "positions by a bias of scores (ALiBi)",
  none: "no positions",
};

export function mountCode(root, page, state, labels) {
  const listing = new Listing(page, state);
  root.append(
    el(
      "div",
      { class: "code-columns" },
      el("div", { class: "code-side" }, diagrams(page, state), parameters(page, labels)),
      listing.root,
    ),
  );
  return (selection) => {
    listing.show(selection);
    for (const node of root.querySelectorAll(".node")) {
      const { stack, block, part } = node.dataset;
      const chosen =
        stack === selection.stack && Number(block) === selection.block && part === selection.part;
      node.classList.toggle("is-chosen", chosen);
    }
  };
}

// -- pseudo code ---------------------------------------------------------------------------------

class Listing {
  constructor(page, state) {
    this.page = page;
    this.state = state;
    this.current = null;
    this.caption = el("div", { class: "card code-caption", "aria-live": "polite" });
    this.rows = page.data.architecture.code.map((line, number) => this.#row(line, number));
    this.root = el(
      "div",
      { class: "code-main" },
      this.caption,
      el("ol", { class: "card listing", "aria-label": "pseudo code" }, this.rows),
    );
  }

  #row(line, number) {
    const step = line.tensors.length > 0;
    return el(
      "li",
      {
        class: "line",
        tabindex: step ? "0" : undefined,
        onclick: step ? () => this.#go(number) : undefined,
        onkeydown: (event) => {
          if (step && (event.key === "Enter" || event.key === " ")) {
            event.preventDefault();
            this.#go(number);
          }
        },
      },
      el("code", { class: "line-text", text: line.text }),
      el("span", { class: "line-shape", text: line.shape.replaceAll(" x ", " × ") }),
    );
  }

  /** Goes to the step of a line, in the selected block if the line is of its loop. */
  #go(number) {
    const steps = this.page.data.walk;
    const { stack, block } = this.state.selection;
    const own = steps.findIndex(
      (step) =>
        step.line === number && step.block === block && step.tensors[0].startsWith(`${stack}.`),
    );
    const step = own >= 0 ? own : steps.findIndex((each) => each.line === number);
    this.state.set({ step, ...where(steps[step]), tensor: null });
  }

  show(selection) {
    const step = this.page.data.walk[selection.step];
    this.rows.forEach((row, number) => {
      row.classList.toggle("is-current", number === step.line);
      if (number === step.line) row.setAttribute("aria-current", "step");
      else row.removeAttribute("aria-current");
    });
    if (this.current !== step.line) {
      this.current = step.line;
      this.rows[step.line].scrollIntoView({ block: "nearest" });
    }
    this.caption.replaceChildren(
      el(
        "div",
        { class: "code-head" },
        el("h2", { text: step.title }),
        el("span", {
          class: "quiet",
          text: `step ${selection.step + 1} of ${this.page.data.walk.length}`,
        }),
        el("button", { text: "Previous", onclick: () => this.state.walk(-1) }),
        el("button", { text: "Next", onclick: () => this.state.walk(1) }),
        el("button", { text: "In 3D", onclick: () => this.state.set({ tab: "space" }) }),
      ),
      el("p", { class: "caption", text: step.caption }),
      el("div", { class: "code-pictures" }, this.#pictures(step, selection)),
    );
  }

  /** The tensors of a step as pictures: of the selected head where there are heads. */
  #pictures(step, selection) {
    return step.tensors
      .filter((name) => this.page.has(name))
      .slice(0, 6)
      .map((name) => {
        const { shape } = this.page.tensor(name);
        const heads = /(attn_scores|pattern)$/.test(name) ? shape[0] : shape[1];
        const head = shape.length === 3 ? Math.min(selection.head, heads - 1) : null;
        const matrix = this.page.matrix(name, head);
        const image = picture(matrix, matrix.limit);
        const scale = Math.min(6, 220 / matrix.columns, 96 / matrix.rows);
        image.style.width = `${Math.max(8, matrix.columns * scale)}px`;
        image.style.height = `${Math.max(8, matrix.rows * scale)}px`;
        image.classList.add("code-picture");
        const of = head === null ? "" : `, head ${head}`;
        return el(
          "figure",
          {},
          image,
          el("figcaption", { text: `${name}${of}, ${shape.join(" × ")}` }),
        );
      });
  }
}

// -- the diagram ---------------------------------------------------------------------------------

const WIDTH = 190;
const ROW = 34;

/** A diagram of each stack, side by side. */
function diagrams(page, state) {
  const stacks = page.config.encoder_layers ? ["encoder", "blocks"] : ["blocks"];
  return el(
    "div",
    { class: "card code-diagram" },
    el("h2", { text: summary(page) }),
    el(
      "div",
      { class: "code-stacks" },
      stacks.map((stack) => diagram(page, state, stack)),
    ),
  );
}

function summary({ config, data }) {
  const words = [`${config.layers} blocks of width ${config.width}`];
  if (config.encoder_layers) words.unshift(`${config.encoder_layers} encoder blocks`);
  words.push(`context ${count(config.context)}`, `vocabulary ${count(config.vocab_size)}`);
  const field = data.architecture.receptive_field;
  if (field) words.push(`a position depends on the last ${count(field)}`);
  return words.join(", ");
}

/** One stack from bottom (ids) to top (logits); blocks that are alike are drawn once. */
function diagram(page, state, stack) {
  const { config } = page;
  const blocks = stack === "encoder" ? config.encoder_layers : config.layers;
  const names = config.mixers.split(",");
  const mixer = (block) => (stack === "encoder" ? "attention" : names[block % names.length]);
  const nodes = [];
  const add = (text, kind, at = {}) => nodes.push({ text, kind, ...at });
  add(stack === "encoder" ? "source ids" : "ids", "end");
  add("embedding", "plain");
  if (["learned", "sinusoidal"].includes(config.positions)) {
    add(POSITIONS[config.positions], "plain");
  }
  let block = 0;
  while (block < blocks) {
    let last = block;
    while (last + 1 < blocks && mixer(last + 1) === mixer(block)) last += 1;
    const within = state.selection.stack === stack ? state.selection.block : block;
    const shown = within >= block && within <= last ? within : block;
    const start = nodes.length;
    const rotates = config.positions === "rope" && mixer(block) === "attention";
    layer(
      add,
      config,
      `${NAMES[mixer(block)] ?? mixer(block)}${rotates ? ", RoPE" : config.positions === "alibi" ? ", ALiBi" : ""}`,
      { stack, block: shown, part: "mixer" },
    );
    if (stack === "blocks" && config.encoder_layers) {
      layer(add, config, "cross-attention", { stack, block: shown, part: "cross" });
    }
    if (config.ffn !== "none") {
      const kind = FFN[config.ffn] ?? config.ffn;
      layer(add, config, `feed-forward, ${kind}`, { stack, block: shown, part: "ffn" });
    }
    nodes.push({ kind: "loop", start, text: `× ${last - block + 1}` });
    block = last + 1;
  }
  if (config.norm_position !== "post") add(NORMS[config.norm], "norm");
  if (stack === "blocks") {
    add(`${config.tied ? "head (the embedding)" : "head"}, softmax`, "plain");
    add("next id", "end");
  } else add("read by cross-attention", "end");
  return drawn(nodes, state);
}

function layer(add, config, text, at) {
  const norm = NORMS[config.norm];
  if (config.norm_position !== "post" && config.norm !== "none") add(norm, "norm", at);
  add(text, at.part, { ...at, branch: true });
  if (config.norm_position === "sandwich") add(norm, "norm", at);
  if (config.residual) add("+", "plus", { ...at, pre: config.norm_position !== "post" });
  if (config.norm_position === "post" && config.norm !== "none") add(norm, "norm", at);
}

function drawn(nodes, state) {
  const rows = nodes.filter((node) => node.kind !== "loop");
  const height = rows.length * ROW + 16;
  const middle = WIDTH / 2 + 10;
  const y = (number) => height - 8 - (number + 0.5) * ROW;
  const root = svg("svg", {
    class: "diagram",
    viewBox: `0 0 ${WIDTH + 60} ${height}`,
    role: "img",
  });
  root.style.maxWidth = `${WIDTH + 60}px`;
  const title = rows.map((node) => node.text).join(", then ");
  root.append(svg("title", {}, `From below: ${title}`));
  let row = -1;
  const rowOf = nodes.map((node) => (node.kind === "loop" ? row : ++row));
  nodes.forEach((node, number) => {
    if (node.kind !== "loop") return;
    const top = y(rowOf[number]) - ROW / 2 + 3;
    const bottom = y(rowOf[node.start]) + ROW / 2 - 1;
    const frame = { x: 6, y: top, width: WIDTH + 8, height: bottom - top, rx: 10 };
    root.append(
      svg("rect", { class: "loop", ...frame }),
      svg("text", { class: "times", x: WIDTH + 20, y: (top + bottom) / 2 }, node.text),
    );
  });
  root.append(
    svg("line", { class: "wire", x1: middle, x2: middle, y1: y(0) - 10, y2: y(row) + 10 }),
  );
  let from = null; // where the stream leaves for the sum
  rows.forEach((node, number) => {
    if (node.kind === "plus") {
      const side = middle + WIDTH / 2 - 12;
      const bend = `M ${middle} ${from} H ${side} V ${y(number)} H ${middle + 9}`;
      root.append(svg("path", { class: "wire", d: bend }));
    }
    const next = rows[number + 1];
    if (next && !sameLayer(node, next)) from = y(number) - ROW / 2;
  });
  root.append(...rows.map((node, number) => box(node, y(number), middle, state)));
  return root;
}

function sameLayer(one, other) {
  return one.part === other.part && one.block === other.block && one.part !== undefined;
}

function box(node, y, middle, state) {
  const choose = node.part ? () => state.set(pick(node)) : null;
  const group = svg("g", { class: `node ${node.kind}` });
  if (choose) {
    Object.assign(group.dataset, { stack: node.stack, block: node.block, part: node.part });
    group.addEventListener("click", choose);
  }
  if (node.kind === "plus") {
    group.append(svg("circle", { cx: middle, cy: y, r: 9 }));
  } else if (node.kind !== "end") {
    const width = node.kind === "norm" ? 96 : WIDTH - 34;
    group.append(svg("rect", { x: middle - width / 2, y: y - 11, width, height: 22, rx: 6 }));
  }
  group.append(svg("text", { x: middle, y: y + 4 }, node.text));
  return group;
}

function pick({ stack, block, part }) {
  return { stack, block, part };
}

// -- parameters ----------------------------------------------------------------------------------

function parameters(page, labels) {
  const { parts } = page.data.architecture;
  const total = parts.reduce((sum, part) => sum + part.parameters, 0);
  const largest = Math.max(...parts.map((part) => part.parameters));
  const rows = parts.map((part) => {
    const [, stack, block] = /^(blocks|encoder)\.(\d+)$/.exec(part.name) ?? [];
    const name = stack ? labels.block(stack, block) : part.name;
    return [name, count(part.parameters), bar(part.parameters / largest)];
  });
  // every field of the config, for the curious
  const settings = Object.entries(page.config).map(([name, value]) => [
    el("span", { class: "mono", text: name }),
    String(value),
  ]);
  const fill = (body) => body.replaceChildren(table([["", "name"], [""]], settings));
  return div(
    "card",
    el("h2", { text: `${count(total)} parameters` }),
    table(
      [
        ["", "name"],
        ["", "number"],
        ["", "bar-cell"],
      ],
      rows,
    ),
    folded("every setting", fill),
  );
}

// Heads of attention, or what a model has in their place: gates over time.

import { colourRun, linePlot } from "./charts.js";
import { isDark, picture, sequential, tint } from "./colours.js";
import { choice } from "./controls.js";
import { canvas, count, div, el, fixed, number, percent } from "./dom.js";
import { flowCard } from "./flow_lens.js";
import { FlowStrip } from "./flow_stream.js";
import { mean } from "./tensors.js";

const TILE_SIZE = 68; // CSS pixels of the longer side of a head's pattern
const GATE_NAMES = { i: "input", f: "forget", o: "output", r: "reset", z: "update" };

const ofRoot = (weight) => sequential(Math.sqrt(Math.max(0, weight)));

export class FlowHeads {
  constructor(context) {
    this.context = context;
    this.mode = "entropy";
    this.layers = context.page.data.flow.flatMap((row) =>
      row.layers.filter((layer) => layer.entropy).map((layer) => ({ row, layer })),
    );
    const attends = this.layers.length > 0;
    const about = attends
      ? "One tile a head. Low entropy: it reads few positions; high: it reads all alike. A small distance: it reads what is near. Look for heads that differ from the rest of their row."
      : this.#withoutAttention();
    this.root = flowCard(attends ? "Attention heads" : "Over time", about);
    if (attends) this.#tiles();
    this.#gates();
  }

  #withoutAttention() {
    const { config, data } = this.context.page;
    const field = data.architecture.receptive_field;
    const mixers = config.mixers.split(",");
    const words = [
      "This model has no attention.",
      mixers.includes("conv") && "Its convolutions read a fixed number of earlier positions.",
      mixers.some((mixer) => /rnn|gru|lstm/.test(mixer)) &&
        "Its recurrent layers carry a state from each position to the next.",
      field === null
        ? "A prediction can depend on all positions before it."
        : `A prediction depends on the last ${count(field)} positions.`,
    ];
    return words.filter(Boolean).join(" ");
  }

  #name({ row, layer, head }) {
    const cross = layer.part === "cross" ? " cross-attention" : "";
    return `${this.context.labels.block(row.stack, row.block)}${cross}, head ${head}`;
  }

  #tiles() {
    const { page, labels } = this.context;
    const { first, total } = page.positions();
    const earlier = first ? ` This page has those of the last ${total - first} positions.` : "";
    this.legend = el("span", { class: "colour-run" });
    this.plots = div("flow-heads-plots");
    this.tiles = [];
    const waiting = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        waiting.unobserve(target);
        this.#later(() => this.#paint(this.tiles.filter((tile) => target.contains(tile.node))));
      }
    });
    const lines = this.layers.map(({ row, layer }) => {
      const tiles = layer.entropy.map((_, head) => this.#tile(row, layer, head));
      this.tiles.push(...tiles);
      const nodes = tiles.map(({ node }) => node);
      const kind = el("span", { class: "flow-heads-kind", text: "cross-attention" });
      const line = div(
        "flow-heads-line",
        el(
          "span",
          { class: "flow-heads-name" },
          el("strong", { text: labels.block(row.stack, row.block) }),
          layer.part === "cross" ? kind : null,
        ),
        div("flow-heads-tiles", nodes),
      );
      waiting.observe(line);
      return line;
    });
    this.farthest = Math.max(...this.tiles.map((tile) => tile.distance ?? 0)) || 1;
    const options = { entropy: "entropy", distance: "distance" };
    const change = (mode) => {
      this.mode = mode;
      this.#shade();
    };
    const patterns = "Patterns: a row a query, a column a key; shade: square root of the weight.";
    this.root.append(
      div(
        "flow-controls",
        choice("what the colour shows", options, this.mode, change),
        this.legend,
        el("span", { class: "quiet", text: patterns + earlier }),
      ),
      div("flow-heads", div("flow-heads-lines", lines), this.plots),
    );
  }

  /** Runs one task after another, and lets the page answer between them. */
  #later(task) {
    const wait = () => new Promise((done) => setTimeout(done));
    this.last = (this.last ?? Promise.resolve()).then(wait).then(task);
  }

  /** How many keys a query sees. */
  #sees({ row, layer }, query) {
    const { config, data } = this.context.page;
    if (layer.part === "cross" || row.stack === "encoder") return data.input.source.length;
    const mixers = config.mixers.split(",");
    const window = mixers[row.block % mixers.length] === "attention" ? config.window : 0;
    return Math.min(query + 1, window || query + 1);
  }

  #tile(row, layer, head) {
    const shares = layer.entropy[head].map((value, query) => {
      const keys = this.#sees({ row, layer }, query);
      return keys > 1 ? value / Math.log(keys) : null;
    });
    const share = mean(shares);
    const distance = layer.distance ? mean(layer.distance[head]) : null;
    const [strong, weak, pattern] = ["value", "other", "pattern"].map((name) =>
      el("span", { class: `flow-head-${name}` }),
    );
    const words = [this.#name({ row, layer, head }), `entropy ${percent(share)} of its most`];
    if (distance !== null) words.push(`mean distance ${number(distance)}`);
    const title = words.join(", ");
    const of = { stack: row.stack, block: row.block, part: layer.part, head };
    const onclick = () => this.context.state.set(of);
    const node = el(
      "button",
      { class: "flow-head", "aria-label": title, title, onclick },
      pattern,
      el("span", { class: "flow-head-name", text: `head ${head}` }),
      strong,
      weak,
    );
    return { node, row, layer, head, share, distance, strong, weak, pattern, choice: of };
  }

  /** Draws the patterns of tiles. */
  #paint(tiles) {
    const { page } = this.context;
    for (const { row, layer, head, pattern } of tiles) {
      const name = `${row.stack}.${row.block}.${layer.name}.hook_pattern`;
      if (!page.has(name)) {
        pattern.replaceChildren(el("small", { text: "pattern left out" }));
        continue;
      }
      const matrix = page.matrix(name, head);
      const image = picture(matrix, 1, ofRoot);
      const scale = TILE_SIZE / Math.max(matrix.columns, matrix.rows);
      const size = [matrix.columns, matrix.rows].map((length) => Math.max(6, length * scale));
      const shown = canvas(...size, { "aria-hidden": "true" });
      const context = shown.getContext("2d");
      context.imageSmoothingEnabled = scale < 1;
      context.imageSmoothingQuality = "high";
      context.drawImage(image, 0, 0, ...size);
      pattern.replaceChildren(shown);
    }
  }

  #shade() {
    const byEntropy = this.mode === "entropy";
    for (const { share, distance, strong, weak } of this.tiles) {
      const entropy = percent(share);
      const away = number(distance, 2);
      tint(strong, sequential((byEntropy ? share : distance / this.farthest) ?? 0));
      strong.textContent = byEntropy ? entropy : away;
      weak.textContent = byEntropy ? `distance ${away}` : `entropy ${entropy}`;
    }
    const ends = byEntropy
      ? ["one position", "all alike"]
      : ["0", `${number(this.farthest)} positions away`];
    this.legend.replaceChildren(...colourRun(...ends, sequential));
  }

  /** Gates of recurrent and convolutional layers, averaged over their units. */
  #gates() {
    const { page, labels } = this.context;
    const rows = page.data.flow.flatMap(({ stack, block, layers: [{ name }] }) => {
      const stem = `${stack}.${block}.${name}.hook_gate`;
      const gates = Object.entries(GATE_NAMES).map(([gate, text]) => [`${stem}_${gate}`, text]);
      if (name === "conv") gates.push([stem, "gate"]);
      return gates
        .filter(([tensor]) => page.has(tensor))
        .map(([tensor, text]) => ({
          name: `${labels.block(stack, block)}, ${text}`,
          choice: { stack, block, part: "mixer" },
          values: this.#meanGate(tensor, stack),
        }));
    });
    if (rows.length) {
      this.gates = new FlowStrip(this.context, "mean gates by position");
      this.gates.set(rows, sequential, (value) => `mean ${fixed(value, 3)}`);
      this.gateLegend = el("span", { class: "colour-run" });
      this.root.append(
        el("h3", { text: "Gates, averaged over their units" }),
        el("p", { class: "flow-about", text: gateWords(rows) }),
        div("flow-controls", this.gateLegend),
        this.gates.root,
      );
    } else if (page.data.flow.some(({ layers }) => /^(rnn|conv)$/.test(layers[0].name))) {
      const plain = page.config.mixers.split(",").every((mixer) => mixer === "rnn");
      const text = plain
        ? "Plain recurrent layers have no gates."
        : "The tensors of the gates were left out of this page.";
      this.root.append(el("p", { class: "quiet", text }));
    }
  }

  /** The mean of a gate at each position; null at those that the page does not have. */
  #meanGate(tensor, stack) {
    const { page } = this.context;
    const { shape, values } = page.tensor(tensor);
    const { first, total } = page.positions(stack);
    return Array.from({ length: total }, (_, place) => {
      const start = (place - first) * shape[1];
      return start < 0 ? null : mean(values.subarray(start, start + shape[1]));
    });
  }

  show(selection) {
    const dark = isDark();
    if (dark !== this.dark) {
      if (this.tiles) this.#shade();
      if (this.tiles && this.dark !== undefined) {
        this.#later(() => this.#paint(this.tiles.filter((tile) => tile.pattern.firstChild)));
      }
      this.gateLegend?.replaceChildren(...colourRun("0 closed", "1 open", sequential));
    }
    this.dark = dark;
    this.gates?.show(selection);
    if (this.tiles) this.#choose(selection);
  }

  #choose({ stack, block, part, head, query }) {
    const here = this.tiles.filter(({ row }) => row.stack === stack && row.block === block);
    const own = here.filter(({ layer }) => layer.part === part);
    const chosen = (own.length ? own : here).find((tile) => tile.head === head) ?? here[0];
    for (const { node } of this.tiles) {
      node.classList.toggle("is-chosen", node === chosen?.node);
      node.setAttribute("aria-pressed", node === chosen?.node);
    }
    const width = this.context.space(this.plots);
    const key = [stack, block, chosen?.layer.part, chosen?.head, query, width].join();
    if (key === this.drawn) return;
    this.drawn = key;
    if (chosen) this.#draw(chosen, query, width);
    else {
      const text = `${this.context.labels.block(stack, block)} has no attention.`;
      this.plots.replaceChildren(el("p", { class: "quiet", text }));
    }
  }

  /** Entropy and distance of a head by position, and what they would be if it read all alike. */
  #draw(tile, query, width) {
    const { row, layer, head } = tile;
    const { state, labels } = this.context;
    const [entropy, distance] = [layer.entropy[head], layer.distance?.[head]];
    const most = entropy.map((_, at) => Math.log(this.#sees(tile, at)));
    const away = entropy.map((_, at) => {
      const sees = this.#sees(tile, at);
      if (row.stack !== "encoder") return (sees - 1) / 2;
      return mean(Array.from({ length: sees }, (_, key) => Math.abs(key - at)));
    });
    const plot = (title, values, reference, note) => {
      const lines = [
        { values, kind: "is-main" },
        { values: reference, kind: "is-reference" },
      ];
      const drawn = linePlot({
        label: `${title} by position`,
        ...{ width, height: 140, lines, at: query },
        most: Math.max(...values, ...reference) || 1,
        say: (value) => fixed(value),
        pick: (at) => state.set({ ...tile.choice, query: at }),
      });
      const caption = [el("span", { text: title }), el("span", { class: "quiet", text: note })];
      return el("figure", {}, el("figcaption", {}, caption), drawn);
    };
    const words = [`entropy ${fixed(entropy[query], 3)} nats`];
    if (distance) words.push(`mean distance ${fixed(distance[query])}`);
    const place = labels.position(query, row.stack);
    const none = "Keys are positions of the source, so there is no distance.";
    this.plots.replaceChildren(
      el("h3", { text: this.#name(tile) }),
      el("p", { class: "flow-said", text: `Position ${place}: ${words.join(", ")}` }),
      plot("Entropy (nats)", entropy, most, "dashed: the most it can be"),
      distance
        ? plot("Mean distance (positions)", distance, away, "dashed: if it read all alike")
        : el("p", { class: "quiet", text: none }),
    );
  }
}

function gateWords(rows) {
  const has = (gate) => rows.some(({ name }) => name.endsWith(`, ${gate}`));
  if (has("forget")) {
    return "Near 1 a gate is open. Open forget gates keep the cell; look for positions where they close.";
  }
  if (has("update")) {
    return "Near 1 the update gate keeps the state as it was; near 0 it writes the new one.";
  }
  return "Near 1 a gate lets its value pass; near 0 it holds it back.";
}

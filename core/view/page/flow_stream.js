// The residual stream: norms of it and of what layers write into it.

import { colourRun, labelStep, linearScale, plotText, rulesTo } from "./charts.js";
import { css, diverging, ink, isDark, sequential, tone } from "./colours.js";
import { choice, folded, revealAcross, table } from "./controls.js";
import { canvas, clamp, div, el, fixed, number, resize, svg } from "./dom.js";
import { outlineAt } from "./flow_item.js";
import { flowCard } from "./flow_lens.js";
import { largeSize } from "./tensors.js";

const STRIP_ROW = 22; // CSS pixels of a row of a strip
const SHORT_LAYERS = { "cross-attention": "cross", "feed-forward": "ffn", convolution: "conv" };

/**
 * Rows of values over positions as shades. rows: [{ name, choice, values }], choice: what of the
 * selection a click in the row sets, beside its position.
 */
export class FlowStrip {
  constructor(context, label) {
    this.context = context;
    this.names = div("flow-strip-names");
    this.plot = canvas(10, 10, { role: "img", "aria-label": label });
    this.outline = el("i", { class: "flow-outline" });
    this.said = el("p", { class: "flow-said" });
    this.frame = el(
      "div",
      {
        class: "flow-strip-frame",
        onpointermove: (event) => this.#say(this.#at(event)),
        onpointerleave: () => this.#say(null),
        onclick: (event) => this.#pick(event),
      },
      this.plot,
      this.outline,
    );
    this.window = el("div", { class: "flow-strip-window", tabindex: "-1" }, this.frame);
    this.root = el("div", {}, div("flow-strip", this.names, this.window), this.said);
  }

  /** colour: of a value; say: its text. */
  set(rows, colour, say) {
    Object.assign(this, { rows, colour, say, drawn: null });
    this.length = Math.max(...rows.map(({ values }) => values.length));
    this.context.spaces.delete(this.window);
    const name = ({ name: text }) => el("span", { class: "flow-strip-name", text });
    this.names.replaceChildren(...rows.map(name));
  }

  #at(event) {
    const box = this.frame.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / STRIP_ROW);
    const place = Math.floor((event.clientX - box.left) / this.wide);
    return this.rows[row]?.values[place] === undefined ? null : { row, place };
  }

  #pick(event) {
    const at = this.#at(event);
    if (at) this.context.state.set({ ...this.rows[at.row].choice, query: at.place });
  }

  #say(at) {
    const { row, place } = at ?? this.chosen ?? {};
    const { name, values, choice: of } = this.rows[row] ?? {};
    this.said.textContent = values
      ? `${name}, position ${this.context.labels.position(place, of.stack)}: ${this.say(values[place])}`
      : "";
  }

  show(selection) {
    const space = this.context.space(this.window);
    this.wide = clamp((space - 5) / this.length, 2, 44);
    const key = [space, isDark()].join();
    if (key !== this.drawn) this.#draw();
    this.drawn = key;
    const finds = (loose) =>
      this.rows.findIndex(({ choice: of }) =>
        Object.keys(of).every((name) => selection[name] === of[name] || name === loose),
      );
    const row = finds(null) < 0 ? finds("part") : finds(null);
    this.chosen = row < 0 ? null : { row, place: selection.query };
    this.outline.hidden = row < 0;
    if (row >= 0) {
      const left = selection.query * this.wide;
      const box = [left - 1, row * STRIP_ROW - 1, Math.max(this.wide, 4), STRIP_ROW];
      outlineAt(this.outline, box, 1);
      if (this.length * this.wide > space) revealAcross(this.window, left, this.wide, space);
    }
    [...this.names.children].forEach((name, each) => {
      name.classList.toggle("is-chosen", each === row);
    });
    this.#say(null);
  }

  #draw() {
    const { rows, wide, length } = this;
    const context = resize(this.plot, length * wide + 1, rows.length * STRIP_ROW + 18);
    const [gap, more] = wide > 9 ? [1, 0] : [0, 0.5];
    context.textAlign = "center";
    context.font = "10.5px system-ui, sans-serif";
    rows.forEach(({ values }, row) => {
      values.forEach((value, place) => {
        if (value === null) return;
        const colour = this.colour(value);
        context.fillStyle = css(colour);
        context.fillRect(place * wide, row * STRIP_ROW, wide - gap + more, STRIP_ROW - 1);
        if (wide < 36) return;
        context.fillStyle = ink(colour);
        context.fillText(number(value, 2), (place + 0.5) * wide, row * STRIP_ROW + 14);
      });
    });
    context.fillStyle = tone("--quiet");
    context.font = "11px system-ui, sans-serif";
    for (let place = 0; place < length; place += labelStep(wide, 60)) {
      const middle = (place + 0.5) * wide;
      context.textAlign = middle < 8 ? "left" : "center";
      context.fillText(
        place,
        middle < 8 ? Math.max(0, middle) : middle,
        rows.length * STRIP_ROW + 13,
      );
    }
  }
}

/** Norms at a position as a diagram and a table; at every position as a strip. */
export class FlowStream {
  constructor(context) {
    this.context = context;
    const { page } = context;
    this.mode = "stream";
    const all = page.data.flow.flatMap(({ layers }) => layers);
    const parts = ["mixer", "cross", "ffn"].filter((part) =>
      all.some((layer) => layer.part === part),
    );
    const written = (part) => {
      const own = all.filter((layer) => layer.part === part);
      return [...new Set(own.map((layer) => context.labels.layer(layer)))].join(" or ");
    };
    this.parts = new Map(parts.map((part) => [part, written(part)]));
    this.title = el("h3");
    this.plot = div("scroll");
    this.legend = el("span", { class: "colour-run" });
    this.strip = new FlowStrip(context, "values by block and position; the text below has them");
    this.table = folded("These numbers as a table", (body) => this.#table(body), {
      class: "flow-numbers",
    });
    const options = { stream: "stream" };
    for (const [part, name] of this.parts) options[`norm.${part}`] = `${name} writes`;
    for (const [part, name] of this.parts) options[`cosine.${part}`] = `cosine of ${name}`;
    const change = (mode) => {
      this.mode = mode;
      this.#fill();
      this.strip.show(context.state.selection);
    };
    const { residual, norm_position: norms } = page.config;
    const about = residual
      ? `Each layer adds what it writes to the stream${norms === "post" ? ", and a norm follows" : ""}. A cosine above 0 strengthens what the stream holds; one below 0 erases some of it. Look for layers that write much, or against the stream.`
      : "This model has no residual stream: what a layer writes takes the place of what it reads. The cosine compares the two.";
    this.root = flowCard(
      residual ? "The residual stream" : "From layer to layer",
      about,
      this.title,
      this.plot,
      this.table,
      el("h3", { text: "At every position" }),
      div("flow-controls", choice("what the strip shows", options, this.mode, change), this.legend),
      this.strip.root,
    );
    this.#fill();
  }

  #fill() {
    const [kind, part] = this.mode.split(".");
    const { page, labels } = this.context;
    const rows = page.data.flow.flatMap(({ stack, block, stream, layers }) => {
      const layer = layers.find((each) => each.part === part);
      const values = kind === "stream" ? stream : layer?.[kind];
      const of = { stack, block, ...(part ? { part } : {}) };
      return values ? [{ name: labels.block(stack, block), choice: of, values }] : [];
    });
    const values = rows.flatMap((row) => row.values);
    const limit = largeSize(values, 0.98) || largeSize(values, 1) || 1;
    const signed = kind === "cosine";
    const scale = signed ? diverging : sequential;
    this.strip.set(
      rows,
      (value) => scale(value / limit),
      (value) => `${signed ? "cosine" : "norm"} ${signed ? fixed(value, 3) : number(value, 4)}`,
    );
    this.run = signed
      ? [`−${fixed(limit)} erases`, `+${fixed(limit)} strengthens`, scale, -1]
      : ["0", `${number(limit)} or more`, scale];
    this.legend.replaceChildren(...colourRun(...this.run));
  }

  show(selection) {
    const { stack, block, part, query } = selection;
    const space = this.context.space(this.plot);
    const key = [stack, block, part, query, space, isDark()].join();
    if (key !== this.drawn) {
      this.drawn = key;
      this.selection = selection;
      const of = stack === "encoder" ? " of the source" : "";
      this.title.textContent = `At position ${this.context.labels.position(query, stack)}${of}`;
      this.plot.replaceChildren(this.#diagram(selection));
      const { width, left, wide } = this.band;
      if (width > space) revealAcross(this.plot, left, wide, space);
      if (this.table.open) this.#table(this.table.lastChild);
      this.legend.replaceChildren(...colourRun(...this.run));
    }
    this.strip.show(selection);
  }

  #table(body) {
    const { stack, query } = this.selection;
    const heads = [...this.parts.values()].flatMap((name) => [`${name} (norm)`, "cosine"]);
    const columns = ["stream (norm)", ...heads].map((head) => [head, "number"]);
    const rows = this.context.rows(stack).map(({ block, stream, layers }) => [
      this.context.labels.block(stack, block),
      number(stream[query], 4),
      ...[...this.parts.keys()].flatMap((part) => {
        const layer = layers.find((each) => each.part === part);
        return layer ? [number(layer.norm[query], 4), fixed(layer.cosine[query], 3)] : ["", ""];
      }),
    ]);
    body.className = "scroll";
    body.replaceChildren(table([["block", "name"], ...columns], rows));
  }

  /** The norm that leaves the last block, where the page has its tensor; else null. */
  #out(stack, query) {
    const { page } = this.context;
    const name = `${stack}.${this.context.rows(stack).length - 1}.hook_resid_post`;
    if (!page.has(name)) return null;
    const { rows, at } = page.matrix(name);
    const column = query - page.positions(stack).first;
    let sum = 0;
    for (let row = 0; row < rows; row++) sum += at(row, column) ** 2;
    return Math.sqrt(sum);
  }

  #diagram({ stack, block, part, query }) {
    const rows = this.context.rows(stack);
    const out = this.#out(stack, query);
    const slots = rows[0].layers.length + 1;
    const [left, top, base, outer] = [48, 22, 172, 64];
    const height = base + 108;
    const space = this.context.space(this.plot) - left - outer;
    const wide = clamp(space / rows.length, 58 * slots, 104 * slots);
    const width = left + wide * rows.length + outer;
    const norms = rows.flatMap((row) => [
      row.stream[query],
      ...row.layers.map((layer) => layer.norm[query]),
    ]);
    const most = Math.max(...norms, out ?? 0) || 1;
    const y = linearScale(0, most, base, top);
    const zero = base + 44;
    const half = (wide - 8) / slots / 2;
    const [spine, back] = [svg("polyline", { class: "flow-spine" }), svg("g")];
    const label = `norms and cosines at position ${query}, block after block; the table below has them`;
    const viewBox = `0 0 ${width} ${height}`;
    const node = svg(
      "svg",
      { class: "flow-diagram", width, height, viewBox, role: "img", "aria-label": label },
      ...rulesTo(most, y, left, width - 8),
      plotText("norm", left - 6, top - 9, "end"),
      plotText("cosine", left - 6, zero + 4, "end"),
      svg("line", { class: "plot-rule", x1: left, x2: width - outer, y1: zero, y2: zero }),
      back,
      spine,
    );
    const points = [];
    const bar = (x, value, name) => {
      points.push(`${x.toFixed(1)},${y(value).toFixed(1)}`);
      const size = { x: x - 8, y: y(value), width: 16, height: Math.max(0.5, base - y(value)) };
      node.append(
        svg("rect", { class: "flow-stream-bar", ...size, rx: 2 }),
        plotText(number(value), x, y(value) - 7, "middle", "is-value"),
        plotText(name, x, base + 14, "middle"),
      );
    };
    this.band = { left: left + block * wide, wide, width };
    rows.forEach((row, order) => {
      const from = left + order * wide;
      const slot = (at) => from + 4 + half * (2 * at + 1);
      const chosen = row.block === block ? "is-chosen" : "";
      const size = { x: from + 2, y: 4, width: wide - 4, height: height - 6, rx: 6 };
      const name = this.context.labels.block(stack, row.block);
      back.append(svg("rect", { class: `flow-band ${chosen}`, ...size }));
      node.append(plotText(name, from + wide / 2, height - 8, "middle", chosen ? "is-strong" : ""));
      bar(slot(0), row.stream[query], order ? "" : "stream");
      row.layers.forEach((layer, at) => {
        const choose = { stack, block: row.block, part: layer.part };
        const group = svg("g", {
          class: `flow-writes is-${layer.part} ${layer.part === part ? chosen : ""}`,
          onclick: () => this.context.state.set(choose),
        });
        const area = { x: slot(at + 1) - half, y: 6, width: 2 * half, height: height - 30 };
        group.append(svg("rect", { class: "flow-hit", ...area }));
        group.append(...this.#writes(layer, query, slot(at + 1), y, base, zero));
        node.append(group);
      });
    });
    if (out !== null) bar(left + rows.length * wide + 30, out, "leaves");
    spine.setAttribute("points", points.join(" "));
    return node;
  }

  /** What a layer writes: its norm as a mark on a stem, its cosine as a bar above or below zero. */
  #writes(layer, query, x, yOf, base, zero) {
    const [norm, cosine] = [layer.norm[query], layer.cosine[query]];
    const y = yOf(norm);
    const to = zero - 22 * (cosine ?? 0);
    const name = this.context.labels.layer(layer);
    const marks = {
      mixer: ["circle", { cx: x, cy: y, r: 5.5 }],
      cross: ["path", { d: `M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z` }],
      ffn: ["rect", { x: x - 5, y: y - 5, width: 10, height: 10, rx: 1 }],
    };
    const [tag, shape] = marks[layer.part];
    const words = `${cosine > 0 ? "+" : ""}${fixed(cosine)}`;
    const under = cosine < 0 ? to + 13 : zero + 13;
    const fill = css(diverging(Math.sign(cosine) * (0.45 + 0.55 * Math.abs(cosine))));
    const size = { y: Math.min(zero, to), height: Math.max(1, Math.abs(zero - to)) };
    return [
      svg("title", {}, `${name}: norm ${number(norm, 4)}, cosine ${fixed(cosine, 3)}`),
      svg("line", { class: "flow-stem", x1: x, x2: x, y1: base, y2: y }),
      svg(tag, { class: "flow-mark", ...shape }),
      plotText(number(norm), x, y - 10, "middle", "is-value"),
      plotText(SHORT_LAYERS[name] ?? name, x, base + 14, "middle", "is-layer"),
      svg("rect", { fill, x: x - 8, width: 16, ...size }),
      plotText(words, x, under, "middle", "is-value"),
    ];
  }
}

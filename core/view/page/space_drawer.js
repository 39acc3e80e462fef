// The drawer of the 3D walk: what is selected, how exact it is, and its values in a table.

import { css, ink, shade } from "./colours.js";
import { el, fixed, number } from "./dom.js";
import { clamped, tokenAt } from "./space_scene.js";

const TABLE_SIZE = 12; // rows and columns
const STORED = {
  f32: "Stored as 32-bit floats",
  f16: "Stored as 16-bit floats",
  i8: "Stored as 8-bit integers with a scale a row",
};

/** A strip of colours with the values of its two ends. colour: of −1 (or, of weights, 0) to 1. */
export function colourStrip(from, to, colour = shade, low = -1) {
  const bar = el("span", { class: "space-gradient" });
  const stops = Array.from({ length: 11 }, (_, i) => css(colour(low + ((1 - low) * i) / 10)));
  bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  const ends = [from, to].map((text) => el("span", { text }));
  return el("div", { class: "space-legend" }, ends[0], bar, ends[1]);
}

/** How a tensor is stored and how much of it is left out, in words. */
function exactness(page, slab) {
  if (!slab.there) return "This tensor is left out of this page.";
  const own = page.record(slab.tensor);
  let record = own;
  while (record.same) record = page.record(record.same);
  const { recipe, type, error } = record;
  const how = recipe ? `Computed by this page from ${recipe.of.join(", ")}` : STORED[type];
  const facts = [error ? `${how}; the largest error is ${number(error, 2)}.` : `${how}, exactly.`];
  if (own.same) facts.unshift(`The same as ${own.same}.`);
  if (own.kept?.length < own.of) {
    facts.push(`${own.kept.length} of ${own.of} ${slab.axes.rows} are kept.`);
  }
  const { first, total } = page.positions(slab.columnStack);
  if (first) facts.push(`Positions ${first} to ${total - 1} are kept.`);
  return facts.join(" ");
}

export class Drawer {
  /** actions: { pick(slab, cell), choose(name), resized() } */
  constructor(page, labels, scene, actions) {
    Object.assign(this, { page, labels, scene, actions });
    this.toggle = el("button", {
      class: "space-toggle",
      "aria-expanded": "false",
      "aria-controls": "space-values",
      text: "Values",
      onclick: () => this.open(true),
    });
    this.names = el("select", {
      "aria-label": "tensor",
      onchange: () => actions.choose(this.names.value),
    });
    const close = el("button", {
      "aria-label": "Close",
      text: "×",
      onclick: () => this.open(false),
    });
    this.body = el("div", { class: "space-body" });
    this.node = el(
      "aside",
      { id: "space-values", class: "space-drawer", "aria-label": "Values", hidden: true },
      el("div", { class: "space-drawer-head" }, this.names, close),
      this.body,
    );
  }

  open(isOpen) {
    this.node.hidden = !isOpen;
    this.toggle.hidden = isOpen;
    this.toggle.setAttribute("aria-expanded", isOpen);
    this.node.parentElement.classList.toggle("has-drawer", isOpen);
    this.actions.resized();
  }

  /** Shows a slab and a cell of it. theme: anything that differs between themes. */
  show(slab, cell, theme) {
    const key = [slab.tensor, slab.head, cell.row, cell.column, theme].join();
    if (this.node.hidden || key === this.key) return;
    this.key = key;
    this.#choices(slab);
    const { columns, rows } = slab.axes;
    const facts = [`${columns} × ${rows}: ${slab.columns} × ${slab.rows}`];
    if (slab.head !== null) facts.push(`head ${slab.head} of ${this.scene.of(slab.tensor).length}`);
    const record = this.page.record(slab.tensor);
    if (record) facts.push(`whole tensor: ${record.shape.join(" × ")}`);
    this.body.replaceChildren(
      el("code", { class: "space-name", text: slab.tensor }),
      el("p", { class: "quiet", text: facts.join(" · ") }),
      el("p", { class: "quiet", text: exactness(this.page, slab) }),
      ...(slab.there ? this.#values(slab, cell) : []),
    );
    this.body.querySelector(".is-cell")?.scrollIntoView({ block: "nearest", inline: "center" });
  }

  *#values(slab, cell) {
    yield el(
      "p",
      { class: "space-cell" },
      el("span", { text: slab.cellName(cell, this.labels) }),
      el("b", { text: slab.cellValue(cell) }),
    );
    yield el(
      "div",
      { class: "space-fields" },
      this.#field(slab, cell, "column", slab.columns),
      this.#field(slab, cell, "row", slab.rows),
    );
    yield el("div", { class: "space-scroll", tabindex: "0" }, this.#table(slab, cell));
    const { limit, kind } = slab.values;
    const isWeight = kind === "weights";
    const low = isWeight ? "0" : number(-limit, 2);
    yield colourStrip(low, number(limit, 2), (share) => slab.colour(share * limit), isWeight - 1);
    if (isWeight) {
      const text = "The colour of a weight is that of its square root, so that small ones show.";
      yield el("p", { class: "quiet", text });
    }
  }

  /** The tensors of the slab's block, or of what stands outside of blocks. */
  #choices({ tensor, stack, block }) {
    const own = this.scene.slabs.filter((each) => each.stack === stack && each.block === block);
    const names = [...new Set(own.map((each) => each.tensor))];
    if (names.join() !== this.listed) {
      this.listed = names.join();
      const short = (name) => name.replace(/^(blocks|encoder)\.\d+\./, "").replace("hook_", "");
      const option = (name) => `${this.scene.of(name)[0].label} (${short(name)})`;
      this.names.replaceChildren(
        ...names.map((name) => el("option", { value: name, text: option(name) })),
      );
    }
    this.names.value = tensor;
  }

  /** A field to go to a row or a column by the keyboard. */
  #field(slab, cell, kind, count) {
    const input = el("input", {
      type: "number",
      min: 0,
      max: count - 1,
      value: cell[kind],
      onchange: () => {
        const chosen = clamped(Math.round(input.value) || 0, 0, count - 1);
        this.actions.pick(slab, { ...cell, [kind]: chosen });
      },
    });
    return el("label", { class: "selector" }, el("span", { text: slab.axes[kind] }), input);
  }

  #table(slab, cell) {
    const range = (at, least, most) => {
      const first = Math.max(least, Math.min(at - TABLE_SIZE / 2, most - TABLE_SIZE));
      return Array.from({ length: Math.min(TABLE_SIZE, most - least) }, (_, i) => first + i);
    };
    const columns = range(cell.column, slab.firstColumn, slab.columns);
    const kept = slab.keptRows;
    const rows = kept
      ? range(kept.indexOf(cell.row), 0, kept.length).map((at) => kept[at])
      : range(cell.row, slab.firstRow, slab.rows);
    const { labels } = this;
    const token = (stack, at) => [
      labels.chip(...tokenAt(labels, stack, at), 16),
      el("small", { text: `${at}` }),
    ];
    const names = columns.map((column) => {
      const title = labels.position(column, slab.columnStack);
      return el("th", { scope: "col", class: "number", title }, ...token(slab.columnStack, column));
    });
    const value = (row, column) => {
      const number = slab.values.at(row, column);
      const isLine = row === cell.row || column === cell.column;
      const isCell = row === cell.row && column === cell.column;
      const node = el("td", {
        class: `number${isCell ? " is-cell" : isLine ? " is-line" : ""}`,
        text: fixed(number),
        onclick: () => this.actions.pick(slab, { row, column }),
      });
      if (Number.isFinite(number)) {
        const colour = slab.colour(number);
        node.style.backgroundColor = css(colour);
        node.style.color = ink(colour);
      }
      return node;
    };
    const line = (row) => {
      const name = slab.byQuery
        ? token(slab.stack, row)
        : [el("bdi", { text: slab.rowName(row, labels) })];
      const cells = columns.map((column) => value(row, column));
      return el("tr", {}, el("th", { scope: "row" }, ...name), cells);
    };
    const corner = el("th", { scope: "col", class: "quiet", text: slab.axes.row });
    return el(
      "table",
      { class: "space-table" },
      el("caption", { text: `${slab.label}: values around the selected cell` }),
      el("thead", {}, el("tr", {}, corner, names)),
      el("tbody", {}, rows.map(line)),
    );
  }
}

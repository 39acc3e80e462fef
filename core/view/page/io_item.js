// What the model read, each token shaded by its loss: as text, as a picture, as a series.

import { Chart, linearScale, linePath, nearestOf, plotText, roundTicks, rules } from "./charts.js";
import { css, ink, LOSS_SHADES, lossColour, tint, tone } from "./colours.js";
import { choice, keepKey, placeAfterKey } from "./controls.js";
import { div, el, fixed, number, resize, svg } from "./dom.js";
import { PictureCells } from "./item.js";
import { draw, visible } from "./labels.js";
import { mean } from "./tensors.js";

const PICTURE_SIZE = 280;

export function shadeByLoss(node, loss) {
  tint(node, loss === null ? null : lossColour(loss));
}

/** Tokens as running text, as bytes with their hexadecimal form, or as chips. */
export class TokenInput {
  constructor(page, state, labels, facts) {
    Object.assign(this, { page, state, labels, facts });
    this.bytes = labels.domain.task === "byte";
    this.prose = labels.domain.form === "text" && !this.bytes && !this.#isOfLetters();
    this.kind = this.prose ? "io-prose" : this.bytes ? "io-bytes" : "io-chips";
    this.items = [];
    this.lists = [];
    this.node = div("io-input");
    const { answer, end, input } = facts;
    if (input.source) {
      const own = facts.own ? " (the model's own answer)" : "";
      this.#list("encoder", "Source, read by the encoder", 0, input.source.length);
      this.#list("blocks", `Target, read by the decoder${own}`, 0, end);
    } else if (answer > 1 && answer < end) {
      this.#list("blocks", facts.names[0], 0, answer);
      this.#list("blocks", facts.names[1], answer, end);
    } else this.#list("blocks", null, 0, end);
  }

  /** Whether the item is given letters and their answer, which are no running text. */
  #isOfLetters() {
    const { ids, source, given } = this.facts.input;
    const names = [...ids, ...(source ?? [])].map((id) => this.labels.text(id));
    return given > 1 && names.every((name) => name.length === 1 || /^<\w+>$/.test(name));
  }

  #list(stack, name, from, to) {
    const list = div(`io-tokens ${this.kind}`);
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", name ?? "tokens");
    const items = [];
    for (let place = from; place < to; place++) {
      const item = this.#token(stack, place);
      items.push(item);
      list.append(item);
      if (this.bytes && this.#label(stack, place) === "\n") list.append(el("br"));
    }
    if (stack === "blocks") this.items.push(...items);
    if (name) this.node.append(el("h3", { text: name }));
    this.node.append(list);
    this.lists.push({ list, items, stack, from });
  }

  #id(stack, place) {
    return stack === "encoder" ? this.facts.input.source[place] : this.facts.id(place);
  }

  #label(stack, place) {
    return this.page.data.labels[String(this.#id(stack, place))];
  }

  #token(stack, place) {
    const { facts, labels } = this;
    const { total, first } = this.page.positions(stack);
    const isTarget = stack === "blocks";
    const isHeld = place >= first;
    const words = isTarget ? facts.title(place) : labels.position(place, stack);
    const kinds = {
      "is-special": /^<\w+>$/.test(this.#label(stack, place)),
      "is-ahead": isTarget && place === total,
      "is-unknown": isTarget && facts.loss(place) === null,
    };
    const item = el(
      "span",
      {
        class: ["io-token", ...Object.keys(kinds).filter((kind) => kinds[kind])].join(" "),
        role: "option",
        title: isHeld ? words : `${words}; its tensors are left out of this page`,
        "aria-label": words,
        "aria-disabled": isHeld ? null : "true",
      },
      this.#content(stack, place),
    );
    if (!isHeld) return item;
    const own = Math.min(place, total - 1);
    item.addEventListener("click", () => this.state.choose(stack, own));
    item.addEventListener("keydown", (event) => {
      const isEnter = event.key === "Enter" || event.key === " ";
      const to = isEnter ? own : placeAfterKey(event.key, place, first, total - 1);
      if (to === null) return;
      keepKey(event);
      this.state.choose(stack, to);
    });
    return item;
  }

  #content(stack, place) {
    const { labels } = this;
    const id = this.#id(stack, place);
    const label = this.#label(stack, place);
    if (this.bytes) {
      const text = labels.text(id);
      const glyph = el("bdi", { class: text.length > 2 ? "token is-long" : "token", text });
      return [glyph, el("span", { class: "hex", text: labels.detail(id) ?? "–" })];
    }
    if (!this.prose || label === undefined) {
      return [labels.chip(id, stack === "encoder" ? null : place)];
    }
    return label.split(/(\n)/).flatMap((piece) => {
      if (piece === "\n") return [el("span", { class: "io-break", text: "⏎" }), "\n"];
      const [, before, middle, behind] = /^( *)(.*?)( *)$/su.exec(piece);
      return [before + visible(middle) + behind];
    });
  }

  shade() {
    this.items.forEach((item, place) => {
      shadeByLoss(item, this.facts.loss(place));
    });
  }

  show(selection) {
    const focused = this.node.contains(document.activeElement);
    for (const { list, items, stack, from } of this.lists) {
      const at = selection.stack === stack ? selection.query - from : -1;
      const stop = items[at] ? at : items.findIndex((item) => item.ariaDisabled !== "true");
      items.forEach((item, number) => {
        item.setAttribute("aria-selected", number === at);
        item.tabIndex = number === stop ? 0 : -1;
      });
      if (!items[at]) continue;
      bringIntoView(list, items[at]);
      if (focused) items[at].focus({ preventScroll: true });
    }
  }
}

/** Scrolls a list, and nothing around it, so that an item of it is seen. */
function bringIntoView(list, item) {
  const outer = list.getBoundingClientRect();
  const inner = item.getBoundingClientRect();
  if (inner.top < outer.top) list.scrollTop += inner.top - outer.top - 8;
  else if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom + 8;
}

/** An item whose sequence the encoder and the decoder may share. */
class DrawnInput {
  constructor(page, state, labels, facts) {
    Object.assign(this, { page, state, labels, facts, domain: labels.domain });
    this.readout = el("p", { class: "io-readout", role: "status" });
  }

  /** Where a selection is in the item's sequence. */
  at({ stack, query }) {
    return stack === "encoder" ? query : query + this.labels.offset;
  }

  /** Selects a place of the item's sequence. */
  choose(at) {
    const place = at - this.labels.offset;
    if (place < 0) this.state.choose("encoder", at);
    else this.state.choose("blocks", place);
  }

  /** The loss of a place of the item's sequence. */
  loss(at) {
    return this.facts.loss(at - this.labels.offset) ?? null;
  }
}

/** The picture, its loss, or both: then the area of a square in each patch is its loss. */
export class PictureInput extends DrawnInput {
  constructor(...given) {
    super(...given);
    const { domain } = this;
    this.mode = "both";
    this.cells = new PictureCells(domain, PICTURE_SIZE);
    this.picture = draw(domain.pixels, domain.height, domain.width, domain.channels, PICTURE_SIZE);
    this.overlay = el("canvas", { class: "io-overlay" });
    const pad = el(
      "div",
      {
        class: "io-picture",
        role: "img",
        tabindex: "0",
        "aria-label": `A picture of ${domain.rows} × ${domain.columns} patches, in the order in which they are read. The arrow keys select one; its loss stands beside it.`,
        onclick: (event) => this.#pick(event),
        onkeydown: (event) => this.#key(event),
      },
      this.picture,
      this.overlay,
    );
    this.others = this.#others();
    const modes = { picture: "picture", loss: "loss", both: "both" };
    const change = (mode) => {
      this.mode = mode;
      this.#paint(this.state.selection);
    };
    this.node = div(
      "io-input io-beside",
      pad,
      div(
        "",
        choice("Show", modes, this.mode, change, "plain"),
        el("p", { class: "quiet io-words", text: "With both, the area of a square is the loss." }),
        this.others.length ? el("h3", { text: "Other tokens" }) : null,
        div("io-tokens io-chips", this.others),
        el("h3", { text: "Selected" }),
        this.readout,
      ),
    );
  }

  /** Buttons for the ids that are no patches: begin tokens and labels. */
  #others() {
    const { labels, facts } = this;
    return this.domain.cells.flatMap((cell, at) => {
      const place = at - labels.offset;
      if (cell || place >= facts.end) return [];
      const text = labels.text(place < 0 ? facts.input.source[at] : facts.id(place));
      const name = text.startsWith("<") ? text : `label “${text}”`;
      const title = place < 0 ? `source position ${at}` : facts.title(place);
      const button = el("button", {
        class: place === facts.total ? "io-token is-ahead" : "io-token",
        title,
        "aria-label": `${name}, ${title}`,
        "data-at": at,
        text: name,
        onclick: () => this.choose(at),
      });
      return [button];
    });
  }

  #pick(event) {
    const places = this.cells.under(event, this.overlay);
    if (!places.length) return;
    const before = places.indexOf(this.at(this.state.selection)); // -1: the first of its ids
    this.choose(places[(before + 1) % places.length]);
  }

  #key(event) {
    const { stack, query } = this.state.selection;
    const { total, first } = this.page.positions(stack);
    const row = this.domain.columns * Math.max(1, this.cells.places[0].length);
    const to = placeAfterKey(event.key, query, first, total - 1, row);
    if (to === null) return;
    keepKey(event);
    this.state.choose(stack, to);
  }

  shade() {
    for (const button of this.others) shadeByLoss(button, this.loss(Number(button.dataset.at)));
  }

  show(selection) {
    const at = this.at(selection);
    for (const button of this.others) {
      button.setAttribute("aria-pressed", Number(button.dataset.at) === at);
    }
    this.#paint(selection);
    const cell = this.domain.cells[at];
    const each = cell ? this.cells.of(cell).length : 1;
    const part = each > 1 ? `, id ${cell[2] + 1} of ${each}` : "";
    const where = cell ? `Row ${cell[0]}, column ${cell[1]}${part}: ` : "";
    const isSource = selection.stack === "encoder";
    const words = isSource ? `source position ${at}` : this.facts.title(selection.query);
    this.readout.textContent = where + words;
  }

  #paint(selection) {
    const { cells } = this;
    const context = resize(this.overlay, cells.width, cells.height);
    this.picture.classList.toggle("is-hidden", this.mode === "loss");
    const paint = { loss: paintLoss, both: paintSquare }[this.mode];
    cells.each((box, places) => {
      const loss = mean(places.map((at) => this.loss(at)));
      if (paint && loss !== null) paint(context, box, loss);
    });
    const at = this.at(selection);
    const colours = [tone("--raised"), tone("--accent")];
    cells.outline(context, at, ...colours);
    if (selection.stack === "blocks") cells.outline(context, at + 1, ...colours, [3, 3]);
  }
}

function paintLoss(context, [x, y, wide, high], loss) {
  const colour = lossColour(loss);
  context.fillStyle = css(colour);
  context.fillRect(x, y, wide + 0.5, high + 0.5);
  if (wide < 28 || high < 16) return;
  context.fillStyle = ink(colour);
  context.font = `11px ${tone("--font")}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(fixed(loss, 1), x + wide / 2, y + high / 2);
}

function paintSquare(context, [x, y, wide, high], loss) {
  const side = 0.62 * Math.sqrt(Math.min(1, loss / LOSS_SHADES)) * Math.min(wide, high);
  context.fillStyle = tone("--warm");
  context.fillRect(x + (wide - side) / 2, y + (high - side) / 2, side, side);
}

/** The values over time; each point has the shade of its loss. */
export class SeriesInput extends DrawnInput {
  constructor(...given) {
    super(...given);
    this.chart = new Chart("io-plot", 250, (...sizes) => this.#draw(...sizes));
    const { svg: drawing, node } = this.chart;
    const { values, history } = this.domain;
    const words = `A plot of ${values.length} values, ${history} of them history.`;
    drawing.setAttribute("tabindex", "0");
    drawing.setAttribute(
      "aria-label",
      `${words} The arrow keys select one; its value and loss stand below.`,
    );
    drawing.addEventListener("click", (event) => {
      const over = event.clientX - drawing.getBoundingClientRect().left;
      this.choose(nearestOf(this.x, over, 0, values.length - 1) + 1);
    });
    this.node = div("io-input", node, this.readout);
  }

  #draw(drawing, width, height) {
    const { values, times, history } = this.domain;
    const present = values.filter((value) => value !== null);
    const [left, right, top, bottom] = [52, width - 12, 22, height - 26];
    const [low, high] = [Math.min(...present), Math.max(...present)];
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    const last = values.length - 1;
    const x = linearScale(0, Math.max(1, last), left, right);
    const y = linearScale(low - pad, high + pad, bottom, top);
    Object.assign(this, { x, y, bottom });
    if (history < values.length) {
      const begin = x(Math.min(Math.max(1, last), history - 0.5));
      const size = { x: begin, y: top, width: right - begin, height: bottom - top };
      drawing.append(
        svg("rect", { class: "io-future", ...size }),
        plotText("history", left, top - 8),
        plotText("to forecast", right, top - 8, "end"),
      );
    }
    drawing.append(...rules(roundTicks(low - pad, high + pad, 5), y, left, right));
    const labelled = Math.max(2, Math.min(5, Math.floor(width / 130)));
    for (let part = 0; part < labelled; part++) {
      const index = Math.round((part / (labelled - 1)) * last);
      const anchor = { 0: "start", [labelled - 1]: "end" }[part] ?? "middle";
      drawing.append(plotText(visible(times[index] ?? ""), x(index), height - 6, anchor));
    }
    const r = Math.max(1.8, Math.min(4.5, (0.42 * (right - left)) / values.length));
    const points = values.map((value, index) => (value === null ? null : [x(index), y(value)]));
    this.points = svg("g", { class: "io-points" });
    points.forEach((point, index) => {
      if (!point) return;
      const [cx, cy] = point;
      this.points.append(svg("circle", { cx, cy, r, "data-index": index }));
    });
    this.marker = svg("g");
    drawing.append(
      svg("path", { class: "io-line", d: linePath(points) }),
      this.points,
      this.marker,
    );
    this.shade();
    this.#mark(this.state.selection);
  }

  shade() {
    for (const point of this.points?.children ?? []) {
      const loss = this.loss(Number(point.dataset.index) + 1);
      point.style.fill = loss === null ? "" : css(lossColour(loss));
    }
  }

  show(selection) {
    this.#mark(selection);
    const { stack, query } = selection;
    const at = this.at(selection);
    const value = this.domain.values[at - 1] ?? null;
    const shown = value === null ? "no value" : number(value, 5);
    const words = stack === "encoder" ? "read by the encoder" : this.facts.lossText(query);
    const time = visible(this.domain.times[at - 1] ?? "");
    this.readout.textContent = at
      ? `Position ${query}, ${time}: ${shown}; ${words}.`
      : `Position ${query}: the begin token. The first value follows it.`;
  }

  /** The selected value, and the five likeliest next ones. */
  #mark(selection) {
    const { x, y, bottom } = this;
    if (!x) return;
    const at = this.at(selection);
    const over = x(at - 1);
    const value = this.domain.values[at - 1] ?? null;
    const nodes = [];
    if (at) nodes.push(svg("line", { class: "io-cursor", x1: over, x2: over, y1: 22, y2: bottom }));
    if (value !== null)
      nodes.push(svg("circle", { class: "io-ring", cx: over, cy: y(value), r: 6 }));
    const { query, stack } = selection;
    for (const id of stack === "blocks" ? this.facts.lens.top.at(-1)[query] : []) {
      const guess = this.labels.value(id, query + 1);
      if (guess === null) continue;
      const ends = { x1: x(at) + 3, x2: x(at) + 13, y1: y(guess), y2: y(guess) };
      nodes.push(svg("line", { class: "io-guess", ...ends }));
    }
    this.marker.replaceChildren(...nodes);
  }
}

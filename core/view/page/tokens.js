// The strip of tokens above every panel: what the model reads, each shaded by its loss. A click or
// the arrow keys choose the query position.

import { lossColour, tint } from "./colours.js";
import { keepKey, placeAfterKey } from "./controls.js";
import { el, fixed, percent } from "./dom.js";

export class TokenStrip {
  constructor(root, page, state, labels) {
    this.page = page;
    this.state = state;
    this.labels = labels;
    this.strips = new Map();
    const stacks = page.data.input.source ? ["encoder", "blocks"] : ["blocks"];
    for (const stack of stacks) root.append(this.#strip(stack));
    document.addEventListener("themechange", () => this.shade());
    this.shade();
  }

  #strip(stack) {
    const { input } = this.page.data;
    const ids = this.labels.ids(stack);
    const { first } = this.page.positions(stack);
    const strip = el("div", {
      class: "strip",
      role: "listbox",
      tabindex: "0",
      "aria-label": stack === "encoder" ? "source tokens" : "tokens",
      onkeydown: (event) => this.#key(event, stack),
    });
    if (stack === "encoder" || input.source) {
      strip.append(
        el("span", { class: "strip-name", text: stack === "encoder" ? "source" : "target" }),
      );
    }
    if (first) strip.append(el("span", { class: "strip-name", text: `${first} earlier …` }));
    const items = ids.slice(first).map((_, number) => {
      const place = first + number;
      const item = el(
        "button",
        {
          class: "strip-token",
          role: "option",
          tabindex: "-1",
          title: this.#title(stack, place),
          onclick: () => this.#choose(stack, place),
        },
        this.labels.chipAt(place, stack, 20),
      );
      strip.append(item);
      return item;
    });
    this.strips.set(stack, { strip, items, first });
    return strip;
  }

  #choose(stack, place) {
    const isKey = stack === "encoder" && this.state.selection.part === "cross";
    if (isKey) this.state.set({ key: place });
    else this.state.choose(stack, place);
  }

  #title(stack, place) {
    const { input, lens } = this.page.data;
    const id = this.labels.ids(stack)[place];
    const words = [`position ${place}, id ${id}`];
    const detail = this.labels.detail(id);
    if (detail) words.push(`bytes ${detail}`);
    if (stack === "blocks" && place > 0 && input.nll[place - 1] !== null) {
      const p = lens.p_true.at(-1)[place - 1];
      words.push(`loss ${fixed(input.nll[place - 1])} nats (probability ${percent(p)})`);
    }
    return words.join(", ");
  }

  /** Shades each token by the loss that it had as the target of the position before it. */
  shade() {
    const { items, first } = this.strips.get("blocks");
    items.forEach((item, number) => {
      const place = first + number;
      const loss = place > 0 ? this.page.data.input.nll[place - 1] : null;
      tint(item, lossColour(loss ?? 0));
    });
  }

  #key(event, stack) {
    const { first } = this.strips.get(stack);
    const { total } = this.page.positions(stack);
    const to = placeAfterKey(event.key, this.state.selection.query, first, total - 1);
    if (to === null) return;
    keepKey(event);
    this.#choose(stack, to);
  }

  show(selection) {
    for (const [stack, { items, first, strip }] of this.strips) {
      const cross = selection.part === "cross";
      items.forEach((item, number) => {
        const place = first + number;
        const isQuery = stack === selection.stack && place === selection.query;
        const isKey =
          place === selection.key && (cross ? stack === "encoder" : stack === selection.stack);
        item.classList.toggle("is-query", isQuery);
        item.classList.toggle("is-key", isKey && selection.tab === "matrix");
        item.setAttribute("aria-selected", isQuery);
        if (isQuery && strip.scrollWidth > strip.clientWidth) {
          const left = item.offsetLeft - strip.clientWidth / 2;
          strip.scrollTo({ left, behavior: "instant" });
        }
      });
    }
  }
}

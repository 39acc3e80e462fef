// The flow through the blocks: the logit lens, norms of the residual stream, heads of attention.

import { div } from "./dom.js";
import { FlowHeads } from "./flow_heads.js";
import { FlowPictures, FlowSeries } from "./flow_item.js";
import { FlowLens } from "./flow_lens.js";
import { FlowStream } from "./flow_stream.js";

export function mountFlow(root, page, state, labels) {
  const context = new FlowContext(page, state, labels);
  const ofForm = { picture: FlowPictures, series: FlowSeries }[labels.domain.form];
  const kinds = [FlowLens, ofForm, FlowStream, FlowHeads].filter(Boolean);
  const cards = kinds.map((Card) => new Card(context));
  const roots = cards.map((card) => card.root);
  root.append(div("flow", roots));
  const show = (selection) => {
    context.follow(selection);
    for (const card of cards) card.show(selection);
  };
  let width = root.clientWidth;
  new ResizeObserver(() => {
    if (!root.clientWidth || root.clientWidth === width) return;
    width = root.clientWidth;
    context.spaces.clear();
    show(state.selection);
  }).observe(root);
  return show;
}

/** What the cards share. place, level: where the lens is read, a position of the decoder. */
class FlowContext {
  constructor(page, state, labels) {
    Object.assign(this, { page, state, labels });
    this.place = page.positions().total - 1;
    this.level = page.config.layers;
    this.block = null;
    this.spaces = new Map();
    /** The names of the levels of the lens. */
    this.levels = page.data.lens.levels.map((name, level) =>
      level ? labels.block("blocks", level - 1) : name,
    );
  }

  /** The width of an element, which is measured once for each width of the panel. */
  space(node) {
    if (!this.spaces.has(node)) this.spaces.set(node, node.clientWidth);
    return this.spaces.get(node);
  }

  /** Moves the place of the lens with the selection, where that is in the decoder. */
  follow({ stack, block, query }) {
    if (stack !== "blocks") return;
    this.place = query;
    if (this.block !== null && block !== this.block) this.level = block + 1;
    this.block = block;
  }

  after(level) {
    return level ? `after ${this.levels[level]}` : "embedding";
  }

  rows(stack) {
    return this.page.data.flow.filter((row) => row.stack === stack);
  }
}

// What is selected, shared by all panels and kept in the address after #.

export const TABS = [
  ["io", "Input and output"],
  ["space", "3D walk"],
  ["matrix", "Matrices"],
  ["flow", "Flow"],
  ["code", "Architecture"],
  ["checks", "Checks"],
];
const WORDS = new Set(["tab", "stack", "part", "tensor"]);

/**
 * The selection: tab; stack (blocks, encoder), block, part (mixer, cross, ffn), head; query and key,
 * positions; step of the walk; tensor, row and column: a cell of the matrix that a box shows.
 */
export class State {
  #listeners = [];

  constructor(page) {
    this.page = page;
    const { total } = page.positions();
    this.beginning = {
      tab: "io",
      stack: "blocks",
      block: 0,
      part: "mixer",
      head: 0,
      query: total - 1,
      key: 0,
      step: 0,
      tensor: null,
      row: null,
      column: null,
    };
    this.selection = {};
    this.#read();
    window.addEventListener("hashchange", () => {
      if (window.location.hash.slice(1) === this.#hash()) return;
      this.#read();
      this.#tell();
    });
  }

  subscribe(listener) {
    this.#listeners.push(listener);
  }

  /** Changes some of the selection; values outside of their range are moved into it. */
  set(changes) {
    Object.assign(this.selection, changes);
    this.#clamp();
    window.history.replaceState(null, "", `#${this.#hash()}`);
    this.#tell();
  }

  /** Chooses a position of a stack; another stack begins at its mixer. */
  choose(stack, query) {
    const part = this.selection.stack === stack ? this.selection.part : "mixer";
    this.set({ stack, part, query });
  }

  /** Goes `by` steps of the walk, and to the block and layer that the step is about. */
  walk(by) {
    const steps = this.page.data.walk;
    const step = Math.max(0, Math.min(steps.length - 1, this.selection.step + by));
    this.set({ step, ...where(steps[step]), tensor: null });
  }

  get blocks() {
    const { config } = this.page;
    return this.selection.stack === "encoder" ? config.encoder_layers : config.layers;
  }

  /** The layer of the selected block and part, as `flow` has it: its name, norms, attention. */
  layer(part = this.selection.part) {
    const { stack, block } = this.selection;
    const row = this.page.data.flow.find((each) => each.stack === stack && each.block === block);
    return row.layers.find((each) => each.part === part) ?? row.layers[0];
  }

  /** Number of heads of the selected layer; 1 where it has none. */
  get heads() {
    const { entropy } = this.layer();
    return entropy ? entropy.length : 1;
  }

  #tell() {
    for (const listener of this.#listeners) listener(this.selection);
  }

  #hash() {
    const kept = Object.entries(this.selection).filter(([, value]) => value !== null);
    return new URLSearchParams(kept).toString();
  }

  /** Takes the selection of the address; what it does not name is as at the beginning. */
  #read() {
    Object.assign(this.selection, this.beginning);
    for (const [name, value] of new URLSearchParams(window.location.hash.slice(1))) {
      if (!(name in this.selection)) continue;
      if (WORDS.has(name)) this.selection[name] = value;
      else if (/^\d+$/.test(value)) this.selection[name] = Number(value);
    }
    this.#clamp();
  }

  #clamp() {
    const chosen = this.selection;
    const { data, config } = this.page;
    const within = (value, low, high) => Math.max(low, Math.min(high, Math.round(value) || 0));
    if (!TABS.some(([name]) => name === chosen.tab)) chosen.tab = "io";
    if (chosen.stack !== "encoder" || !config.encoder_layers) chosen.stack = "blocks";
    chosen.block = within(chosen.block, 0, this.blocks - 1);
    chosen.part = this.layer().part;
    chosen.head = within(chosen.head, 0, this.heads - 1);
    const { total, first } = this.page.positions(chosen.stack);
    chosen.query = within(chosen.query, first, total - 1);
    const read = this.page.positions(chosen.part === "cross" ? "encoder" : chosen.stack);
    chosen.key = within(chosen.key, read.first, read.total - 1);
    chosen.step = within(chosen.step, 0, data.walk.length - 1);
    if (chosen.tensor !== null && !data.tensors[chosen.tensor]) chosen.tensor = null;
    if (chosen.tensor === null) chosen.row = chosen.column = null;
  }
}

/** The stack, block and layer of a step of the walk; nothing for a step outside of blocks. */
export function where(step) {
  const [name] = step.tensors;
  if (!/^(encoder|blocks)\.\d/.test(name)) return {};
  let part = "mixer";
  if (/cross/.test(name)) part = "cross";
  else if (/mlp|ln2|resid_post/.test(name)) part = "ffn";
  return { stack: name.split(".")[0], block: step.block, part };
}

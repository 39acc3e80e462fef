// The bar below the 3D walk: what the step is about, and controls to go on.

import { el } from "./dom.js";
import { LAYER_NAMES } from "./space_scene.js";

/** What the bar says at the overview. */
function wholePass({ flow, architecture }) {
  const layers = flow.flatMap((row) => row.layers);
  const mixers = layers.filter((layer) => layer.part === "mixer");
  const kinds = new Set(mixers.map((layer) => LAYER_NAMES[layer.name]));
  const right = layers.some((layer) => layer.part === "ffn")
    ? ", the feed-forward layer to its right"
    : "";
  const two = architecture.config.encoder_layers ? " The encoder stands left of the decoder." : "";
  return (
    "Each slab is a tensor: a column for each position, a row for each feature, a colour for each " +
    `value. The stream runs into the depth; ${[...kinds].join(" or ")} stands to its left${right}.${two}`
  );
}

/** step: null at the overview. begin(step): starts the walk there, or goes on there. */
export class WalkBar {
  constructor(page, state, begin) {
    Object.assign(this, { page, state, begin });
    this.timer = null;
    const button = (text, name, onclick) => el("button", { "aria-label": name, onclick, text });
    this.previous = button("‹", "Previous step", () => this.go(-1));
    this.next = button("Next ›", "Next step", () => this.go(1));
    this.player = button("▶ Play", "Play", () => this.play(!this.timer));
    this.next.classList.add("space-primary");
    this.count = el("span", { class: "space-count" });
    this.range = el("input", {
      type: "range",
      min: 1,
      max: page.data.walk.length,
      "aria-label": "step of the walk",
      oninput: () => this.begin(Number(this.range.value) - 1),
    });
    this.title = el("h2");
    this.code = el("code");
    this.caption = el("p");
    this.node = el(
      "div",
      { class: "space-bar" },
      el(
        "div",
        { class: "space-words", "aria-live": "polite" },
        el("div", { class: "space-title" }, this.title, this.code),
        this.caption,
      ),
      el(
        "div",
        { class: "space-controls" },
        el("div", { class: "space-buttons" }, this.previous, this.player, this.next),
        el("div", { class: "space-progress" }, this.range, this.count),
      ),
    );
  }

  get #last() {
    return this.page.data.walk.length - 1;
  }

  go(by) {
    if (this.step === null) this.begin(this.state.selection.step);
    else this.state.walk(by);
  }

  show(step) {
    this.step = step;
    const { walk, architecture } = this.page.data;
    const at = walk[step];
    this.title.textContent = at ? at.title : "The whole pass";
    this.caption.textContent = at ? at.caption : wholePass(this.page.data);
    this.code.textContent = at ? architecture.code[at.line].text.trim() : "";
    this.code.hidden = !at;
    this.count.textContent = at ? `step ${step + 1} of ${walk.length}` : `${walk.length} steps`;
    this.range.value = at ? step + 1 : 1;
    this.previous.disabled = !step;
    this.next.disabled = step === this.#last;
    this.next.textContent = at ? "Next ›" : "Start the walk ›";
    if (this.timer) this.#wait();
  }

  play(isPlaying) {
    clearTimeout(this.timer);
    this.timer = null;
    if (isPlaying) {
      if (this.step === null) this.go(1);
      else if (this.step === this.#last) this.begin(0);
      this.#wait();
    }
    this.player.textContent = isPlaying ? "❚❚ Pause" : "▶ Play";
    this.player.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  }

  /** Waits as long as the caption takes to read, then goes on. */
  #wait() {
    clearTimeout(this.timer);
    const goOn = () => {
      const isOver = this.step === this.#last || this.state.selection.tab !== "space";
      if (isOver) this.play(false);
      else this.state.walk(1);
    };
    this.timer = setTimeout(goOn, 1800 + 35 * this.caption.textContent.length);
  }
}

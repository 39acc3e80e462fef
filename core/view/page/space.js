// The 3D walk: every tensor of the pass as a slab in space, drawn on one canvas.

import { el } from "./dom.js";
import { WalkBar } from "./space_bar.js";
import { Camera, Flight, followGestures } from "./space_camera.js";
import { colourStrip, Drawer } from "./space_drawer.js";
import { Painter, READABLE } from "./space_painter.js";
import { clamped, Scene } from "./space_scene.js";

const FAR = { yaw: 0.62, pitch: 0.4 }; // of the overview, in radians
const NEAR = { yaw: 0.4, pitch: 0.24 }; // of a step of the walk
const GLIDE = 380; // milliseconds of a flight of the camera
const NUDGE = 160; // milliseconds of one that a key starts
const HELP =
  "drag: orbit, shift-drag: pan, wheel: zoom, double click: face it, h j k l: orbit, z x: zoom, " +
  "f: face the selection, 0: overview, space: play";
const SHIFTED = { ArrowLeft: "h", ArrowDown: "j", ArrowUp: "k", ArrowRight: "l" };

/**
 * Mounts the 3D walk. For measurements, `window.tfmView.frame()` draws the present view once, with
 * all of its pictures, and returns the milliseconds that this took, its pixels included.
 */
export function mountSpace(root, page, state, labels) {
  const panel = new SpacePanel(root, page, state, labels);
  window.tfmView = Object.assign(window.tfmView ?? {}, { frame: () => panel.frame() });
  return (selection) => panel.show(selection);
}

class SpacePanel {
  constructor(root, page, state, labels) {
    Object.assign(this, { root, page, state, labels });
    this.isOverview = true;
    this.step = null; // null: not on the walk
    this.isAway = false; // another layer than that of the step was chosen
    this.last = null; // the selection that was shown
    this.cell = { row: 0, column: 0 };
    this.scene = new Scene(page);
    this.#build();
    this.painter = new Painter(this.node, this.scene, labels);
    this.camera = this.painter.camera;
    this.flight = new Flight(this.camera);
    this.#theme();
    this.#listen();
  }

  #build() {
    const { page, state, labels } = this;
    this.node = el("canvas", {
      class: "space-canvas",
      role: "img",
      tabindex: "0",
      "aria-label":
        "The tensors of this pass as slabs in space. The values of the selected one are in the table.",
    });
    this.tip = el("div", { class: "space-tip", hidden: true });
    this.legend = el("div");
    this.drawer = new Drawer(page, labels, this.scene, {
      pick: (slab, cell) => this.pick(slab, cell),
      choose: (name) => this.pick(this.#slabOf(name), this.cell),
      resized: () => this.#opened(),
    });
    this.bar = new WalkBar(page, state, (step) => this.begin(step));
    const help = HELP.split(", ").map((each) => {
      const [key, what] = each.split(":");
      return el("span", {}, el("b", { text: key }), what);
    });
    const tool = (text, name, onclick) =>
      el("button", { title: name, "aria-label": name, text, onclick });
    this.stage = el(
      "div",
      { class: "space-stage" },
      this.node,
      el("div", { class: "space-foot" }, this.legend, el("p", { class: "space-help" }, help)),
      el(
        "div",
        { class: "space-tools" },
        tool("+", "Zoom in (z)", () => this.nudge({ zoom: 1.6 })),
        tool("−", "Zoom out (x)", () => this.nudge({ zoom: 1 / 1.6 })),
        tool("⤢", "Overview (0)", () => this.overview()),
        this.drawer.toggle,
      ),
      this.tip,
    );
    this.root.append(el("div", { class: "space" }, this.stage, this.drawer.node, this.bar.node));
  }

  #theme() {
    this.painter.theme();
    this.legend.replaceChildren(colourStrip("−", "+"));
  }

  // -- selection -----------------------------------------------------------------------------------

  show(selection) {
    const { last } = this;
    this.last = this.painter.selection = { ...selection };
    const changed = (...names) => !last || names.some((name) => last[name] !== selection[name]);
    const isStep = last ? changed("step") : selection.step > 0 && !selection.tensor;
    if (isStep) this.step = selection.step;
    const isOther = changed("stack", "block", "part"); // than the layer that was shown
    this.isAway = !changed("step") && (this.isAway || isOther);
    const own = this.#slabOf(selection.tensor);
    if (changed("row", "column") && own) {
      this.cell = { row: selection.row ?? 0, column: selection.column ?? selection.query };
    } else if (changed("query", "key", "tensor", "step", "stack")) this.#follow(own, selection);
    this.bar.show(this.step);
    this.#focus(own);
    if (!last)
      this.isLinked = isStep || own !== null; // goes there once the canvas has a size
    else if (changed("tensor") && own && !this.isPicked) this.#fit([own]);
    else if (isStep) this.#toStep();
    else if (isOther && !this.isPicked && !this.isOverview) this.#fit(this.#layer(), 0.8);
    this.isPicked = false;
    this.#table();
    this.#ask();
  }

  #slabOf(name) {
    return (name && this.scene.slab(name, this.state.selection.head, this.state.heads)) || null;
  }

  /** The cell follows the selected position. */
  #follow(slab, { query, key }) {
    const at = slab ?? this.#main();
    if (at?.byQuery) this.cell = { row: query, column: key };
    else this.cell.column = !at || at.columnStack === at.stack ? query : key;
  }

  /** The slab of the step, of the selected head. */
  #main() {
    return this.step === null ? null : this.#slabOf(this.page.data.walk[this.step].tensors.at(-1));
  }

  /** The slabs of the selected layer. */
  #layer() {
    const { stack, block, part } = this.state.selection;
    const isOwn = (slab) => slab.stack === stack && slab.block === block && slab.part === part;
    return this.scene.slabs.filter(isOwn);
  }

  /** Sets what is lit, and what the camera must see through to. own: the selected slab. */
  #focus(own) {
    const { painter, scene } = this;
    const isLit = this.step !== null && !own && !this.isAway;
    const tensors = isLit ? this.page.data.walk[this.step].tensors : [];
    const lit = new Set(tensors.flatMap((name) => scene.of(name)));
    const sources = tensors.flatMap((name) => scene.madeOf(name)).flatMap((name) => scene.of(name));
    painter.selected = own;
    painter.cell = own && this.#clipped(own);
    painter.lit = lit;
    painter.sources = new Set(sources.filter((slab) => !lit.has(slab)));
    painter.focus = own ? [own] : lit.size ? [...lit, ...painter.sources] : this.#layer();
  }

  /** The selected cell, or the nearest one that a slab has. */
  #clipped(slab) {
    const row = clamped(this.cell.row, 0, slab.rows - 1);
    const nearer = (a, b) => (Math.abs(b - row) < Math.abs(a - row) ? b : a);
    return {
      row: slab.keptRows?.reduce(nearer) ?? row,
      column: clamped(this.cell.column, 0, slab.columns - 1),
    };
  }

  #table() {
    const slab = this.painter.selected ?? this.#main() ?? this.#slabOf(this.#layer()[0]?.tensor);
    if (slab) this.drawer.show(slab, this.#clipped(slab), this.painter.colours.back);
  }

  /** Selects a cell of a slab, and with it a block, layer, head and position. */
  pick(slab, cell) {
    const { tensor, stack, block, part, head, columnStack } = slab;
    const row = Math.min(slab.rows - 1, cell.row);
    const column = Math.min(slab.columns - 1, cell.column);
    const { selection } = this.state;
    const changes = { tensor, row, column, stack };
    if (block !== null) changes.block = block;
    if (["mixer", "cross", "ffn"].includes(part)) changes.part = part;
    else if (stack !== selection.stack) changes.part = "mixer";
    if (slab.byQuery) Object.assign(changes, { query: row, key: column });
    else changes[columnStack === stack ? "query" : "key"] = column;
    if (head !== null) {
      const { heads } = this.page.config;
      const share = Math.max(1, Math.floor(heads / this.scene.of(tensor).length));
      if (Math.floor(selection.head / share) !== head) changes.head = head * share;
    }
    this.isPicked = true;
    this.state.set(changes);
  }

  /** Begins the walk at a step, or goes on there. */
  begin(step) {
    const isBegun = this.step !== null;
    this.step ??= step;
    this.state.walk(step - this.state.selection.step);
    if (isBegun) return;
    this.isAway = false;
    this.#focus(null);
    this.#toStep();
  }

  // -- the camera ----------------------------------------------------------------------------------

  /** Width and height of the free part of the canvas, whose middle the camera looks at. */
  #room() {
    const { width, height } = this.painter;
    const { offsetWidth } = this.drawer.node;
    const free = width - (offsetWidth < width ? offsetWidth : 0);
    this.painter.middle = [free / 2, height / 2];
    return [free, height];
  }

  #overviewCamera() {
    const [width, height] = this.#room();
    const rooms = [Math.max(80, width - 90), Math.max(80, height - 104)];
    return Camera.fit(this.scene.slabs, FAR, ...rooms);
  }

  overview() {
    this.bar.play(false);
    this.step = null;
    if (this.state.selection.tensor) this.state.set({ tensor: null });
    this.bar.show(null);
    this.#focus(null);
    this.#glide(this.#overviewCamera());
    this.isOverview = true;
  }

  /** Goes to slabs: `share` of the room that there is. */
  #fit(slabs, share = 0.72, largest = 22) {
    if (!slabs.length) return;
    const [width, height] = this.#room();
    this.#glide(Camera.fit(slabs, NEAR, width * share, (height - 60) * share, largest));
  }

  #toStep() {
    const { lit, sources } = this.painter;
    this.#fit([...lit, ...sources], 0.74, 16);
  }

  /** Faces a slab; if it is faced already, the cell, near enough to read its numbers. */
  face(slab, cell) {
    const isFaced = Math.abs(this.camera.yaw) < 0.01 && Math.abs(this.camera.pitch) < 0.01;
    const [width, height] = this.#room();
    const camera = Camera.fit([slab], {}, width * 0.82, (height - 110) * 0.9, 64);
    if (isFaced && camera.zoom < READABLE && this.camera.zoom > camera.zoom * 0.95) {
      camera.zoom = 44;
      camera.place([slab.x + cell.column + 0.5, slab.y + cell.row + 0.5, slab.z], 0, 0);
    }
    this.#glide(camera);
  }

  nudge({ yaw = 0, pitch = 0, zoom = 1 }) {
    const { goal } = this.flight;
    goal.yaw += yaw;
    goal.pitch += pitch;
    goal.zoom *= zoom;
    this.#glide(goal, NUDGE);
  }

  get #isStill() {
    return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  #glide(to, time = GLIDE) {
    this.isOverview = false;
    this.flight.start(to, this.#isStill ? 0 : time);
    this.#ask();
  }

  // -- frames --------------------------------------------------------------------------------------

  /** Asks for a frame, if none is under way. */
  #ask() {
    this.asked ??= requestAnimationFrame((now) => {
      this.asked = null;
      if (this.root.hidden || this.painter.width < 2) return;
      const passed = this.before && now - this.before < 100 ? now - this.before : 16;
      const isMoving = this.flight.step(now);
      const isPending = this.#draw(this.#isStill ? null : passed);
      this.before = isMoving || isPending ? now : null;
      if (this.before) this.#ask();
    });
  }

  #draw(passed, budget) {
    this.painter.scale = this.camera.zoom / this.base;
    this.#room();
    return this.painter.draw(passed, budget);
  }

  frame() {
    const probe = el("canvas").getContext("2d", { willReadFrequently: true });
    const draw = () => {
      this.#draw(null, Number.POSITIVE_INFINITY);
      probe.drawImage(this.node, 0, 0, 1, 1);
      probe.getImageData(0, 0, 1, 1); // comes back when the canvas has its pixels
    };
    draw();
    const start = performance.now();
    draw();
    return performance.now() - start;
  }

  #resized() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (width < 2 || height < 2) return;
    this.painter.resize(width, height);
    const camera = this.#overviewCamera();
    this.base = camera.zoom;
    this.camera.least = camera.least = camera.zoom * 0.5;
    if (this.isOverview) {
      this.flight.stop();
      Object.assign(this.camera, camera);
    }
    if (this.last) {
      const { selected } = this.painter;
      if (this.isLinked && selected) this.#fit([selected]);
      else if (this.isLinked) this.#toStep();
      this.isLinked = false;
      if (!this.root.hidden) this.#draw(null);
    }
    this.#ask();
  }

  /** The drawer was opened or closed. */
  #opened() {
    this.drawer.key = null;
    if (this.isOverview) {
      this.#glide(this.#overviewCamera());
      this.isOverview = true;
    }
    this.#table();
    this.#ask();
  }

  // -- pointer and keys ----------------------------------------------------------------------------

  #listen() {
    new ResizeObserver(() => this.#resized()).observe(this.stage);
    document.addEventListener("themechange", () => {
      this.#theme();
      this.#table();
      this.#ask();
    });
    window.addEventListener("keydown", (event) => this.#key(event), true);
    const { painter } = this;
    followGestures(this.node, this.camera, {
      middle: () => painter.middle,
      find: (x, y) => painter.find(x, y),
      taken: () => this.flight.stop(),
      moved: () => {
        this.isOverview = false;
        this.#ask();
      },
      hover: (at) => this.#hover(at),
      click: (at) => this.#click(at),
      face: (at) => {
        const met = painter.find(...at);
        if (met) this.face(met.slab, met.cell);
      },
    });
  }

  #hover(at) {
    const { painter, tip } = this;
    const { slab = null, cell = null } = (at && painter.find(...at)) ?? {};
    const isSame =
      slab === painter.hovered &&
      cell?.row === painter.pointed?.row &&
      cell?.column === painter.pointed?.column;
    painter.hovered = slab;
    painter.pointed = cell;
    tip.hidden = !slab;
    this.node.classList.toggle("is-over", slab !== null);
    if (!isSame) this.#ask();
    if (!slab) return;
    if (!isSame) {
      const name = slab.head === null ? slab.label : `${slab.label}, head ${slab.head}`;
      tip.replaceChildren(
        el("b", { text: name }),
        el("span", { class: "space-shape", text: `${slab.columns} × ${slab.rows}` }),
        el("div", { text: slab.cellName(cell, this.labels) }),
        el("div", { class: "space-value", text: slab.cellValue(cell) }),
      );
    }
    const [x, y] = at;
    const isLeft = x + 18 + tip.offsetWidth > 2 * painter.middle[0];
    tip.style.left = `${Math.max(4, isLeft ? x - 14 - tip.offsetWidth : x + 16)}px`;
    tip.style.top = `${Math.max(4, Math.min(painter.height - tip.offsetHeight - 6, y + 14))}px`;
  }

  #click(at) {
    const met = this.painter.find(...at);
    if (met) {
      if (this.root.clientWidth > 900 && !this.wasOpened) this.drawer.open(true);
      this.wasOpened = true;
      this.pick(met.slab, met.cell);
    } else if (this.state.selection.tensor) {
      this.isPicked = true;
      this.state.set({ tensor: null });
    }
  }

  #key(event) {
    const { target, key } = event;
    if (this.state.selection.tab !== "space" || event.ctrlKey || event.metaKey || event.altKey)
      return;
    if (target.closest("select, input, textarea, dialog")) return;
    const slab = this.painter.selected ?? this.#main();
    const actions = {
      h: () => this.nudge({ yaw: -0.14 }),
      j: () => this.nudge({ pitch: -0.1 }),
      k: () => this.nudge({ pitch: 0.1 }),
      l: () => this.nudge({ yaw: 0.14 }),
      z: () => this.nudge({ zoom: 1.3 }),
      x: () => this.nudge({ zoom: 1 / 1.3 }),
      0: () => this.overview(),
      f: slab && (() => this.face(slab, this.#clipped(slab))),
      n: this.step === null && (() => this.bar.go(1)),
      Escape: this.state.selection.tensor && (() => this.state.set({ tensor: null })),
      " ": !target.closest("button") && (() => this.bar.play(!this.bar.timer)),
    };
    const action = actions[(event.shiftKey && SHIFTED[key]) || key];
    if (!action) return;
    action();
    event.preventDefault();
    event.stopPropagation();
  }
}

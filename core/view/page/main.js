// The page: heading, tabs, selectors, keys, theme.

import { mountChecks } from "./checks.js";
import { mountCode } from "./code.js";
import { count, el } from "./dom.js";
import { mountFlow } from "./flow.js";
import { mountInput } from "./io.js";
import { Labels } from "./labels.js";
import { mountMatrix } from "./matrix.js";
import { mountSpace } from "./space.js";
import { State, TABS } from "./state.js";
import { open } from "./tensors.js";
import { TokenStrip } from "./tokens.js";

const MOUNTS = {
  io: mountInput,
  space: mountSpace,
  matrix: mountMatrix,
  flow: mountFlow,
  code: mountCode,
  checks: mountChecks,
};
const KEYS = [
  ["1 … 6", "the panels"],
  ["← →", "the position before, after"],
  ["[ ]", "the block before, after"],
  ["− +", "the head before, after"],
  ["a s d", "the part of the block: mixer, cross-attention, feed-forward"],
  ["n p", "the next, the previous step of the walk"],
  ["h j k l, z x", "3D walk: orbit, zoom; shift with ← ↓ ↑ → orbits too"],
  ["f, 0, space", "3D walk: face the selection, the overview, play or pause"],
  ["t", "light or dark"],
  ["?", "this list"],
];

async function start() {
  const page = await open();
  const state = new State(page);
  const labels = new Labels(page);
  document.title = `${page.data.run.name} – tfm view`;
  heading(page);
  const selectors = new Selectors(document.getElementById("selectors"), page, state, labels);
  const strip = new TokenStrip(document.getElementById("tokens"), page, state, labels);
  const panels = tabs(page, state, labels);
  const show = (selection) => {
    selectors.show(selection);
    strip.show(selection);
    panels(selection);
  };
  state.subscribe(show);
  document.addEventListener("themechange", () => show(state.selection));
  keys(state);
  theme();
  show(state.selection);
  window.tfmView = Object.assign(window.tfmView ?? {}, { page, state }); // for scripts
  document.body.dataset.ready = "true";
}

function heading(page) {
  const { run, architecture, input, domain } = page.data;
  const parameters = architecture.parts.reduce((sum, part) => sum + part.parameters, 0);
  const facts = [
    `${domain.task}, ${run.arch ?? "transformer"}`,
    `${count(parameters)} parameters`,
    `step ${count(run.checkpoint)}`,
    `${count(input.ids.length)} tokens`,
  ];
  if (run.item) facts.push(`held-out item ${run.item}`);
  document.getElementById("run").textContent = run.name;
  document.getElementById("facts").textContent = facts.join(" · ");
}

/** The tabs; returns a function that shows the panel of a selection. */
function tabs(page, state, labels) {
  const list = document.getElementById("tabs");
  const root = document.getElementById("panels");
  const buttons = new Map();
  const mounted = new Map();
  for (const [name, title] of TABS) {
    const panel = el("section", {
      id: `panel-${name}`,
      class: "panel",
      role: "tabpanel",
      "aria-labelledby": `tab-${name}`,
    });
    const button = el("button", {
      id: `tab-${name}`,
      class: "tab",
      role: "tab",
      "aria-controls": `panel-${name}`,
      text: title,
      onclick: () => state.set({ tab: name }),
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.stopPropagation();
        const at = TABS.findIndex(([each]) => each === name);
        const [next] = TABS[(at + step + TABS.length) % TABS.length];
        state.set({ tab: next });
        buttons.get(next).focus();
      },
    });
    buttons.set(name, button);
    list.append(button);
    root.append(panel);
  }
  return (selection) => {
    for (const [name, button] of buttons) {
      const chosen = name === selection.tab;
      button.setAttribute("aria-selected", chosen);
      button.tabIndex = chosen ? 0 : -1;
      document.getElementById(`panel-${name}`).hidden = !chosen;
    }
    if (!mounted.has(selection.tab)) {
      const panel = document.getElementById(`panel-${selection.tab}`);
      mounted.set(selection.tab, MOUNTS[selection.tab](panel, page, state, labels));
    }
    mounted.get(selection.tab)(selection);
  };
}

/** The selectors of block, part and head. */
class Selectors {
  constructor(root, page, state, labels) {
    this.state = state;
    this.page = page;
    this.labels = labels;
    this.block = this.#select("block", (value) => {
      const [stack, block] = value.split(".");
      state.set({ stack, block: Number(block) });
    });
    this.part = this.#select("layer", (value) => state.set({ part: value }));
    this.head = this.#select("head", (value) => state.set({ head: Number(value) }));
    const { config } = page;
    for (let block = 0; block < config.encoder_layers; block++) {
      this.block.append(
        el("option", { value: `encoder.${block}`, text: labels.block("encoder", block) }),
      );
    }
    for (let block = 0; block < config.layers; block++) {
      const text = config.encoder_layers ? labels.block("blocks", block) : `${block}`;
      this.block.append(el("option", { value: `blocks.${block}`, text }));
    }
    for (const each of [this.block, this.part, this.head]) root.append(each.parentElement);
  }

  #select(name, change) {
    const node = el("select", { onchange: (event) => change(event.target.value) });
    el("label", { class: "selector" }, el("span", { text: name }), node);
    return node;
  }

  show(selection) {
    this.block.value = `${selection.stack}.${selection.block}`;
    const row = this.page.data.flow.find(
      (each) => each.stack === selection.stack && each.block === selection.block,
    );
    this.part.replaceChildren(
      ...row.layers.map((layer) =>
        el("option", { value: layer.part, text: this.labels.layer(layer) }),
      ),
    );
    this.part.value = selection.part;
    const heads = Array.from({ length: this.state.heads }, (_, head) =>
      el("option", { value: head, text: `${head}` }),
    );
    this.head.replaceChildren(...heads);
    this.head.value = selection.head;
    this.head.parentElement.hidden = heads.length < 2;
  }
}

function keys(state) {
  const help = document.getElementById("help");
  const rows = KEYS.map(([key, what]) =>
    el("tr", {}, el("th", {}, el("kbd", { text: key })), el("td", { text: what })),
  );
  help.append(
    el("h2", { text: "Keys" }),
    el("table", {}, rows),
    el("form", { method: "dialog" }, el("button", { text: "Close" })),
  );
  document.getElementById("keys").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("select, input:not([type=radio]), textarea");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const { selection } = state;
    const moves = {
      ArrowLeft: { query: selection.query - 1 },
      ArrowRight: { query: selection.query + 1 },
      "[": { block: selection.block - 1 },
      "]": { block: selection.block + 1 },
      "-": { head: selection.head - 1 },
      "+": { head: selection.head + 1 },
      "=": { head: selection.head + 1 },
      a: { part: "mixer" },
      s: { part: "cross" },
      d: { part: "ffn" },
    };
    if (/^[1-6]$/.test(event.key)) state.set({ tab: TABS[Number(event.key) - 1][0] });
    else if (event.key === "n" || event.key === "p") state.walk(event.key === "n" ? 1 : -1);
    else if (event.key === "t") document.getElementById("theme").click();
    else if (event.key === "?") help.showModal();
    else if (moves[event.key] && !event.defaultPrevented) state.set(moves[event.key]);
    else return;
    event.preventDefault();
  });
}

function theme() {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    document.dispatchEvent(new Event("themechange"));
  });
  window
    .matchMedia("(prefers-color-scheme: dark)")
    .addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
}

start().catch((error) => {
  document.getElementById("panels").textContent = `This page cannot be shown: ${error.message}`;
  throw error;
});

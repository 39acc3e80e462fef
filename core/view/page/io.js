// Input and output: what the model read, shaded by the loss of each token; the likeliest ids after
// the selected position; the distribution after the last one under temperature, top-k and top-p.

import { isDark, LOSS_SHADES } from "./colours.js";
import { folded, table } from "./controls.js";
import { count, div, el, fixed, nats, number, percent } from "./dom.js";
import { PictureInput, SeriesInput, shadeByLoss, TokenInput } from "./io_item.js";
import { AfterLast, AfterQuery } from "./io_next.js";
import { visible } from "./labels.js";
import { mean } from "./tensors.js";

export function mountInput(root, page, state, labels) {
  const facts = new InputFacts(page, labels);
  const Form = { picture: PictureInput, series: SeriesInput }[labels.domain.form] ?? TokenInput;
  const input = new Form(page, state, labels, facts);
  const after = new AfterQuery(labels, facts);
  const legend = lossLegend();
  const about =
    "Shaded by loss (surprise). Choose a token to see what the model expected after it.";
  const read = el(
    "section",
    { class: "card" },
    div("io-head", el("h2", { text: "What the model read" }), legend),
    el("p", { class: "quiet", text: about }),
    input.node,
    lossSums(facts),
  );
  const losses = el("section", { class: "card" }, lossTable(page, labels, facts));
  root.append(
    div("io-lead", el("p", { text: leadSentences(page, facts).join(" ") }), links(page, state)),
    div(
      "io-columns",
      div("io-column", read, after.node, losses),
      new AfterLast(page, labels, facts).node,
    ),
  );
  let dark = null;
  return (selection) => {
    if (dark !== isDark()) {
      dark = isDark();
      for (const swatch of legend.querySelectorAll("[data-loss]")) {
        shadeByLoss(swatch, Number(swatch.dataset.loss));
      }
      input.shade();
    }
    input.show(selection);
    after.show(selection);
  };
}

/** The input in figures. Places are positions of the ids that the decoder reads. */
class InputFacts {
  constructor(page, labels) {
    const { input, lens } = page.data;
    Object.assign(this, { input, lens, labels });
    this.total = input.ids.length;
    /** Whether the id after the last one is known: a whole item's last id is only predicted. */
    this.ends = input.targets.at(-1) !== null;
    /** One more than the last place that has an id, read or only predicted. */
    this.end = this.total + (this.ends ? 1 : 0);
    /** The first place that is not given: where the answer, or the future, begins. */
    this.answer = input.source ? 1 : Math.max(1, input.given);
    /** Whether the model wrote what follows the given part itself. */
    this.own = input.answered;
    /** The names of what is given and of what follows it. */
    this.names = ["Given", this.own ? "The model's own answer" : "What follows"];
    if (labels.domain.form === "series") this.names = ["History", "To forecast"];
    this.parts = this.#parts();
  }

  /**
   * The losses of all tokens, and apart, where both have some, of what is given and of what follows
   * it, which alone a score counts.
   */
  #parts() {
    const { nll, counted } = this.input;
    const parts = [
      ["All tokens", () => true],
      [this.names[0], (at) => !counted[at]],
      [this.names[1], (at) => counted[at]],
    ].map(([name, isPart]) => {
      const losses = nll.filter((loss, at) => loss !== null && isPart(at));
      const sum = losses.reduce((total, loss) => total + loss, 0);
      return { name, losses, sum, mean: mean(losses) };
    });
    return parts.every(({ losses }) => losses.length) ? parts : parts.slice(0, 1);
  }

  id(place) {
    return place < this.total ? this.input.ids[place] : this.input.targets.at(-1);
  }

  loss(place) {
    return place > 0 ? this.input.nll[place - 1] : null;
  }

  /** The words for a token: its place, its loss and its probability. */
  title(place) {
    const id = this.id(place);
    const bytes = this.labels.detail(id);
    const name = `position ${place} “${this.labels.text(id, place)}”, id ${id}`;
    return `${name}${bytes ? `, bytes ${bytes}` : ""}: ${this.lossText(place)}`;
  }

  lossText(place) {
    const loss = this.loss(place);
    if (place === 0) return "nothing stands before it, so it has no loss";
    if (loss === null) return "it cannot follow by the rules of this item, so it has no loss";
    const p = this.lens.p_true.at(-1)[place - 1];
    const only = place === this.total ? ", predicted but not read" : "";
    return `loss ${nats(loss)} nats, probability ${percent(p)}${only}`;
  }
}

// -- heading and figures -------------------------------------------------------------------------

function links(page, state) {
  const attends = page.data.flow.some(({ layers }) => layers.some(({ entropy }) => entropy));
  const tabs = {
    space: "Walk through it in 3D",
    matrix: attends ? "Attention as matrices" : "States as matrices",
    flow: "What each block adds",
    code: "Its pseudo code",
    checks: "How exact the numbers are",
  };
  return el(
    "nav",
    { class: "io-links", "aria-label": "What can be seen" },
    Object.entries(tabs).map(([tab, text]) =>
      el("button", { text: `${text} →`, onclick: () => state.set({ tab }) }),
    ),
  );
}

/** What this page is, with the facts of its run. */
function leadSentences(page, facts) {
  const { run, input, architecture, domain } = page.data;
  const tokens = (number) => `${count(number)} token${number === 1 ? "" : "s"}`;
  const parameters = architecture.parts.reduce((sum, part) => sum + part.parameters, 0);
  const said = [
    `This page shows one forward pass of the run “${visible(run.name)}”, a model with ` +
      `${count(parameters)} parameters, in its real numbers.`,
  ];
  const series = domain.id === null ? "a series" : `the series “${visible(String(domain.id))}”`;
  const of = {
    picture: ` of a picture of ${domain.height} × ${domain.width} pixels`,
    series: ` of ${series}`,
  };
  if (input.source) {
    const source = tokens(input.source.length);
    said.push(`The encoder read ${source} and the decoder ${tokens(facts.total)}.`);
  } else said.push(`It read ${tokens(facts.total)}${of[domain.form] ?? ""}.`);
  if (facts.own) {
    const from = `From position ${facts.answer} on`;
    said.push(`${from}, the tokens are the model's own answer, the likeliest ones.`);
  }
  const [all, given, rest] = facts.parts;
  const followed = facts.own ? "followed" : "truly followed";
  if (given) {
    const past = domain.form === "series" ? "the history" : "what is given";
    said.push(
      `Its mean loss is ${nats(given.mean)} nats a token in ${past}, and ` +
        `${nats(rest.mean)} nats (perplexity ${perplexity(rest.mean)}) in what ${followed}.`,
    );
  } else if (all.mean !== null) {
    said.push(
      `It gave the tokens that ${followed} a mean loss of ${nats(all.mean)} nats ` +
        `(perplexity ${perplexity(all.mean)}).`,
    );
  }
  if (!facts.ends) said.push("What it expects after the last token stands under “Next token”.");
  return said;
}

function lossLegend() {
  const levels = Array.from({ length: LOSS_SHADES + 1 }, (_, level) => level);
  const words = (level) => (level === LOSS_SHADES ? `${level} +` : level);
  const swatch = (level) =>
    el("span", { class: "io-swatch", "data-loss": level, text: words(level) });
  return el(
    "div",
    { class: "io-legend", role: "img", "aria-label": "Shades: 0 nats pale, 6 nats and more dark" },
    div("io-legend-names", el("span", { text: "loss, nats" }), "probability"),
    levels.map((level) => el("div", {}, swatch(level), percent(Math.exp(-level)))),
  );
}

/** The mean and the sum of the loss; of what is given and of what follows it apart. */
function lossSums(facts) {
  const lines = facts.parts.map(
    ({ name, mean, sum, losses }) =>
      `${name}: mean loss ${nats(mean)} nats (${nats(mean / Math.LN2)} bits), ` +
      `sum ${number(sum, 4)} nats over ${count(losses.length)}.`,
  );
  const ids = facts.input.legal[1] - facts.input.legal[0];
  const equal = `Equal chances for the ${count(ids)} ids at the end: ${fixed(Math.log(ids))} nats.`;
  const ahead = "The last token is predicted, not read.";
  lines.push([ids > 1 ? equal : "", facts.ends ? ahead : ""].join(" "));
  return el(
    "p",
    { class: "quiet io-words" },
    lines.map((text) => el("span", { text })),
  );
}

function perplexity(loss) {
  const value = Math.exp(loss);
  return value < 100 ? fixed(value) : count(Math.round(value));
}

/** Every token in figures; the rows are made when they are first opened. */
function lossTable(page, labels, facts) {
  const { rank, p_true } = page.data.lens;
  const before = (levels, place) => (facts.loss(place) === null ? null : levels.at(-1)[place - 1]);
  const columns = [
    ["position", (place) => place],
    ["token", (place, id) => labels.name(id, place), null],
    ["id", (_, id) => id],
    ["hex", (_, id) => labels.detail(id) ?? "–"],
    ["loss, nats", (place) => nats(facts.loss(place))],
    ["probability", (place) => percent(before(p_true, place))],
    ["rank", (place) => (before(rank, place) === null ? "–" : count(before(rank, place)))],
  ].filter(([head]) => head !== "hex" || labels.domain.task === "byte");
  const fill = (body) => {
    if (body.childElementCount) return;
    const rows = Array.from({ length: facts.end }, (_, place) =>
      columns.map(([, cell]) => cell(place, facts.id(place))),
    );
    const heads = columns.map(([head, , kind = "number"]) => [head, kind]);
    body.append(div("io-scroll", table(heads, rows, { class: "io-table" })));
  };
  return folded("All tokens in numbers", fill, { class: "io-details" });
}

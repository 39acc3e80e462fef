// What the model expects: after the selected position, and after the last one under temperature,
// top-k and top-p.

import { bar, Chart, linearScale, plotText, roundTicks, rules } from "./charts.js";
import { count, div, el, fixed, nats, number, percent, svg } from "./dom.js";
import { softmax } from "./tensors.js";

const BARS_SHOWN = 20;
const COLUMNS_SHOWN = 60;
const DRAWS_KEPT = 10;

/** A row of a list of ids: its name, a bar as long as its probability, the number. */
class ChanceRow {
  constructor(labels, id, place, isTrue) {
    this.fill = bar(0);
    this.tick = el("span", { class: "io-tick" });
    this.value = el("span", { class: "io-value" });
    this.node = el(
      "li",
      { class: isTrue ? "io-row is-true" : "io-row" },
      el("span", { class: "io-check", text: isTrue ? "✓" : "", title: isTrue && "the true next" }),
      labels.name(id, place),
      el("span", { class: "bar-track" }, this.fill, this.tick),
      this.value,
    );
  }

  /** share, tick: lengths from 0 to 1; tick null: not shown. */
  show({ share, words, title, tick = null, isCut = false }) {
    this.fill.style.width = `${100 * share}%`;
    this.tick.hidden = tick === null;
    this.tick.style.left = `${100 * tick}%`;
    this.value.textContent = words;
    this.node.title = title;
    this.node.classList.toggle("is-cut", isCut);
  }
}

/** What the model expects after the selected position: its five likeliest ids and the true one. */
export class AfterQuery {
  constructor(labels, facts) {
    Object.assign(this, { labels, facts });
    this.title = el("h2");
    this.rows = el("ol", { class: "io-rows" });
    this.words = el("p", { class: "quiet io-words" });
    const parts = [this.title, this.rows, this.words];
    this.node = el("section", { class: "card", "aria-live": "polite" }, parts);
  }

  show({ stack, query }) {
    const key = `${stack}.${query}`;
    if (key === this.shown) return;
    this.shown = key;
    const { labels, facts } = this;
    const name = el("bdi", { text: labels.position(query, stack) });
    this.title.replaceChildren("Expected after ", name);
    const { lens, input } = facts;
    const levels = [lens.top, lens.p, lens.entropy, lens.rank, lens.p_true];
    const [top, p, entropy, rank, chance] = levels.map((level) => level.at(-1)[query]);
    if (stack === "encoder" || p[0] === null) {
      const reads = "The encoder only reads. The decoder expects: choose one of its tokens.";
      this.rows.replaceChildren();
      this.words.textContent =
        stack === "encoder" ? reads : "No id is legal here: the item is complete.";
      return;
    }
    const target = input.targets[query];
    const isLegal = input.nll[query] !== null;
    const listed = top.map((id, number) => [id, p[number]]).filter(([, each]) => each > 0);
    if (target !== null && isLegal && !top.includes(target)) listed.push([target, chance]);
    const largest = Math.max(...listed.map(([, each]) => each));
    const rows = listed.map(([id, each]) => {
      const row = new ChanceRow(labels, id, query + 1, id === target);
      const title = `id ${id}: ${number(each, 4)}`;
      row.show({ share: each / largest, words: percent(each), title });
      row.node.classList.toggle("is-apart", !top.includes(id));
      return row.node;
    });
    this.rows.replaceChildren(...rows);
    let truth = "What truly follows is not known.";
    if (target !== null && isLegal) {
      const what =
        query >= facts.answer - 1 && facts.own ? "What the model wrote" : "What truly follows";
      truth = `✓ ${what} has rank ${count(rank)} and probability ${percent(chance)}.`;
    } else if (target !== null) {
      const text = labels.text(target, query + 1);
      truth = `What truly follows, “${text}”, cannot follow by the rules of this item.`;
    }
    this.words.textContent = `${truth} Entropy ${nats(entropy)} nats. Bars are in proportion to the largest.`;
  }
}

/**
 * What temperature, then top-k, then top-p make of logits, in falling order (as filter_logits of
 * core/decode/sampling.py). kept: how many ids, the first ones; all: probabilities at this
 * temperature before filters; chances: those of the kept ids, which sum to 1.
 */
function filterLogits(logits, { temperature, topK, topP }) {
  const scaled = logits.map((each) => (each - logits[0]) / temperature);
  const all = softmax(scaled);
  let kept = logits.length;
  if (topK > 0 && topK < kept) {
    const smallest = scaled[topK - 1]; // ids as likely as the k-th are kept too
    while (scaled[kept - 1] < smallest) kept--;
  }
  if (topP < 1) {
    const chances = softmax(scaled.subarray(0, kept));
    let before = chances[0];
    let nucleus = 1;
    while (nucleus < kept && before < topP) before += chances[nucleus++];
    kept = nucleus;
  }
  return { kept, all, chances: softmax(scaled.subarray(0, kept)) };
}

/** The choices of top-k: 0 (all), each of the first numbers, then coarser steps. */
function topKChoices(most) {
  const found = [0];
  for (let k = 1; k < most; k += 10 ** Math.max(0, Math.floor(Math.log10(k / 2)))) found.push(k);
  return found;
}

/** The next id after the last position: sliders, bars, draws; of values also their histogram. */
export class AfterLast {
  constructor(page, labels, facts) {
    this.labels = labels;
    this.place = facts.total;
    this.target = facts.input.targets.at(-1);
    this.node = el("section", { class: "card io-last" }, el("h2", { text: "Next token" }));
    const values = page.has("last_logits") ? page.tensor("last_logits").values : [];
    this.ids = Array.from(values, (_, id) => id).filter((id) => Number.isFinite(values[id]));
    this.ids.sort((one, other) => values[other] - values[one]);
    if (!this.ids.length) {
      const missing = "The logits after the last position are left out of this page.";
      const complete = "No id is legal after the last position: the item is complete.";
      const text = values.length ? complete : missing;
      this.node.append(el("p", { class: "quiet", text }));
      return;
    }
    this.logits = Float64Array.from(this.ids, (id) => values[id]);
    this.own = softmax(this.logits);
    this.#build();
    this.#update();
  }

  #build() {
    const { labels, ids, place, target } = this;
    this.choices = topKChoices(ids.length);
    const ofK = (at) => (at ? count(this.choices[at]) : "all");
    this.sliders = {
      temperature: this.#slider("temperature", [0.1, 2, 0.05, 1], fixed),
      topK: this.#slider("top-k", [0, this.choices.length - 1, 1, 0], ofK),
      topP: this.#slider("top-p", [0.05, 1, 0.05, 1], fixed),
    };
    this.words = el("p", { class: "io-words", role: "status" });
    this.drawn = el("div", { class: "io-draws", role: "status", "aria-label": "ids drawn" });
    const row = (id) => new ChanceRow(labels, id, place, id === target);
    this.rows = ids.slice(0, BARS_SHOWN).map(row);
    this.listed = this.rows.map((each, at) => [each, at]);
    if (ids.indexOf(target) >= BARS_SHOWN) {
      const late = row(target);
      late.node.classList.add("is-apart");
      this.listed.push([late, ids.indexOf(target)]);
    }
    this.rest = el("p", { class: "quiet io-words" });
    this.histogram = Histogram.of(this);
    const last = el("bdi", { text: labels.position(place - 1) });
    const sliders = Object.values(this.sliders).map(({ node }) => node);
    const rows = this.listed.map(([{ node }]) => node);
    const buttons = [
      el("button", { text: "Draw an id", onclick: () => this.#draw() }),
      el("button", { text: "Likeliest only", onclick: () => this.#set({ topK: 1 }) }),
      el("button", { text: "Reset", onclick: () => this.#set({}) }),
    ];
    this.node.append(
      el("p", { class: "quiet" }, "After the last position, ", last, ", from its full logits."),
      div("io-sliders", sliders),
      div("io-buttons", buttons),
      this.drawn,
      this.words,
      this.histogram?.node ?? "",
      el("ol", { class: "io-rows" }, rows),
      this.rest,
    );
  }

  #slider(name, [min, max, step, value], words) {
    const shown = el("output", { class: "mono" });
    const range = { type: "range", min, max, step, value, "aria-label": name };
    const input = el("input", {
      ...range,
      oninput: () => this.#update(),
      onkeydown: (event) => {
        // a slider's own keys, which elsewhere choose positions
        if (/^(Arrow|Home|End|Page)/.test(event.key)) event.stopPropagation();
      },
    });
    const node = el("label", {}, el("span", {}, name, shown), input);
    return { node, input, shown, words };
  }

  /** Moves the sliders, those not named to where they filter nothing. */
  #set({ temperature = 1, topK = 0, topP = 1 }) {
    this.sliders.temperature.input.value = temperature;
    this.sliders.topK.input.value = topK;
    this.sliders.topP.input.value = topP;
    this.#update();
  }

  #update() {
    const { sliders, ids, own, rows } = this;
    for (const { input, shown, words } of Object.values(sliders)) {
      shown.textContent = words(Number(input.value));
      input.setAttribute("aria-valuetext", shown.textContent);
    }
    const temperature = Number(sliders.temperature.input.value);
    const topK = this.choices[Number(sliders.topK.input.value)];
    const topP = Number(sliders.topP.input.value);
    const plain = temperature === 1 && topK === 0 && topP === 1;
    this.filtered = filterLogits(this.logits, { temperature, topK, topP });
    const { kept, all, chances } = this.filtered;
    const longest = Math.max(chances[0], all[0], own[0]);
    for (const [row, at] of this.listed) {
      const isCut = at >= kept;
      const chance = isCut ? all[at] : chances[at];
      const now = isCut ? "removed" : number(chance, 5);
      row.show({
        share: chance / longest,
        tick: plain ? null : own[at] / longest,
        isCut,
        words: isCut ? `${percent(chance)} cut` : percent(chance),
        title: `id ${ids[at]}, rank ${count(at + 1)}: ${now}; at temperature 1 without filters ${number(own[at], 5)}; logit ${number(this.logits[at], 5)}`,
      });
    }
    const entropy = chances.reduce((sum, p) => sum - (p > 0 ? p * Math.log(p) : 0), 0);
    this.words.textContent =
      `${count(kept)} of ${count(ids.length)} ids kept. ` +
      `Entropy ${nats(entropy)} nats, ${nats(entropy / Math.LN2)} bits.`;
    const rest = ids.length - rows.length;
    const others = chances.slice(rows.length).reduce((sum, p) => sum + p, 0);
    this.rest.textContent = [
      rest > 0 ? `${count(rest)} other ids: ${others ? percent(others) : "none kept"}.` : "",
      this.target === null ? "" : "✓ marks what truly follows.",
      plain ? "" : "The upright mark is the model's own probability. Grey bars are removed.",
    ].join(" ");
    this.histogram?.show(chances);
  }

  /** Draws an id from what is kept. */
  #draw() {
    const { kept, chances } = this.filtered;
    let left = Math.random();
    let at = 0;
    while (at < kept - 1 && left >= chances[at]) left -= chances[at++];
    const title = `id ${this.ids[at]}, drawn with probability ${percent(chances[at])}`;
    const name = this.labels.name(this.ids[at], this.place);
    this.drawn.prepend(el("span", { class: "io-draw", title }, name));
    while (this.drawn.childElementCount > DRAWS_KEPT) this.drawn.lastElementChild.remove();
    this.rows.forEach((row, number) => {
      row.node.classList.toggle("is-drawn", number === at);
    });
  }
}

/** The distribution over ordered bins: values of a series, levels of a pixel. */
class Histogram {
  /** The histogram of what may follow the last position; null where ids have no order. */
  static of(last) {
    const { form } = last.labels.domain;
    const bins = { series: valueBins, picture: levelBins }[form]?.(last);
    const isFlat = bins && bins.edges[0] === bins.edges.at(-1); // of a constant series
    return bins && !isFlat ? new Histogram(last, bins) : null;
  }

  constructor({ ids, own, target }, { edges, low, words, isDiscrete = false }) {
    Object.assign(this, { edges, words, isDiscrete });
    this.bins = ids.map((id) => id - low);
    this.truth = target === null || target < low ? null : target - low;
    this.own = this.#byBin(own);
    this.columns = this.#columns();
    this.chart = new Chart("io-histogram", 170, (...sizes) => this.#draw(...sizes));
    this.quantiles = el("p", { class: "quiet io-words" });
    this.node = el("figure", { class: "io-figure" }, this.chart.node, this.quantiles);
  }

  #byBin(chances) {
    const found = new Float64Array(this.edges.length - 1);
    chances.forEach((p, at) => {
      if (this.bins[at] >= 0) found[this.bins[at]] += p;
    });
    return found;
  }

  /** [first bin, one more than the last] of each column: they hold 99.5 % and the true next. */
  #columns() {
    const { own } = this;
    const truth = this.truth ?? quantileBin(own, 0.5);
    const low = Math.min(quantileBin(own, 0.0025), truth);
    const high = Math.max(quantileBin(own, 0.9975), truth);
    const each = Math.ceil((high - low + 1) / COLUMNS_SHOWN);
    const found = [];
    for (let at = low; at <= high; at += each) found.push([at, Math.min(at + each, own.length)]);
    return found;
  }

  show(chances) {
    this.chances = this.#byBin(chances);
    this.chart.draw();
    const [low, middle, high] = [0.05, 0.5, 0.95].map((share) =>
      this.isDiscrete
        ? number(this.edges[0] + 0.5 + quantileBin(this.chances, share))
        : number(quantile(this.chances, this.edges, share), 5),
    );
    const kept = total(this.chances);
    const [from, to] = this.columns[0];
    const wide = number(this.edges[to] - this.edges[from]);
    this.quantiles.textContent = [
      `Median ${middle}; 90 % lie between ${low} and ${high}.`,
      kept < 0.9995 ? `No value at all: ${percent(1 - kept)}.` : "",
      to - from > 1 ? `A column sums ${to - from} bins and is ${wide} wide.` : "",
      "Columns are what is drawn from; the line is the model's own distribution.",
    ].join(" ");
  }

  #draw(drawing, width, height) {
    if (!this.chances) return;
    const { columns, edges, truth } = this;
    const [left, right, top, bottom] = [46, width - 12, 18, height - 38];
    const density = (masses) =>
      columns.map(([from, to]) => total(masses.subarray(from, to)) / (edges[to] - edges[from]));
    const [heights, own] = [this.chances, this.own].map(density);
    const [first, end] = [edges[columns[0][0]], edges[columns.at(-1)[1]]];
    const usual = edges[columns[0][1]] - edges[columns[0][0]];
    const most = Math.max(...heights, ...own);
    const x = linearScale(first, end, left, right);
    const y = linearScale(0, most, bottom, top);
    const ofMass = linearScale(0, most * usual, bottom, top);
    const write = (tick) => (tick ? percent(tick) : "0");
    drawing.append(...rules(roundTicks(0, most * usual, 3), ofMass, left, right, write));
    let outline = `M${x(first)} ${bottom}`;
    columns.forEach(([from, to], at) => {
      const [start, stop] = [x(edges[from]), x(edges[to])];
      outline += `V${y(own[at]).toFixed(2)}H${stop.toFixed(2)}`;
      const size = { x: start, width: Math.max(0.5, stop - start - 0.6), y: y(heights[at]) };
      const rect = { class: "io-column-bar", ...size, height: bottom - y(heights[at]) };
      drawing.append(svg("rect", rect));
    });
    drawing.append(
      svg("path", { class: "io-outline", d: `${outline}V${bottom}` }),
      ...roundTicks(first, end, width / 80).map((tick) =>
        plotText(number(tick, 5), x(tick), height - 22, "middle"),
      ),
      plotText(this.words, right, height - 5, "end"),
    );
    let words = "";
    if (truth !== null) {
      const value = (edges[truth] + edges[truth + 1]) / 2;
      const at = x(value);
      words = `true next ${number(value, 5)}`;
      const [anchor, beside] = at > width / 2 ? ["end", at - 5] : ["start", at + 5];
      drawing.append(
        svg("line", { class: "io-truth", x1: at, x2: at, y1: top - 12, y2: bottom }),
        plotText(words, beside, top - 5, anchor, "is-truth"),
      );
    }
    const label = `Histogram of the next ${this.words} from ${number(first)} to ${number(end)}. ${words}`;
    drawing.setAttribute("aria-label", label);
  }
}

function valueBins({ labels, place }) {
  const { base, scale, edges, first_bin: low } = labels.domain;
  const at = place + labels.offset - 1;
  if (at >= base.length) return { edges, low, words: "value, in units of the scale from the base" };
  return { edges: edges.map((edge) => base[at] + scale[at] * edge), low, words: "value" };
}

/** null where ids are no levels of one pixel, in order. */
function levelBins({ labels, ids }) {
  const { patch, thumbnails } = labels.domain;
  const shades = [...ids]
    .sort((one, other) => one - other)
    .flatMap((id) => (thumbnails[String(id)] ? [thumbnails[String(id)]] : []));
  const isLevel = (bytes, at) =>
    new Set(bytes).size === 1 && (at === 0 || bytes[0] >= shades[at - 1][0]);
  if (patch[0] * patch[1] !== 1 || shades.length < 3 || !shades.every(isLevel)) return null;
  const [low, high] = [Math.min(...ids), Math.max(...ids)];
  const edges = Array.from({ length: high - low + 2 }, (_, at) => low + at - 0.5);
  return { edges, low, words: "level", isDiscrete: true };
}

function total(masses) {
  return masses.reduce((sum, each) => sum + each, 0);
}

/** The bin in which a share of the mass is reached. */
function quantileBin(masses, share) {
  const goal = share * total(masses);
  let sum = 0;
  const bin = masses.findIndex((mass) => {
    sum += mass;
    return sum >= goal;
  });
  return bin < 0 ? masses.length - 1 : bin;
}

/** The value below which a share of the mass lies, even within a bin. */
function quantile(masses, edges, share) {
  const bin = quantileBin(masses, share);
  const rest = share * total(masses) - total(masses.subarray(0, bin));
  const part = masses[bin] > 0 ? rest / masses[bin] : 0.5;
  return edges[bin] + part * (edges[bin + 1] - edges[bin]);
}

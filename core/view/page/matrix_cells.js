// A cell of a matrix written out: the sum that gives it, beside the value that is stored.

import { bar } from "./charts.js";
import { folded, table } from "./controls.js";
import { div, el, number } from "./dom.js";

const TERMS_SHOWN = 6; // terms of a sum that are shown as bars

export class WrittenCell {
  constructor(page) {
    this.page = page;
    this.node = div("mx-cell");
    this.node.setAttribute("aria-live", "polite");
    this.open = false; // whether all terms are shown
  }

  show({ name, lines, terms = [], what, notes = [] }) {
    const quiet = (text) => el("p", { class: "quiet", text });
    this.node.replaceChildren(
      el("h3", { text: name }),
      ...lines.flatMap((line) => this.#line(line)),
      ...notes.map(quiet),
      ...(terms.length ? this.#terms(terms, what) : []),
    );
  }

  /** A line, and beneath it the stored value. */
  #line({ text, result, stored = null, tensor }) {
    const value = el("b", { text: number(result, 4) });
    const line = el("p", { class: "mx-sum" }, text ? `${text} = ` : "= ", value);
    if (stored === null) return [line];
    const { recipe, error } = this.page.record(tensor);
    const away = Math.abs(result - stored);
    const off = away > 0 && away < 1e-7 ? "below 1e−7" : number(away, 1);
    let exact = error ? ` The stored value is exact to ${number(error, 1)}.` : "";
    if (recipe) {
      exact = ` This page computes the stored value; that of the run differs by at most ${number(error, 1)}.`;
    }
    const words = `stored: ${number(stored, 4)}, difference ${off}.${exact}`;
    return [line, el("p", { class: "quiet mx-stored", text: words })];
  }

  #terms(terms, what) {
    const size = ({ value }) => Math.abs(value);
    const sorted = [...terms].sort((a, b) => size(b) - size(a));
    const most = size(sorted[0]) || 1;
    const rows = sorted.slice(0, TERMS_SHOWN).map((term) => {
      const name = el("bdi", { class: "mx-name", text: term.label });
      const filled = bar(size(term) / most, term.value < 0 ? "" : "is-positive");
      return [name, term.text, number(term.value), filled];
    });
    const columns = [[""], ["", "mono"], ["", "number"], ["", "mx-bars"]];
    const caption = terms.length > TERMS_SHOWN ? `${what}, largest first` : what;
    const kind = (at) => sorted[at].chosen && "is-key";
    const nodes = [table(columns, rows, { class: "mx-terms" }, { caption, kind })];
    if (terms.length === 1) return nodes;
    const fill = (body) => {
      body.className = "mono mx-all";
      body.textContent = terms.map(({ text, label }) => `${text} [${label}]`).join(" + ");
    };
    const all = folded(`All ${terms.length} terms`, fill, { open: this.open });
    all.addEventListener("toggle", () => {
      this.open = all.open;
    });
    return [...nodes, all];
  }
}

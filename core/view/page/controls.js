// What panels share to be operated: choices, keys, tables, what is folded away.

import { clamp, el } from "./dom.js";

/** What an arrow key moves by: [rows, columns]. */
export const ARROWS = {
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
};

/** The place that a key leads to, of `first` to `last` in rows of `columns`; null: none. */
export function placeAfterKey(key, at, first, last, columns = 0) {
  const [down, right] = ARROWS[key] ?? [0, 0];
  const step = down * columns + right;
  const to = { Home: first, End: last }[key] ?? (step ? at + step : null);
  return to === null ? null : clamp(to, first, last);
}

/** Keeps a key for the element that has the focus. */
export function keepKey(event) {
  event.preventDefault();
  event.stopPropagation();
}

let choices = 0;

/** Options, one of which is chosen. options: value -> text; look: pills, joined or plain. */
export function choice(label, options, chosen, change, look = "pills") {
  const name = `choice-${choices++}`;
  const option = ([value, text]) => {
    const onchange = () => change(value);
    const input = el("input", { type: "radio", name, value, checked: value === chosen, onchange });
    // after a click of the mouse the arrow keys are the page's again
    const onclick = (event) => event.detail > 0 && setTimeout(() => input.blur());
    return el("label", { onclick }, input, el("span", { text }));
  };
  return el(
    "div",
    {
      class: `choice is-${look}`,
      role: "radiogroup",
      "aria-label": label,
      onkeydown: (event) => event.key in ARROWS && event.stopPropagation(),
    },
    look === "plain" ? el("span", { class: "quiet", text: label }) : null,
    Object.entries(options).map(option),
  );
}

/** What is folded away; fill(body) makes it when it is opened. */
export function folded(words, fill, props = {}) {
  const body = el("div");
  const node = el(
    "details",
    { ...props, ontoggle: () => node.open && fill(body) },
    el("summary", { text: words }),
    body,
  );
  return node;
}

/**
 * A table. columns: [head, class of the cells]; of class `name` are names of rows. rows: lists of
 * texts or nodes; kind: the class of a row, by its number.
 */
export function table(columns, rows, props = {}, { caption = null, kind: kindOfRow } = {}) {
  const heads = columns.map(([head, kind]) =>
    el("th", { scope: head && "col", class: kind, text: head }),
  );
  const cell = (content, at) => {
    const kind = columns[at][1];
    if (kind === "name") return el("th", { scope: "row" }, content);
    return el("td", { class: kind }, content);
  };
  return el(
    "table",
    props,
    caption && el("caption", { text: caption }),
    columns.some(([head]) => head) ? el("thead", {}, el("tr", {}, heads)) : null,
    el(
      "tbody",
      {},
      rows.map((row, number) => el("tr", { class: kindOfRow?.(number) }, row.map(cell))),
    ),
  );
}

/** Scrolls a window of a width so that what begins at `left` is in its middle, if it is outside. */
export function revealAcross(node, left, wide, space) {
  if (left < node.scrollLeft || left + wide > node.scrollLeft + space) {
    node.scrollLeft = left + (wide - space) / 2;
  }
}

// Small helpers to build elements and to write numbers.

/** An element. `props`: attributes; `class`, `text`; functions named on... listen to events. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** A div of a class. */
export function div(name, ...children) {
  return el("div", { class: name }, ...children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** A number with `digits` significant digits and a true minus sign. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === Number.POSITIVE_INFINITY) return "∞";
  if (value === Number.NEGATIVE_INFINITY) return "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1e5 || size < 1e-4
      ? value.toExponential(digits - 1)
      : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

/** A number with a fixed number of decimals, for columns. */
export function fixed(value, decimals = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return number(value);
  return value.toFixed(decimals).replace("-", "−");
}

/** A loss or an entropy: with two decimals, if these show it. */
export function nats(value) {
  return value !== null && Math.abs(value) < 0.005 ? number(value) : fixed(value);
}

/** A probability as a percentage. */
export function percent(value) {
  if (value === null || value === undefined) return "–";
  if (value > 0 && value < 0.001) return "<0.1\u00a0%";
  return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)}\u00a0%`;
}

/** Thousands separated: 1,234,567. */
export function count(value) {
  return value.toLocaleString("en-US");
}

export function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

/** A canvas that is sharp on this screen: width and height in CSS pixels. */
export function canvas(width, height, props = {}) {
  const node = el("canvas", props);
  resize(node, width, height);
  return node;
}

/** Gives a canvas a size in CSS pixels; returns its context, scaled to them. */
export function resize(node, width, height) {
  const ratio = window.devicePixelRatio || 1;
  node.width = Math.max(1, Math.round(width * ratio));
  node.height = Math.max(1, Math.round(height * ratio));
  node.style.width = `${width}px`;
  node.style.height = `${height}px`;
  const context = node.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

// Colours of values. Diverging: blue, neutral, orange, which all common kinds of colour blindness
// tell apart. The neutral colour is that of the page.

const LIGHT = {
  negative: [
    [247, 247, 245],
    [146, 187, 224],
    [33, 102, 172],
    [8, 40, 92],
  ],
  positive: [
    [247, 247, 245],
    [246, 185, 122],
    [209, 96, 20],
    [110, 40, 4],
  ],
};
const DARK = {
  negative: [
    [27, 30, 36],
    [33, 78, 128],
    [66, 146, 220],
    [186, 222, 255],
  ],
  positive: [
    [27, 30, 36],
    [124, 62, 18],
    [226, 122, 42],
    [255, 222, 178],
  ],
};

export const LOSS_SHADES = 6; // nats: the loss with the strongest colour

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : prefersDark.matches;
}

/** [r, g, b] of a value from −1 to 1. */
export function diverging(value) {
  const scale = isDark() ? DARK : LIGHT;
  const stops = value < 0 ? scale.negative : scale.positive;
  const at = Math.min(1, Math.abs(value)) * (stops.length - 1);
  const below = Math.min(stops.length - 2, Math.floor(at));
  const part = at - below;
  return stops[below].map((from, i) => Math.round(from + part * (stops[below + 1][i] - from)));
}

/** [r, g, b] of a share from 0 to 1: of a probability or a weight. */
export function sequential(share) {
  return diverging(-Math.min(1, Math.max(0, share)));
}

/** [r, g, b] of a surprise: a loss from 0 to 1. */
export function warm(share) {
  return diverging(Math.min(1, Math.max(0, share)));
}

export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}

/** Black or white, whichever is easier to read on a colour. */
export function ink([red, green, blue]) {
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? "#111418" : "#f5f6f8";
}

/** Gives an element a colour and letters that are readable on it; null takes both away. */
export function tint(node, colour) {
  node.style.backgroundColor = colour ? css(colour) : "";
  node.style.color = colour ? ink(colour) : "";
}

/** The colour of a loss in nats. */
export function lossColour(loss) {
  return warm((0.75 * Math.min(loss, LOSS_SHADES)) / LOSS_SHADES);
}

const probe = document.createElement("span"); // what a CSS variable comes to

/** The value of a CSS variable that a canvas takes: a colour of the page, or a font. */
export function tone(name) {
  const value = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  if (!value.startsWith("light-dark(")) return value;
  if (!probe.isConnected) document.body.append(probe);
  probe.hidden = true;
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

const colourTables = { light: new WeakMap(), dark: new WeakMap() }; // colours of levels, by function

/** The colours of −255/255 ... 255/255 by a colour function, in this theme. */
function coloursOf(colour) {
  const own = isDark() ? colourTables.dark : colourTables.light;
  if (!own.has(colour)) {
    const table = Array.from({ length: 511 }, (_, i) => colour((i - 255) / 255));
    own.set(colour, table);
  }
  return own.get(colour);
}

const levelOf = (value) => Math.round((Math.max(-1, Math.min(1, value)) + 1) * 255);

/** [r, g, b] of a value from −1 to 1 by a colour function, of which the colours are kept. */
export function shade(value, colour = diverging) {
  return coloursOf(colour)[levelOf(value)];
}

/**
 * A matrix as a picture with one pixel a value. `limit`: the size with the strongest colour; values
 * of minus infinity (what is masked) are transparent.
 */
export function picture(matrix, limit, colour = diverging) {
  const image = document.createElement("canvas");
  image.width = matrix.columns;
  image.height = matrix.rows;
  const context = image.getContext("2d");
  const pixels = context.createImageData(matrix.columns, matrix.rows);
  const table = coloursOf(colour);
  let at = 0;
  for (let row = 0; row < matrix.rows; row++) {
    for (let column = 0; column < matrix.columns; column++) {
      const value = matrix.at(row, column);
      if (Number.isFinite(value)) {
        const own = table[levelOf(value / (limit || 1))];
        [pixels.data[at], pixels.data[at + 1], pixels.data[at + 2]] = own;
        pixels.data[at + 3] = 255;
      }
      at += 4;
    }
  }
  context.putImageData(pixels, 0, 0);
  return image;
}

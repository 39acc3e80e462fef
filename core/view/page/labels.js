// Ids in the domain's own form: text, patches of a picture, values of a series.

import { canvas, el, fixed } from "./dom.js";

const PARTS = { cross: "cross-attention", ffn: "feed-forward" };
const MIXERS = { attn: "attention", rnn: "recurrence", conv: "convolution", mixer: "mixer" };
const MARKS = new Map([
  ["\n", "⏎"],
  ["\t", "⇥"],
  ["\r", "␍"],
  [" ", "␣"],
]);

/** Text as it can be seen: controls and marks of direction become escapes, ends of lines ⏎. */
export function visible(text) {
  const shown = text.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
  return shown.replace(/[\p{C}\p{Zl}\p{Zp}\n\t\r]/gu, (letter) => {
    if (MARKS.has(letter)) return MARKS.get(letter);
    const code = letter.codePointAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16)}`;
  });
}

/** The bytes of a label in hexadecimal, for the byte task. */
export function hex(text) {
  const escaped = /^\\x([0-9a-f]{2})$/.exec(text);
  if (escaped) return escaped[1];
  const bytes = new TextEncoder().encode(text);
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
}

export class Labels {
  constructor(page) {
    this.page = page;
    this.domain = page.data.domain;
    this.input = page.data.input;
    /** Where the ids that the decoder reads begin in the item's sequence. */
    this.offset = this.input.source ? this.input.given - 1 : 0;
  }

  /**
   * The text of an id. place: where it stands among the ids that the decoder reads, which a series
   * needs: its value there.
   */
  text(id, place = null) {
    if (id === null || id === undefined) return "?";
    const value = place === null ? null : this.value(id, place);
    if (value !== null) return fixed(value, this.decimals(place));
    const label = this.page.data.labels[String(id)];
    return label === undefined ? `#${id}` : visible(label) || "ε";
  }

  /** The value that an id of a series stands for at a place; null for other ids and domains. */
  value(id, place) {
    const { domain } = this;
    if (domain.form !== "series") return null;
    const centre = domain.centres[id - domain.first_bin];
    if (centre === undefined) return null; // an id that is no bin
    const at = place + this.offset - 1; // the first id is the begin token
    if (at < 0 || at >= domain.base.length) return null;
    return domain.base[at] + domain.scale[at] * centre;
  }

  /** How many decimals of a value tell the bins of a series apart at a place. */
  decimals(place) {
    const { scale, edges } = this.domain;
    this.step ??= Math.min(...edges.slice(1).map((edge, i) => edge - edges[i]));
    const width = scale[place + this.offset - 1] * this.step;
    return width > 0 ? Math.max(0, Math.min(10, Math.ceil(-Math.log10(width)))) : 3;
  }

  /** The patch of an id as a picture of `size` CSS pixels; null for other ids and domains. */
  thumbnail(id, size = 18) {
    const bytes = this.domain.thumbnails?.[String(id)];
    if (!bytes) return null;
    const [height, width, channels] = this.domain.thumbnail;
    return draw(bytes, height, width, channels, size);
  }

  /** An element that shows an id: a thumbnail, or its text. */
  chip(id, place = null, size = 18) {
    return this.thumbnail(id, size) ?? el("bdi", { class: "token", text: this.text(id, place) });
  }

  /** The name of an id: its chip, and its text or bytes where the chip alone is vague. */
  name(id, place = null, size = 20) {
    const bytes = this.detail(id);
    const picture = this.thumbnail(id, size);
    const name = el("span", { class: "id-name" }, picture ?? this.chip(id, place, size));
    if (picture) name.append(el("span", { class: "quiet", text: this.text(id) }));
    else if (bytes) name.append(el("span", { class: "hex", text: bytes }));
    return name;
  }

  ids(stack = "blocks") {
    return stack === "encoder" ? this.input.source : this.input.ids;
  }

  /** The chip of the id at a position. */
  chipAt(place, stack = "blocks", size = 18) {
    return this.chip(this.ids(stack)[place], stack === "encoder" ? null : place, size);
  }

  /** The words for a position: `5 “the”`. */
  position(place, stack = "blocks") {
    const id = this.ids(stack)[place];
    return `${place} “${this.text(id, stack === "encoder" ? null : place)}”`;
  }

  /** The name of a block: `block 2`, or `encoder 0` and `decoder 0` where there are both. */
  block(stack, block) {
    if (!this.input.source) return `block ${block}`;
    return `${stack === "encoder" ? "encoder" : "decoder"} ${block}`;
  }

  /** What a layer of `flow` is: `attention`, `feed-forward`. */
  layer({ part, name }) {
    return PARTS[part] ?? MIXERS[name];
  }

  /** What a byte is in numbers, for the byte task; else null. */
  detail(id) {
    const label = this.page.data.labels[String(id)];
    return this.domain.task === "byte" && label !== undefined && !/^<\w+>$/.test(label)
      ? hex(label)
      : null;
  }
}

/** Bytes (rows, columns, channels) as a canvas whose longer side has `size` CSS pixels. */
export function draw(bytes, height, width, channels, size) {
  const image = document.createElement("canvas");
  image.width = width;
  image.height = height;
  const context = image.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let channel = 0; channel < 3; channel++) {
      pixels.data[4 * i + channel] = bytes[i * channels + (channels === 3 ? channel : 0)];
    }
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  const scale = size / Math.max(height, width);
  const shown = canvas(width * scale, height * scale, { class: "thumbnail" });
  const target = shown.getContext("2d");
  target.imageSmoothingEnabled = false;
  target.drawImage(image, 0, 0, width * scale, height * scale);
  return shown;
}

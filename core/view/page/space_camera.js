// The camera of the 3D walk: its projection, its flights and the gestures that move it. It is
// orthographic: every face is an affine parallelogram, and a tensor is drawn exactly, as a picture
// with one pixel a value.

import { clamped } from "./space_scene.js";

const LIMITS = { yaw: [-1.25, 1.25], pitch: [-0.35, 1.3] }; // in radians
const LARGEST = 160; // pixels a unit

/** Looks at (x, y, z), which it shows in the middle, with `zoom` pixels a unit, no fewer than `least`. */
export class Camera {
  constructor(values) {
    Object.assign(this, { yaw: 0, pitch: 0, zoom: 1, least: 0, x: 0, y: 0, z: 0 }, values);
  }

  /** Coefficients: pixels from the middle are [rx x + rz z, dx x + dy y + dz z]. */
  get axes() {
    const { yaw, pitch, zoom } = this;
    return {
      rx: zoom * Math.cos(yaw),
      rz: zoom * Math.sin(yaw),
      dx: zoom * Math.sin(yaw) * Math.sin(pitch),
      dy: zoom * Math.cos(pitch),
      dz: -zoom * Math.cos(yaw) * Math.sin(pitch),
    };
  }

  /** Moves what is seen by (right, down) pixels. */
  pan(right, down) {
    const { rx, rz, dx, dy, dz } = this.axes;
    const square = this.zoom ** 2;
    this.x -= (right * rx + down * dx) / square;
    this.y -= (down * dy) / square;
    this.z -= (right * rz + down * dz) / square;
  }

  /** Moves so that a point in space is seen at (right, down) pixels from the middle. */
  place(point, right, down) {
    [this.x, this.y, this.z] = point;
    this.pan(right, down);
  }

  /** The point that is seen at (right, down), at the depth of what the camera looks at. */
  point(right, down) {
    const moved = new Camera(this);
    moved.pan(-right, -down);
    return [moved.x, moved.y, moved.z];
  }

  limit() {
    this.yaw = clamped(this.yaw, ...LIMITS.yaw);
    this.pitch = clamped(this.pitch, ...LIMITS.pitch);
    this.zoom = clamped(this.zoom, this.least, LARGEST);
  }

  /** A camera that sees slabs from given angles, as large as (width, height) pixels allow. */
  static fit(slabs, angles, width, height, largest = LARGEST) {
    const camera = new Camera(angles);
    const { rx, rz, dx, dy, dz } = camera.axes;
    camera.z = slabs.reduce((sum, slab) => sum + slab.z, 0) / slabs.length;
    const corners = slabs.flatMap(({ x, y, z, columns, rows }) =>
      [x, x + columns].flatMap((right) =>
        [y, y + rows].map((down) => [rx * right + rz * z, dx * right + dy * down + dz * z]),
      ),
    );
    const [across, along] = [0, 1].map((i) => {
      const all = corners.map((corner) => corner[i]);
      return { low: Math.min(...all), high: Math.max(...all) };
    });
    const offset = [rz * camera.z, dz * camera.z];
    camera.pan(
      offset[0] - (across.low + across.high) / 2,
      offset[1] - (along.low + along.high) / 2,
    );
    const rooms = [width / (across.high - across.low), height / (along.high - along.low)];
    camera.zoom = Math.min(...rooms, largest);
    return camera;
  }
}

/** A camera on its way to another. */
export class Flight {
  constructor(camera) {
    this.camera = camera;
    this.way = null;
  }

  /** A copy of the camera, or of the one that it is on its way to. */
  get goal() {
    return new Camera(this.way?.to ?? this.camera);
  }

  /** Starts for `to`; time: milliseconds, 0 to be there at once. */
  start(to, time) {
    to.least = this.camera.least;
    to.limit();
    this.way = time ? { from: { ...this.camera }, to, time, begin: null } : null;
    if (!time) Object.assign(this.camera, to);
  }

  stop() {
    this.way = null;
  }

  /** Moves the camera to where it is now. Returns whether it goes on. */
  step(now) {
    if (!this.way) return false;
    const { from, to, time } = this.way;
    this.way.begin ??= now;
    const share = Math.min(1, (now - this.way.begin) / time);
    const eased = share < 0.5 ? 4 * share ** 3 : 1 - (2 - 2 * share) ** 3 / 2;
    for (const name of ["yaw", "pitch", "x", "y", "z"]) {
      this.camera[name] = from[name] + eased * (to[name] - from[name]);
    }
    this.camera.zoom = from.zoom * (to.zoom / from.zoom) ** eased;
    if (share === 1) this.way = null;
    return share < 1;
  }
}

/**
 * Moves a camera by pointer, touch and wheel: a drag orbits, two fingers or shift pan, two fingers
 * or the wheel zoom, all about the point in space that was taken.
 *
 * view: { middle(): where the canvas shows what the camera looks at; find(x, y): what is there, with
 * its `point`; taken(), moved(): called before and after motions; hover(at or null), click(at),
 * face(at) }
 */
export function followGestures(node, camera, view) {
  const pointers = new Map();
  let grip = null; // of a drag: the point that was taken, and the camera and fingers at that moment
  const local = ({ clientX, clientY }) => {
    const box = node.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top];
  };
  const centred = (at) => view.middle().map((middle, i) => at[i] - middle);
  const pointAt = (at) => view.find(...at)?.point ?? camera.point(...centred(at));
  /** The middle of all fingers, and how far the first two are apart. */
  const fingers = () => {
    const all = [...pointers.values()];
    const at = [0, 1].map((i) => all.reduce((sum, each) => sum + each[i], 0) / all.length);
    return { at, spread: all[1] && Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) };
  };
  const take = (changes) => {
    const { at, spread } = fingers();
    grip = { ...grip, ...changes, at, spread, point: pointAt(at), camera: { ...camera } };
  };
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (pointers.size) {
      take();
      return;
    }
    const isClick = event.type === "pointerup" && grip.way < 4 && !event.button && !event.shiftKey;
    if (isClick) view.click(local(event));
  };
  const listeners = {
    pointerdown(event) {
      node.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, local(event));
      view.taken();
      take({ isPan: event.shiftKey || event.button > 0, way: pointers.size > 1 ? 99 : 0 });
    },
    pointermove(event) {
      if (!pointers.has(event.pointerId)) {
        view.hover(local(event));
        return;
      }
      pointers.set(event.pointerId, local(event));
      const { at, spread } = fingers();
      const [right, down] = [at[0] - grip.at[0], at[1] - grip.at[1]];
      grip.way = Math.max(grip.way, Math.hypot(right, down));
      if (grip.way < 4) return;
      view.hover(null);
      Object.assign(camera, grip.camera);
      const isPan = grip.isPan || spread;
      if (spread) camera.zoom *= spread / (grip.spread || spread);
      if (!isPan) {
        camera.yaw -= right * 0.006;
        camera.pitch += down * 0.006;
      }
      camera.limit();
      camera.place(grip.point, ...centred(isPan ? at : grip.at));
      view.moved();
    },
    pointerup: release,
    pointercancel: release,
    pointerleave: () => view.hover(null),
    contextmenu: (event) => event.preventDefault(),
    dblclick: (event) => view.face(local(event)),
    wheel(event) {
      event.preventDefault();
      const at = local(event);
      const point = pointAt(at);
      const lines = event.deltaMode ? 30 : 1;
      view.taken();
      camera.zoom *= Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016));
      camera.limit();
      camera.place(point, ...centred(at));
      view.moved();
    },
  };
  for (const [name, listener] of Object.entries(listeners)) {
    node.addEventListener(name, listener, { passive: false });
  }
}

// The binary frame of a live view, and the canvas that shows the newest one. What the
// header has is told in /asyncapi.json, at `subscribe_frames`.

const HEADER_BYTES = 56;
/** Steps in which the width of pictures is chosen, and the widest that there are. */
const STEP_PX = 160;
const WIDEST_PX = 8192;
const NEARLY = 0.75;
const KINDS = { 1: 'image/jpeg', 2: 'image/png' };
const CURSORS = [
  'default', 'pointer', 'text', 'none', 'context-menu', 'help', 'progress', 'wait', 'cell', 'crosshair',
  'vertical-text', 'alias', 'copy', 'move', 'no-drop', 'not-allowed', 'grab', 'grabbing', 'all-scroll',
  'col-resize', 'row-resize', 'n-resize', 'e-resize', 's-resize', 'w-resize', 'ne-resize', 'nw-resize',
  'se-resize', 'sw-resize', 'ew-resize', 'ns-resize', 'nesw-resize', 'nwse-resize', 'zoom-in',
];

/** Reads a frame; `null`: it is of a newer release. */
export function read(buffer) {
  if (buffer.byteLength < HEADER_BYTES) return null;
  const view = new DataView(buffer);
  const pictureAt = view.getUint8(3);
  if (view.getUint8(0) !== 1 || pictureAt < HEADER_BYTES) return null;
  const kind = KINDS[view.getUint8(1)];
  return {
    picture: kind && new Blob([new Uint8Array(buffer, pictureAt)], { type: kind }),
    cursor: CURSORS[view.getUint8(2)] ?? 'default',
    width: view.getFloat32(4),
    height: view.getFloat32(8),
    pageScale: view.getFloat32(12),
    scrollX: view.getFloat32(16),
    scrollY: view.getFloat32(20),
    sequence: view.getBigUint64(24),
    capturedAtUs: view.getBigUint64(32),
  };
}

/** Shows frames on a canvas as large as its stage allows. One is decoded at a time, and
 * of those that come meanwhile the newest is next. */
export class Screen {
  /** The size of the page's view, in its CSS pixels. */
  width = 0;
  height = 0;
  drawn = 0;
  #canvas;
  #stage;
  #context;
  #next = null;
  #decoding = false;

  constructor(canvas, stage) {
    this.#canvas = canvas;
    this.#stage = stage;
    this.#context = canvas.getContext('2d', { alpha: false });
  }

  show(frame) {
    this.#canvas.style.cursor = frame.cursor;
    if (frame.picture) {
      this.#next = frame;
      if (!this.#decoding) this.#decode();
    }
  }

  async #decode() {
    this.#decoding = true;
    while (this.#next) {
      const frame = this.#next;
      this.#next = null;
      try {
        this.#draw(frame, await createImageBitmap(frame.picture));
      } catch (error) {
        console.warn('a picture could not be read', error);
      }
    }
    this.#decoding = false;
  }

  #draw(frame, bitmap) {
    const canvas = this.#canvas;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    this.#context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const resized = this.width !== frame.width || this.height !== frame.height;
    this.width = frame.width;
    this.height = frame.height;
    this.drawn += 1;
    canvas.hidden = false;
    canvas.dataset.sequence = frame.sequence;
    if (resized || !canvas.style.width) this.fit();
  }

  /** As large as there is room, in the page's own proportions. */
  fit() {
    if (!this.width || !this.height) return;
    const { width, height } = this.#room();
    const scale = Math.min(width / this.width, height / this.height);
    this.#canvas.style.width = `${Math.floor(this.width * scale)}px`;
    this.#canvas.style.height = `${Math.floor(this.height * scale)}px`;
  }

  #room() {
    const style = getComputedStyle(this.#stage);
    return {
      width: this.#stage.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight),
      height: this.#stage.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom),
    };
  }

  /** Pixels from left to right that can be told apart here: in steps, so that a window
   * that is being dragged does not ask for another size with each move. A page that is
   * shown a little smaller than it is comes as it is: scaled once, it is sharper. */
  pixelsWide() {
    const shown = (parseFloat(this.#canvas.style.width) || this.#room().width) * devicePixelRatio;
    if (shown <= this.width && shown > this.width * NEARLY) return Math.ceil(this.width);
    return Math.min(WIDEST_PX, Math.max(STEP_PX, Math.ceil(shown / STEP_PX) * STEP_PX));
  }

  /** Where in the page's view an event is, in its CSS pixels. */
  place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.width,
      y: ((event.clientY - box.top) / box.height) * this.height,
    };
  }
}

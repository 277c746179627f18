// What a person does here, in CDP's vocabulary: mouse, wheel, fingers, keys, input
// methods and the clipboard.

const BUTTONS = ['left', 'middle', 'right', 'back', 'forward'];
const CLICKS_MAX = 3;
const CLICK_AGAIN_MS = 500;
const CLICK_AGAIN_PX = 6;
const LINE_PX = 40;
/** Longest text of one input, in UTF-16 units: at most 32 KiB of UTF-8. */
const TEXT_UNITS_MAX = 10_000;

const isMac = /Mac|iP/.test(navigator.platform);

function modifiers(event) {
  // AltGr writes other characters; to the page it is no modifier.
  const graph = event.getModifierState?.('AltGraph');
  return (event.altKey && !graph ? 1 : 0) | (event.ctrlKey && !graph ? 2 : 0) | (event.metaKey ? 4 : 0) | (event.shiftKey ? 8 : 0);
}

/** Pieces of a text, none of which ends within a character. */
export function pieces(text) {
  const found = [];
  for (let at = 0; at < text.length;) {
    let end = Math.min(text.length, at + TEXT_UNITS_MAX);
    if (end < text.length && text.charCodeAt(end - 1) >= 0xd800 && text.charCodeAt(end - 1) < 0xdc00) end -= 1;
    found.push(text.slice(at, end));
    at = end;
  }
  return found;
}

/** The key event that CDP takes. */
export function keyEvent(event, down) {
  const mods = modifiers(event);
  const writes = [...event.key].length === 1 && !(mods & 6) ? event.key : event.key === 'Enter' ? '\r' : '';
  const key = {
    kind: 'key',
    type: down ? (writes ? 'keyDown' : 'rawKeyDown') : 'keyUp',
    key: event.key,
    code: event.code,
    modifiers: mods,
    windowsVirtualKeyCode: event.keyCode & 0xff,
    location: event.location,
    isKeypad: event.location === 3,
    autoRepeat: event.repeat,
  };
  if (down && writes) Object.assign(key, { text: writes, unmodifiedText: writes });
  // Chrome on a server edits with Ctrl.
  if (isMac && event.metaKey && !event.ctrlKey) key.modifiers = (mods & ~4) | 2;
  if (down && key.modifiers & 2 && event.code === 'KeyA') key.commands = ['selectAll'];
  return key;
}

/** Sends what a person does on a canvas and its keyboard. */
export class Hands {
  #act;
  #screen;
  #canvas;
  #keys;
  #moved = null;
  #wheel = null;
  #fingers = new Map();
  #fingersMoved = false;
  #frame = 0;
  #last = { at: 0, x: 0, y: 0, button: -1, count: 0 };
  #pressed = new Map();
  #buttons = 0;
  #composing = false;
  #selected;
  #showText;
  #enabled = false;

  /** `act` sends an input; `selected` gives what is selected in the page, and `showText`
   * shows it where no clipboard may be written; `leave` is called when the person wants
   * their keyboard back. */
  constructor({ canvas, keys, screen, act, selected, showText, leave }) {
    this.#act = act;
    this.#screen = screen;
    this.#canvas = canvas;
    this.#keys = keys;
    this.#selected = selected;
    this.#showText = showText;
    this.#listenToPointer();
    this.#listenToKeys(leave);
  }

  /** Whether what is done here counts. Where it does no more, nothing can be let go. */
  set enabled(enabled) {
    this.#enabled = enabled;
    if (enabled) return;
    this.#pressed.clear();
    this.#fingers.clear();
    this.#buttons = 0;
  }

  #on(target, kinds, then, options) {
    for (const kind of kinds.split(' ')) {
      target.addEventListener(kind, (event) => {
        if (this.#enabled) then(event);
      }, options);
    }
  }

  #listenToPointer() {
    const canvas = this.#canvas;
    this.#on(canvas, 'pointerdown', (event) => {
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      // A finger does not open a telephone's keyboard: there is a button for that.
      if (event.pointerType === 'touch') return this.#touchStarts(event);
      this.#keys.focus({ preventScroll: true });
      this.#button('mousePressed', event);
    });
    this.#on(canvas, 'pointermove', (event) => {
      if (event.pointerType === 'touch') {
        if (!this.#fingers.has(event.pointerId)) return;
        Object.assign(this.#fingers.get(event.pointerId), this.#screen.place(event));
        this.#fingersMoved = true;
      } else {
        // A further button tells itself as a move.
        if (event.button >= 0) return this.#button(event.buttons > this.#buttons ? 'mousePressed' : 'mouseReleased', event);
        this.#moved = event;
      }
      this.#soon();
    });
    this.#on(canvas, 'pointerup', (event) => {
      if (event.pointerType === 'touch') this.#touchEnds(event, 'touchEnd');
      else this.#button('mouseReleased', event);
    });
    this.#on(canvas, 'pointercancel', (event) => {
      if (event.pointerType === 'touch') this.#touchEnds(event, 'touchCancel');
      else this.letGo();
    });
    this.#on(canvas, 'contextmenu dragstart', (event) => event.preventDefault());
    this.#on(canvas, 'wheel', (event) => {
      event.preventDefault();
      const unit = [1, LINE_PX, this.#screen.height][event.deltaMode];
      this.#wheel ??= { x: 0, y: 0, event };
      this.#wheel.x += event.deltaX * unit;
      this.#wheel.y += event.deltaY * unit;
      this.#wheel.event = event;
      this.#soon();
    }, { passive: false });
  }

  /** Moves go once for each frame that this screen draws; more are not seen. */
  #soon() {
    this.#frame ||= requestAnimationFrame(() => this.#flush());
  }

  #flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#moved) this.#mouse('mouseMoved', this.#moved);
    this.#moved = null;
    if (this.#wheel) {
      const { x, y, event } = this.#wheel;
      this.#mouse('mouseWheel', event, { deltaX: x, deltaY: y });
    }
    this.#wheel = null;
    if (this.#fingersMoved) this.#touch('touchMove');
    this.#fingersMoved = false;
  }

  #mouse(type, event, more = {}) {
    this.#act({
      kind: 'mouse',
      type,
      ...this.#screen.place(event),
      modifiers: modifiers(event),
      buttons: event.buttons & 31,
      pointerType: event.pointerType === 'pen' ? 'pen' : 'mouse',
      ...more,
    });
  }

  #button(type, event) {
    this.#flush();
    const { x, y } = this.#screen.place(event);
    const last = this.#last;
    if (type === 'mousePressed') {
      const again = event.button === last.button && event.timeStamp - last.at < CLICK_AGAIN_MS
        && Math.hypot(x - last.x, y - last.y) < CLICK_AGAIN_PX;
      this.#last = { at: event.timeStamp, x, y, button: event.button, count: again ? (last.count % CLICKS_MAX) + 1 : 1 };
    }
    this.#buttons = event.buttons;
    this.#mouse(type, event, { button: BUTTONS[event.button] ?? 'none', clickCount: this.#last.count });
  }

  #touch(type) {
    const ends = type === 'touchEnd' || type === 'touchCancel';
    this.#act({ kind: 'touch', type, touchPoints: ends ? [] : [...this.#fingers.values()] });
  }

  #touchStarts(event) {
    this.#flush();
    const taken = new Set([...this.#fingers.values()].map((it) => it.id));
    let id = 0;
    while (taken.has(id)) id += 1;
    this.#fingers.set(event.pointerId, { id, ...this.#screen.place(event) });
    this.#touch('touchStart');
  }

  #touchEnds(event, type) {
    this.#flush();
    if (!this.#fingers.delete(event.pointerId)) return;
    this.#touch(type);
    // CDP lifts all fingers at once: those that stay touch anew.
    if (this.#fingers.size) this.#touch('touchStart');
  }

  #listenToKeys(leave) {
    const keys = this.#keys;
    this.#on(keys, 'keydown', (event) => {
      if (event.key === 'Escape' && event.shiftKey) {
        event.preventDefault();
        return leave();
      }
      // An input method has it; what it makes of it comes by itself.
      if (event.isComposing || event.keyCode === 229 || event.key === 'Dead' || event.key === 'Process') return;
      const command = (isMac ? event.metaKey : event.ctrlKey) && !event.altKey;
      // Its own event follows, which has the text.
      if (command && event.code === 'KeyV') return;
      event.preventDefault();
      if (command && event.code === 'KeyC') return this.#copy(false);
      if (command && event.code === 'KeyX') return this.#copy(true);
      const key = keyEvent(event, true);
      this.#act(key);
      // A Mac does not tell when a key is released beside this one.
      if (isMac && event.metaKey && event.key !== 'Meta') this.#act(keyEvent(event, false));
      else this.#pressed.set(event.code, key);
    });
    this.#on(keys, 'keyup', (event) => {
      if (!this.#pressed.delete(event.code)) return;
      event.preventDefault();
      this.#act(keyEvent(event, false));
    });
    this.#on(keys, 'compositionstart', () => { this.#composing = true; });
    this.#on(keys, 'compositionupdate', (event) => this.#compose(event.data));
    this.#on(keys, 'compositionend', (event) => {
      this.#composing = false;
      if (event.data) this.#insert(event.data);
      else this.#compose('');
      keys.value = '';
    });
    this.#on(keys, 'beforeinput', (event) => {
      if (this.#composing || event.isComposing) return;
      // Keyboards of telephones tell of texts, not of keys.
      event.preventDefault();
      if (event.inputType === 'insertText' && event.data) this.#insert(event.data);
      else if (event.inputType === 'insertLineBreak') this.#stroke('Enter', 13, '\r');
      else if (event.inputType === 'deleteContentBackward') this.#stroke('Backspace', 8);
      else if (event.inputType === 'deleteContentForward') this.#stroke('Delete', 46);
    });
    this.#on(keys, 'paste', (event) => {
      event.preventDefault();
      this.#insert(event.clipboardData.getData('text/plain'));
    });
    keys.addEventListener('blur', () => this.letGo());
  }

  /** Writes what is selected in the page to this clipboard, and cuts it out there. The
   * clipboard is asked for at once, while it is known that a person wants it. */
  async #copy(cut) {
    const text = this.#selected();
    if (cut) this.#stroke('Delete', 46);
    try {
      const blob = text.then((it) => new Blob([it], { type: 'text/plain' }));
      await navigator.clipboard.write([new ClipboardItem({ 'text/plain': blob })]);
    } catch {
      if (await text) this.#showText(await text);
    }
  }

  #compose(text) {
    const end = Math.min(text.length, TEXT_UNITS_MAX);
    this.#act({ kind: 'composition', text: text.slice(0, end), selectionStart: end, selectionEnd: end });
  }

  #insert(text) {
    for (const piece of pieces(text.replaceAll('\r\n', '\n'))) this.#act({ kind: 'insert_text', text: piece });
  }

  #stroke(key, number, text) {
    const both = { kind: 'key', key, code: key, windowsVirtualKeyCode: number };
    this.#act({ ...both, type: text ? 'keyDown' : 'rawKeyDown', ...(text && { text }) });
    this.#act({ ...both, type: 'keyUp' });
  }

  /** Releases whatever is held down: nobody will tell of it any more. */
  letGo() {
    for (const key of this.#pressed.values()) {
      const { text, unmodifiedText, commands, ...rest } = key;
      this.#act({ ...rest, type: 'keyUp', autoRepeat: false });
    }
    this.#pressed.clear();
    if (this.#fingers.size) {
      this.#fingers.clear();
      this.#touch('touchCancel');
    }
    if (this.#buttons) {
      this.#buttons = 0;
      this.#act({ kind: 'mouse', type: 'mouseReleased', x: this.#last.x, y: this.#last.y, button: BUTTONS[this.#last.button] ?? 'left', buttons: 0, clickCount: 1 });
    }
  }
}

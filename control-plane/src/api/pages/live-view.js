// What is shown around the picture: tabs, address, who drives, what a person is asked
// for, dialogs, and how it all stands. It reads a state and changes nothing of it.

const $ = (id) => document.getElementById(id);
const NOTE_MS = 4000;
const SVG = 'http://www.w3.org/2000/svg';
const DIALOGS = { confirm: 'The page asks', prompt: 'The page asks', beforeunload: 'The page asks before it is left' };

/** Whether this page's hands are the ones that count. */
export const drives = ({ holder, control, status }) =>
  Boolean(holder) && control?.holder_id === holder && status === 'live';

function cross() {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', 'M6 6l12 12M18 6L6 18');
  svg.append(path);
  return svg;
}

function button(className, label, then) {
  const made = Object.assign(document.createElement('button'), { type: 'button', className, onclick: then });
  made.setAttribute('aria-label', label);
  return made;
}

/** What stands for a tab. It stays the same element while the tab is there, so that who
 * has it under the pointer or in focus keeps it. */
class Tab {
  constructor(id, act) {
    this.title = button('title', '', () => act({ kind: 'activate_tab', tabId: id }));
    this.close = button('close', '', () => act({ kind: 'close_tab', tabId: id }));
    this.close.append(cross());
    this.element = document.createElement('div');
    this.element.append(this.title, this.close);
  }

  show({ title, url, active }, own) {
    const name = title || url || 'New tab';
    this.element.className = active ? 'tab active' : 'tab';
    this.title.textContent = name;
    this.title.title = url;
    this.title.disabled = this.close.disabled = !own;
    this.title.setAttribute('aria-label', name);
    this.title.setAttribute('aria-current', active ? 'page' : 'false');
    this.close.setAttribute('aria-label', `Close ${name}`);
  }
}

export class View {
  #tabs = new Map();
  #act;
  #note = 0;

  /** `act` does what a person does to the browser. */
  constructor(act) {
    this.#act = act;
  }

  /** In front of the picture, or nothing. */
  say(title, more = '', { busy = false, signIn = false, again = false } = {}) {
    $('says').hidden = !title;
    $('says').classList.toggle('still', !busy);
    $('says-title').textContent = title ?? '';
    $('says-more').textContent = more;
    $('sign-in').hidden = !signIn;
    $('again').hidden = !again;
    $('stage').classList.toggle('stale', Boolean(title));
  }

  /** Below the picture, for a moment. */
  note(text) {
    $('note').textContent = text;
    $('note').classList.add('shown');
    clearTimeout(this.#note);
    this.#note = setTimeout(() => $('note').classList.remove('shown'), NOTE_MS);
  }

  connection(state, text) {
    $('connection').dataset.state = state;
    $('connection-says').textContent = text;
  }

  /** Everything that depends on the state. */
  show(state) {
    const own = drives(state);
    for (const id of ['back', 'forward', 'reload', 'url', 'new-tab', 'keyboard']) $(id).disabled = !own;
    $('keys').disabled = !own;
    this.#showDriver(state, own);
    this.#showTabs(state, own);
    this.showHandoff(state);
    this.#showDialog(state, own);
  }

  #showDriver({ control, right, status }, own) {
    const person = control?.held_by === 'person';
    const words = own ? 'You drive' : person ? 'Somebody else drives' : 'The automation drives';
    $('driver').dataset.who = own ? 'you' : person ? 'other' : 'automation';
    $('driver-says').textContent = control && status === 'live' ? words : '';
    const may = right !== 'view' && status === 'live' && control;
    $('take').hidden = !may || own;
    $('take').textContent = person ? 'Take over' : 'Take control';
    $('release').hidden = !may || !own;
    $('stage').classList.toggle('own', own);
  }

  #showTabs({ tabs, loading }, own) {
    const gone = new Set(this.#tabs.keys());
    tabs.forEach((it, place) => {
      gone.delete(it.id);
      if (!this.#tabs.has(it.id)) this.#tabs.set(it.id, new Tab(it.id, this.#act));
      const tab = this.#tabs.get(it.id);
      tab.show(it, own);
      const there = $('tab-list').children[place];
      if (there !== tab.element) $('tab-list').insertBefore(tab.element, there ?? null);
    });
    for (const id of gone) {
      this.#tabs.get(id).element.remove();
      this.#tabs.delete(id);
    }
    const active = tabs.find((it) => it.active);
    if (active && document.activeElement !== $('url')) $('url').value = active.url === 'about:blank' ? '' : active.url;
    $('screen').setAttribute('aria-label', `Picture of ${active?.title || "the session's page"}`);
    document.title = `${active?.title || 'Live'} · Browserfleet`;
    $('reload').classList.toggle('loading', loading);
    $('reload').setAttribute('aria-label', loading ? 'Stop' : 'Reload');
    $('reload').title = loading ? 'Stop' : 'Reload';
  }

  showHandoff({ handoff, right, status }) {
    const open = handoff?.status === 'open' && status === 'live';
    $('handoff').hidden = !open;
    if (!open) return;
    $('handoff-reason').textContent = handoff.reason;
    $('handoff-instructions').textContent = handoff.instructions;
    const left = Math.max(0, Math.round((Date.parse(handoff.expires_at) - Date.now()) / 1000));
    $('handoff-left').textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, '0')} left`;
    for (const id of ['handoff-completed', 'handoff-declined']) $(id).disabled = right === 'view';
  }

  #showDialog({ dialog }, own) {
    const box = $('page-dialog');
    $('page-dialog-watch').hidden = own;
    for (const id of ['page-dialog-ok', 'page-dialog-cancel', 'page-dialog-text']) $(id).disabled = !own;
    if (!dialog) {
      box.hidden = true;
      return;
    }
    $('page-dialog-origin').textContent = DIALOGS[dialog.kind] ?? 'The page says';
    $('page-dialog-message').textContent = dialog.message;
    $('page-dialog-text').hidden = dialog.kind !== 'prompt';
    $('page-dialog-cancel').hidden = dialog.kind === 'alert';
    if (box.hidden) {
      box.hidden = false;
      $('page-dialog-text').value = dialog.default_text ?? '';
      const first = dialog.kind === 'prompt' ? $('page-dialog-text') : $('page-dialog-ok');
      if (own) first.focus();
    }
  }
}

// The live page of one session: what its active tab shows, and a person's hands in it.

import { Screen, read } from './live-frame.js';
import { Hands } from './live-input.js';
import { Refused, Socket, call, ticketOfShare, ticketOfUser } from './live-socket.js';
import { View, drives } from './live-view.js';

const FPS_MAX = 30;
const QUALITY = 75;
/** How often is asked where a session stands that waits. */
const ASK_EVERY_MS = 1500;
/** How soon pictures are asked for again after they ended. */
const LOOK_AGAIN_MS = 1000;
/** A window that is being dragged asks for another size once it stays. */
const SETTLED_MS = 300;
/** How often the frame rate is told. */
const RATE_EVERY_MS = 1000;
const PHASES = {
  wanted: 'It waits for a machine',
  stopped: 'A machine starts again',
  requested: 'A machine is asked for',
  launched: 'The machine starts',
  booting: 'The machine is up',
  joined: 'The machine has joined',
  ready: 'The browser starts',
};

const $ = (id) => document.getElementById(id);
const session = location.pathname.split('/').pop();
const share = shareOf();

/** What the link has. It goes from the address, where it could be read over a shoulder,
 * to where only this tab finds it again. */
function shareOf() {
  const found = new URLSearchParams(location.hash.slice(1)).get('share');
  const place = `share:${session}`;
  if (found) {
    sessionStorage.setItem(place, found);
    history.replaceState(null, '', location.pathname);
  }
  return found ?? sessionStorage.getItem(place);
}

const state = {
  /** `queued`, `starting`, `live`, `ending` or `ended`; `null`: not known. */
  status: null,
  right: 'view',
  /** The hold that was taken on this socket. */
  holder: null,
  control: null,
  handoff: null,
  tabs: [],
  dialog: null,
  loading: false,
};
let token = null;
let socket = null;
let lastSeq = null;
/** What pictures are asked for with; `null`: none are. */
let wished = null;
let asking = 0;

const act = (input) => socket?.say('input', input);
const view = new View(act);
const screen = new Screen($('screen'), $('stage'));
const hands = new Hands({
  canvas: $('screen'),
  keys: $('keys'),
  screen,
  act,
  selected: async () => (await socket.ask('input', { kind: 'copy' })).payload?.text ?? '',
  showText: (text) => {
    $('copied-text').value = text;
    $('copied').showModal();
    $('copied-text').select();
  },
  leave: () => $('url').focus(),
});

function show() {
  hands.enabled = drives(state);
  view.show(state);
}

/** Asks for pictures that suit this window, or for none while nobody sees it. */
async function look() {
  if (state.status !== 'live' || document.hidden) {
    if (wished) socket.say('unsubscribe_frames', {});
    wished = null;
    return;
  }
  const wish = { max_fps: FPS_MAX, max_width: screen.pixelsWide(), quality: QUALITY };
  if (wished?.max_width === wish.max_width) return;
  wished = wish;
  const answer = await socket.ask('subscribe_frames', wish);
  if (answer.type !== 'subscribed_frames' && wished === wish) lookAgain();
}

function lookAgain() {
  wished = null;
  setTimeout(look, LOOK_AGAIN_MS);
}

/** How far the session is, and what that means here. */
function enter(status, reason, message) {
  const before = state.status;
  state.status = status;
  if (status === 'live') {
    if (before !== status) view.connection('live', 'Live');
    if (screen.drawn) view.say(null);
    else view.say('Almost there…', 'The first picture comes.', { busy: true });
    look();
  } else if (status === 'queued' || status === 'starting') {
    view.connection('connecting', 'Starting');
    if (before !== status) view.say('The session starts…', '', { busy: true });
    askQueue();
  } else if (status === 'ending') {
    view.connection('connecting', 'Ending');
  } else if (status === 'ended') {
    state.dialog = null;
    view.connection('over', 'Ended');
    view.say('The session has ended', [reason?.replaceAll('_', ' '), message].filter(Boolean).join(': '));
    socket.end();
  }
  show();
}

/** Where a session stands that waits. Who has a share hears only when it is live. */
async function askQueue() {
  if (share) return;
  const number = ++asking;
  const waits = () => number === asking && (state.status === 'queued' || state.status === 'starting');
  while (waits()) {
    const answer = await call('GET', `/api/queue/${session}`, undefined, token).catch(() => ({}));
    if (answer.ok && waits()) {
      const words = [PHASES[answer.boot_phase]];
      if (answer.status === 'queued' && answer.position > 0) words.push(`Place ${answer.position} in the queue`);
      if (answer.estimate_ms) words.push(`about ${Math.ceil(answer.estimate_ms / 1000)} s`);
      view.say('The session starts…', words.filter(Boolean).join(' · '), { busy: true });
    }
    await new Promise((done) => setTimeout(done, ASK_EVERY_MS));
  }
}

/** What comes unasked. */
function take({ type, seq, payload }) {
  if (seq) lastSeq = seq;
  if (payload?.tabs && type.startsWith('tab.')) {
    state.tabs = payload.tabs;
    if (!state.tabs.some((it) => it.id === state.dialog?.tab_id)) state.dialog = null;
  }
  const active = state.tabs.find((it) => it.active);
  const ofActive = payload?.tab_id === active?.id;
  switch (type) {
    case 'session.status':
      return enter(payload.status, payload.end_reason, payload.message);
    case 'page.navigated':
      if (ofActive && active) {
        active.url = payload.url;
        state.loading = !payload.same_document;
      }
      break;
    case 'tab.opened':
    case 'tab.updated':
    case 'tab.closed':
      break;
    case 'page.loaded':
    case 'page.crashed':
      if (ofActive) state.loading = false;
      break;
    case 'dialog.opened':
      if (payload.waits) state.dialog = payload;
      break;
    case 'dialog.closed':
      state.dialog = null;
      break;
    case 'control.changed':
      state.control = payload;
      if (state.holder && !drives(state)) {
        state.holder = null;
        view.note('You do not drive any more.');
      }
      break;
    case 'handoff.requested':
    case 'handoff.answered':
      state.handoff = payload;
      break;
    case 'frames.ended':
      return lookAgain();
    case 'resync':
    case 'lost':
      return watch(null);
    case 'error':
      // Of an input: nobody waits for its answer.
      view.note(payload.detail);
      break;
    default:
      return undefined;
  }
  return show();
}

/** Watches the session from here on, or from where it was left. */
async function watch(after) {
  const answer = await socket.ask('subscribe', after ? { after_seq: after } : {});
  if (answer.type !== 'subscribed') {
    if (answer.payload?.status === 404) {
      socket.end();
      refuse(new Refused(404, answer.payload.detail));
    }
    return;
  }
  const now = answer.payload;
  state.tabs = now.tabs ?? state.tabs;
  state.control = now.control ?? null;
  state.handoff = now.handoff ?? null;
  state.dialog = now.dialog ?? null;
  // A hold is of a socket: the one before had it, and it is still ours to take.
  const lost = state.holder;
  state.holder = null;
  enter(now.status, now.end_reason);
  if (lost && state.control?.holder_id === lost) steer({ action: 'take' });
}

function refuse({ status, message }) {
  state.status = null;
  view.connection('over', 'Not connected');
  if (share && (status === 401 || status === 404)) {
    view.say('This link counts no more', 'It was taken back, or it has run out. Ask for another one.');
  } else if (status === 401) {
    view.say('Sign in to watch', token ? message : '', { signIn: true });
  } else if (status === 404) {
    view.say('There is no such session', 'It may have ended long ago, or it is somebody else’s.');
  } else {
    view.say('You may not watch this session', message, { again: true });
  }
  show();
}

function connect() {
  view.say('Connecting…', '', { busy: true });
  view.connection('connecting', 'Connecting…');
  socket = new Socket(session, share ? () => ticketOfShare(share) : () => ticketOfUser(session, token));
  socket.addEventListener('opened', ({ detail }) => {
    state.right = detail;
    wished = null;
    watch(lastSeq);
  });
  socket.addEventListener('message', ({ detail }) => take(detail));
  socket.addEventListener('frame', ({ detail }) => {
    const frame = read(detail);
    if (!frame) return;
    screen.show(frame);
    if (state.status === 'live' && !$('says').hidden) view.say(null);
  });
  socket.addEventListener('lost', ({ detail }) => {
    state.status = null;
    view.connection('connecting', 'Reconnecting…');
    view.say('The connection was lost', `Trying again${detail > 2000 ? ` in ${Math.round(detail / 1000)} s` : ''}…`, { busy: true });
    show();
  });
  socket.addEventListener('refused', ({ detail }) => refuse(detail));
}

async function steer(payload) {
  const { type, payload: answer } = await socket.ask('control', payload);
  if (type !== 'controlled') return view.note(answer?.detail ?? 'That did not work.');
  state.control = answer;
  state.holder = payload.action === 'take' ? answer.holder_id : null;
  show();
  if (drives(state)) typeToPage();
}

/** What is typed goes to the page. */
function typeToPage() {
  $('keys').focus({ preventScroll: true });
}

function release() {
  hands.letGo();
  steer({ action: 'release' });
}

$('take').onclick = () => steer({ action: 'take', force: state.control?.held_by === 'person' });
$('release').onclick = release;
$('back').onclick = () => act({ kind: 'back' });
$('forward').onclick = () => act({ kind: 'forward' });
$('reload').onclick = () => act(state.loading ? { kind: 'stop' } : { kind: 'reload' });
$('new-tab').onclick = () => act({ kind: 'new_tab' });
$('keyboard').onclick = typeToPage;
$('again').onclick = connect;
$('go').onsubmit = async (event) => {
  event.preventDefault();
  const text = $('url').value.trim();
  if (!text) return;
  const url = /^[a-z][a-z0-9+.-]*:\/\//i.test(text) || text.startsWith('about:') ? text : `https://${text}`;
  act({ kind: 'navigate', url });
  typeToPage();
};
$('url').onfocus = () => $('url').select();
$('url').onblur = show;
$('url').onkeydown = ({ key }) => {
  if (key === 'Escape') typeToPage();
};
for (const outcome of ['completed', 'declined']) {
  $(`handoff-${outcome}`).onclick = async () => {
    const { type, payload } = await socket.ask('answer_handoff', { outcome });
    if (type === 'handoff_answered') state.handoff = payload;
    else view.note(payload?.detail ?? 'That did not work.');
    show();
  };
}
function answerDialog(accept) {
  act({ kind: 'answer_dialog', accept, text: $('page-dialog-text').value });
  typeToPage();
}
$('page-dialog').onsubmit = (event) => {
  event.preventDefault();
  answerDialog(event.submitter?.value === 'ok');
};
$('page-dialog').onkeydown = ({ key }) => {
  if (key === 'Escape' && drives(state)) answerDialog(false);
};
$('sign-in').onsubmit = (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  $('token').value = '';
  connect();
};
$('keys').onfocus = () => {
  $('stage').classList.add('typing');
  view.note('Your keys go to the page. Shift and Escape lead out.');
};
$('keys').onblur = () => $('stage').classList.remove('typing');
document.addEventListener('visibilitychange', look);

let settled = 0;
new ResizeObserver(() => {
  screen.fit();
  clearTimeout(settled);
  settled = setTimeout(look, SETTLED_MS);
}).observe($('stage'));

let seen = 0;
setInterval(() => {
  const drawn = screen.drawn - seen;
  seen = screen.drawn;
  if (state.status === 'live') view.connection('live', drawn ? `Live · ${drawn} fps` : 'Live · at rest');
  if (state.handoff?.status === 'open') view.showHandoff(state);
}, RATE_EVERY_MS);

connect();

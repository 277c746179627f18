// The socket of one session: opened with a ticket that is good once, and opened again by
// itself, a little later each time.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15_000;
/** A connection that held for so long was a good one. */
const STABLE_MS = 10_000;
const ANSWER_WITHIN_MS = 15_000;
/** What this was opened with counts no more. */
const SIGNED_OUT = 4401;

/** Why there is no socket, and will be none by itself. */
export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Calls the API; `token` where there is no cookie. */
export async function call(method, path, body, token) {
  const response = await fetch(path, {
    method,
    headers: {
      ...(body && { 'content-type': 'application/json' }),
      ...(token && { authorization: `Bearer ${token}` }),
    },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  return { ok: response.ok, status: response.status, ...answer };
}

/** A user's ticket for a session, with the cookie or this token. */
export async function ticketOfUser(session, token) {
  const ask = () => call('POST', '/api/ws-ticket', { session_id: session, right: 'drive' }, token);
  let answer = await ask();
  if (answer.status === 401 && !token) {
    // The cookie with the access token is gone after ten minutes; the other one is not.
    const refreshed = await call('POST', '/api/auth/refresh-token');
    if (refreshed.ok) answer = await ask();
  }
  return ticketOf(answer, 'drive');
}

/** The ticket of whoever has a share's link. */
export async function ticketOfShare(share) {
  const answer = await call('POST', '/api/shares/redeem', { token: share });
  return ticketOf(answer, answer.right);
}

function ticketOf(answer, right) {
  if (answer.ok) return { ticket: answer.ticket, right };
  if (answer.status >= 500 || answer.status === 429) throw new Error(answer.detail);
  throw new Refused(answer.status, answer.detail);
}

export class Socket extends EventTarget {
  #ticket;
  #session;
  #socket = null;
  #asked = 0;
  #answers = new Map();
  #wait = FIRST_WAIT_MS;
  #ended = false;
  #signedOut = false;
  #cut = null;

  /** `ticket` gives a ticket and how far it goes. Tells by events: `opened`, `message`,
   * `frame`, `lost` (until it is tried again, in ms), `refused`. */
  constructor(session, ticket) {
    super();
    this.#session = session;
    this.#ticket = ticket;
    addEventListener('online', () => this.#cut?.());
    this.#run();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }

  async #run() {
    while (!this.#ended) {
      const began = performance.now();
      try {
        const { ticket, right } = await this.#ticket();
        const code = await this.#hold(ticket, right);
        if (this.#ended) return undefined;
        if (performance.now() - began > STABLE_MS) this.#wait = FIRST_WAIT_MS;
        // Once, with another ticket: what this one was of may have been renewed.
        if (code === SIGNED_OUT && this.#signedOut) throw new Refused(401, 'What this page was opened with has ended.');
        this.#signedOut = code === SIGNED_OUT;
      } catch (error) {
        if (error instanceof Refused) {
          this.#ended = true;
          return this.#tell('refused', error);
        }
      }
      const wait = Math.round(this.#wait * (0.5 + Math.random() / 2));
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT_MS);
      this.#tell('lost', wait);
      await new Promise((done) => {
        this.#cut = done;
        setTimeout(done, wait);
      });
    }
  }

  /** Holds one socket until it is over; its close code. */
  #hold(ticket, right) {
    return new Promise((over) => {
      const socket = new WebSocket(`${location.origin.replace(/^http/, 'ws')}/ws?ticket=${encodeURIComponent(ticket)}`);
      socket.binaryType = 'arraybuffer';
      this.#socket = socket;
      socket.onopen = () => {
        this.#tell('opened', right);
      };
      socket.onmessage = ({ data }) => {
        if (typeof data !== 'string') return this.#tell('frame', data);
        const message = JSON.parse(data);
        this.#signedOut = false;
        const answer = this.#answers.get(message.id);
        this.#answers.delete(message.id);
        if (answer) answer(message);
        else this.#tell('message', message);
      };
      socket.onclose = ({ code }) => {
        for (const answer of this.#answers.values()) answer({ type: 'error', payload: { code: 'lost', detail: 'The connection was lost.' } });
        this.#answers.clear();
        over(code);
      };
    });
  }

  /** Says something that nobody answers. */
  say(type, payload) {
    if (this.isOpen) this.#socket.send(JSON.stringify({ type, session_id: this.#session, payload }));
  }

  /** Says something, and gives its answer. */
  ask(type, payload = {}) {
    if (!this.isOpen) return Promise.resolve({ type: 'error', payload: { code: 'lost', detail: 'There is no connection.' } });
    const id = `p${++this.#asked}`;
    this.#socket.send(JSON.stringify({ type, id, session_id: this.#session, payload }));
    return new Promise((done) => {
      const late = setTimeout(() => {
        this.#answers.delete(id);
        done({ type: 'error', payload: { code: 'timeout', detail: 'There was no answer in time.' } });
      }, ANSWER_WITHIN_MS);
      this.#answers.set(id, (answer) => {
        clearTimeout(late);
        done(answer);
      });
    });
  }

  /** Connects no more. */
  end() {
    this.#ended = true;
    this.#socket?.close();
  }
}

// The pages that mails lead to, and where one signs in. What a link carries is
// after its #, so that it is in no log; it leaves this page in a body alone.

const says = document.querySelector('#says');
const form = document.querySelector('#form');
const ways = document.querySelector('#ways');
const token = new URLSearchParams(location.hash.slice(1)).get('token') ?? '';
if (token) history.replaceState(null, '', location.pathname);

async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: body && { 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  return { ok: response.ok, ...answer };
}

function say(text, wrong = false) {
  says.textContent = text;
  says.classList.toggle('wrong', wrong);
}

/** Asks for fields, and does with them what is to be done. */
function ask(fields, label, then) {
  form.replaceChildren(...fields.map(([name, title, type, autocomplete]) => {
    const input = Object.assign(document.createElement('input'), { name, type, autocomplete, required: true });
    const around = document.createElement('label');
    around.append(title, input);
    return around;
  }), Object.assign(document.createElement('button'), { textContent: label }));
  form.hidden = false;
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = form.querySelector('button');
    button.disabled = true;
    await then(Object.fromEntries(new FormData(form))).catch(() => say('The server could not be reached.', true));
    button.disabled = false;
  };
  form.querySelector('input').focus();
}

function link(text, href, then) {
  const anchor = Object.assign(document.createElement('a'), { textContent: text, href });
  if (then) anchor.onclick = (event) => { event.preventDefault(); then(); };
  return anchor;
}

const done = (text) => { say(text); form.hidden = true; ways.replaceChildren(link('Sign in', '/')); };
const email = ['email', 'E-mail address', 'email', 'username'];
const newPassword = (name) => [name, 'New password, 8 characters or more', 'password', 'new-password'];

async function verify() {
  const answer = await call('POST', '/api/auth/verify-email', { token });
  if (answer.ok) done('The address is confirmed.'); else say(answer.detail, true);
}

function reset() {
  say('Choose a new password. All logins end with it.');
  ask([newPassword('new_password')], 'Set the password', async ({ new_password }) => {
    const answer = await call('POST', '/api/auth/reset-password', { token, new_password });
    if (answer.ok) done('The password is set. Sign in with it.'); else say(answer.detail, true);
  });
}

function accept() {
  say('Make your account, with the address that the invitation was sent to.');
  ask([email, newPassword('password')], 'Make the account', async (fields) => {
    const answer = await call('POST', '/api/auth/register', { ...fields, invitation: token });
    if (answer.ok) done('The account is made.'); else say(answer.detail, true);
  });
}

function register() {
  say('Make an account. The address is confirmed by mail.');
  ways.replaceChildren(link('Sign in', '/'));
  ask([email, newPassword('password')], 'Make the account', async (fields) => {
    const answer = await call('POST', '/api/auth/register', fields);
    if (answer.ok) done('A mail is on its way. Follow its link, then sign in.'); else say(answer.detail, true);
  });
}

function forgot() {
  say('A mail with a link to set a new password will be sent, if there is an account.');
  ways.replaceChildren(link('Sign in', '/'));
  ask([email], 'Send the mail', async (fields) => {
    const answer = await call('POST', '/api/auth/forgot-password', fields);
    if (answer.ok) done('If there is an account, a mail is on its way.'); else say(answer.detail, true);
  });
}

function secondFactor(challenge) {
  say('Enter the code of your second factor, or a recovery code.');
  ask([['code', 'Code', 'text', 'one-time-code']], 'Go on', async ({ code }) => {
    const answer = await call('POST', '/api/auth/login/second-factor', { challenge, code });
    if (answer.ok) await show(); else say(answer.detail, true);
  });
}

async function signIn() {
  say('Sign in.');
  ask([email, ['password', 'Password', 'password', 'current-password']], 'Sign in', async (fields) => {
    const answer = await call('POST', '/api/auth/login', fields);
    if (answer.ok) await show();
    else if (answer.code === 'second_factor_needed') secondFactor(answer.challenge);
    else say(answer.detail, true);
  });
  const { data = [] } = await call('GET', '/api/auth/oauth');
  ways.replaceChildren(
    ...data.map(({ name }) => link(`Sign in with ${name}`, `/api/auth/oauth/${name}`)),
    link('Make an account', '/', register),
    link('Forgot the password?', '/', forgot),
  );
}

async function show() {
  let me = await call('GET', '/api/users/me');
  if (!me.ok && (await call('POST', '/api/auth/refresh-token')).ok) me = await call('GET', '/api/users/me');
  if (me.code === 'second_factor_enrolment_needed') return say(me.detail);
  if (!me.ok) return new URLSearchParams(location.search).has('second-factor') ? secondFactor() : signIn();
  form.hidden = true;
  say(`Signed in as ${me.email}.`);
  ways.replaceChildren(
    link('Sign out', '/', async () => { await call('POST', '/api/auth/logout'); await signIn(); }),
    link('The API', '/openapi.json'),
  );
}

const pages = { '/verify-email': verify, '/reset-password': reset, '/accept-invitation': accept };
(pages[location.pathname] ?? show)();

// Speaks as GitHub does where we speak to it: its sign-in page is a redirect, a
// code is good once and for its verifier, and the API wants the token. `?as=NAME`
// on the way says who signs in. Prints its address.
import { createHash, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';

const codes = new Map();
const tokens = new Map();
const json = (response, status, body) => {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
};
const body = async (request) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  return new URLSearchParams(text);
};
const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://github');
  const token = (request.headers.authorization ?? '').replace('Bearer ', '');
  if (url.pathname === '/login/oauth/authorize') {
    const back = new URL(url.searchParams.get('redirect_uri'));
    const code = randomUUID();
    codes.set(code, { who: url.searchParams.get('as'), challenge: url.searchParams.get('code_challenge') });
    back.searchParams.set('code', code);
    back.searchParams.set('state', url.searchParams.get('state'));
    response.writeHead(302, { location: back.href });
    response.end();
  } else if (url.pathname === '/login/oauth/access_token') {
    const form = await body(request);
    const known = codes.get(form.get('code'));
    codes.delete(form.get('code'));
    const challenge = createHash('sha256').update(form.get('code_verifier') ?? '').digest('base64url');
    if (!known || known.challenge !== challenge || form.get('client_secret') !== 'octo secret') {
      return json(response, 200, { error: 'bad_verification_code' });
    }
    const access_token = randomUUID();
    tokens.set(access_token, known.who);
    json(response, 200, { access_token, token_type: 'bearer', scope: 'read:user,user:email' });
  } else if (!tokens.has(token)) {
    json(response, 401, { message: 'Bad credentials' });
  } else if (url.pathname === '/user') {
    json(response, 200, { id: tokens.get(token).length + 583231, login: tokens.get(token), name: 'Mona' });
  } else {
    const email = `${tokens.get(token)}@example.com`;
    json(response, 200, [
      { email: 'other@example.com', primary: false, verified: true },
      { email, primary: true, verified: !email.startsWith('unverified') },
    ]);
  }
});
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.resume().on('end', () => process.exit());

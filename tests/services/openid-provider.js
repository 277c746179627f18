// An OpenID provider (certified: npm oidc-provider) with discovery, PKCE and the
// given signing algorithm. Whoever signs in as NAME is NAME@example.com; verified
// unless NAME begins with "unverified". It tells so in the ID token, or, as the
// standard has it, where one asks it with the access token. Prints its address once
// it listens.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const [algorithm, tells, callback] = process.argv.slice(2);
const { privateKey } = algorithm === 'ES256'
  ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
  : generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), alg: algorithm, use: 'sig', kid: algorithm };

const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'browserfleet',
      client_secret: 'a secret between the two of us',
      redirect_uris: [callback],
      id_token_signed_response_alg: algorithm,
    }],
    jwks: { keys: [key] },
    pkce: { required: () => true },
    conformIdTokenClaims: tells === 'where-asked',
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['given_name', 'family_name'] },
    features: { devInteractions: { enabled: true } },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({
        sub: id,
        email: `${id}@example.com`,
        email_verified: !id.startsWith('unverified'),
        given_name: 'Ada',
        family_name: 'Lovelace',
      }),
    }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
process.stdin.resume().on('end', () => process.exit());

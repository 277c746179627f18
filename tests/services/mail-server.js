// A mail server (npm smtp-server) that takes mail over STARTTLS alone, from whom
// it knows, and prints each as a line of JSON. Prints its port first.
import { readFileSync } from 'node:fs';
import { SMTPServer } from 'smtp-server';

const [certificate, key] = process.argv.slice(2);
const server = new SMTPServer({
  cert: readFileSync(certificate),
  key: readFileSync(key),
  authMethods: ['PLAIN', 'LOGIN'],
  allowInsecureAuth: false,
  onAuth: ({ username, password }, session, done) => {
    const known = session.secure && username === 'fleet' && password === 'p@ss/word';
    done(known ? null : new Error('who are you?'), known ? { user: username } : undefined);
  },
  onData: (stream, session, done) => {
    const chunks = [];
    stream.on('data', (chunk) => chunks.push(chunk)).on('end', () => {
      console.log(JSON.stringify({
        secure: session.secure,
        user: session.user,
        to: session.envelope.rcptTo.map((it) => it.address),
        raw: Buffer.concat(chunks).toString(),
      }));
      done();
    });
  },
});
server.listen(0, '127.0.0.1', () => console.log(server.server.address().port));
process.stdin.resume().on('end', () => process.exit());

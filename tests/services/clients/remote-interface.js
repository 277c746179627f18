// chrome-remote-interface, which knows a host and a port, and asks there for the rest.
import CDP from 'chrome-remote-interface';

const [host, port, token, site] = process.argv.slice(2);

// It has no place for a token but the address of what it opens.
const where = { host, port, alterPath: (path) => path + (path.includes('?') ? '&' : '?') + 'token=' + token };
const target = await CDP.New({ ...where, url: site + '/second' });
const client = await CDP({ host, port, target: target.webSocketDebuggerUrl });
await client.Page.enable();
const { result } = await client.Runtime.evaluate({ expression: 'document.title' });
const pages = (await CDP.List(where)).filter((it) => it.type === 'page').length;
await CDP.Activate({ ...where, id: target.id });
await client.close();
await CDP.Close({ ...where, id: target.id });
console.log(JSON.stringify({ title: result.value, pages }));
process.exit(0);

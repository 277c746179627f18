// Playwright, as its users have it: connects to the address that it is given, does what
// the named part says, and prints what it saw as one line of JSON.
import { chromium } from 'playwright-core';
import { mkdtemp, readFile, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [part, address, site] = process.argv.slice(2);

const connect = (options = {}) => chromium.connectOverCDP(address, { timeout: 30_000, ...options });

const parts = {
  // What is there at first, contexts, clicks that pages trust, popups, frames.
  async pages() {
    const browser = await connect();
    const first = browser.contexts()[0].pages()[0].url();
    const contexts = await Promise.all([browser.newContext(), browser.newContext()]);
    const [page, other] = await Promise.all(contexts.map((it) => it.newPage()));
    await Promise.all([page.goto(site + '/'), other.goto(site + '/')]);
    await page.evaluate(() => { document.cookie = 'a=1'; });
    const apart = await other.evaluate(() => document.cookie);
    await page.click('#count');
    const total = await page.textContent('#total');
    const [popup] = await Promise.all([page.waitForEvent('popup'), page.click('text=Second page')]);
    await popup.waitForLoadState();
    const popupTitle = await popup.title();
    await page.frameLocator('iframe').locator('button').click();
    const framed = await page.title();
    const foreign = site.replace('127.0.0.1', 'localhost');
    await page.setContent(`<iframe src="${foreign}/second"></iframe>`);
    await page.frameLocator('iframe').locator('p').waitFor();
    const frameTitle = await page.frames()[1].evaluate(() => document.title);
    const session = await browser.newBrowserCDPSession();
    const { targetInfos } = await session.send('Target.getTargets', { filter: [{}] });
    const outOfProcess = targetInfos.filter((it) => it.type === 'iframe').length;
    await browser.close();
    return { first, apart, total, popupTitle, framed, frameTitle, outOfProcess };
  },

  async network() {
    const browser = await connect();
    const folder = await mkdtemp(join(tmpdir(), 'browserfleet-client-'));
    const har = join(folder, 'a.har');
    const trace = join(folder, 'a.zip');
    const context = await browser.newContext({ recordHar: { path: har } });
    await context.tracing.start({ snapshots: true, screenshots: true });
    const page = await context.newPage();
    await page.route('**/second', (route) => route.fulfill({ contentType: 'text/html', body: '<title>Ours</title>' }));
    await page.goto(site + '/second');
    const routed = await page.title();
    await page.goto(site + '/');
    const [worker] = await Promise.all([
      page.waitForEvent('worker'),
      page.evaluate(() => { globalThis.kept = new Worker(URL.createObjectURL(new Blob(['self.a = 41']))); }),
    ]);
    const inWorker = await worker.evaluate(() => self.a + 1);
    await page.setContent('<input type=file>');
    await page.setInputFiles('input', { name: 'a.txt', mimeType: 'text/plain', buffer: Buffer.from('uploaded') });
    const uploaded = await page.evaluate(() => document.querySelector('input').files[0].text());
    const pdf = (await page.pdf()).subarray(0, 5).toString();
    const picture = (await page.screenshot()).subarray(1, 4).toString();
    await context.tracing.stop({ path: trace });
    await context.close();
    const recorded = (await readFile(har, 'utf8')).includes(site + '/second');
    const traced = (await stat(trace)).size > 1000;
    await browser.close();
    return { routed, inWorker, uploaded, pdf, picture, recorded, traced };
  },

  async downloads() {
    const browser = await connect();
    const page = await browser.contexts()[0].newPage();
    await page.goto(site + '/');
    await page.setContent(`<a href="${site}/download">Get it</a>`);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('a')]);
    const name = download.suggestedFilename();
    const failure = await download.failure();
    await browser.close();
    return { name, failure };
  },

  // Operations of all kinds, one after the other.
  async many() {
    const browser = await connect();
    const page = await browser.contexts()[0].newPage();
    await page.goto(site + '/');
    let sum = 0;
    for (let i = 0; i < 950; i++) sum += await page.evaluate((it) => it, i);
    for (let i = 0; i < 40; i++) await page.click('#count');
    for (let i = 0; i < 10; i++) await page.screenshot();
    const total = await page.textContent('#total');
    await browser.close();
    return { sum, total };
  },

  // As many, and then it is there until it is killed.
  async stay() {
    const browser = await connect();
    const page = await browser.contexts()[0].newPage();
    for (let i = 0; i < 1000; i++) await page.evaluate((it) => it, i);
    console.log(JSON.stringify({ done: 1000 }));
    setInterval(() => page.evaluate(() => 1).catch(() => {}), 50);
    return new Promise(() => {});
  },

  // Ten at once, each in a context of its own.
  async ten() {
    const one = async (number) => {
      const browser = await connect();
      const context = await browser.newContext();
      const page = await context.newPage();
      await page.goto(site + '/');
      for (let i = 0; i < 20; i++) await page.evaluate((it) => { globalThis.mine = it; }, number);
      for (let i = 0; i < number; i++) await page.click('#count');
      const total = Number(await page.textContent('#total'));
      const mine = await page.evaluate(() => globalThis.mine);
      await context.close();
      await browser.close();
      return total === number && mine === number;
    };
    const all = await Promise.all(Array.from({ length: 10 }, (_, number) => one(number)));
    return { good: all.filter(Boolean).length };
  },
};

console.log(JSON.stringify(await parts[part]()));
process.exit(0);

// Puppeteer, as its users have it: connects to the address that it is given, does what
// the named part says, and prints what it saw as one line of JSON.
import puppeteer from 'puppeteer-core';

const [part, address, site] = process.argv.slice(2);

const connect = () => puppeteer.connect({ browserWSEndpoint: address, defaultViewport: null });

const parts = {
  async pages() {
    const browser = await connect();
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.goto(site + '/');
    await page.click('#count');
    const total = await page.$eval('#total', (it) => it.textContent);
    const popped = new Promise((done) => page.once('popup', done));
    await page.click('a');
    const popup = await popped;
    await popup.waitForSelector('p');
    const popupTitle = await popup.title();
    await page.setRequestInterception(true);
    const answer = (it) => (it.url().endsWith('/second')
      ? it.respond({ contentType: 'text/html', body: '<title>Ours</title>' })
      : it.continue());
    page.on('request', answer);
    await page.bringToFront();
    await page.goto(site + '/second');
    const routed = await page.title();
    page.off('request', answer);
    await page.setRequestInterception(false);
    const foreign = site.replace('127.0.0.1', 'localhost');
    await page.goto(site + '/');
    await page.setContent(`<iframe src="${foreign}/second"></iframe>`);
    const element = await page.waitForSelector('iframe');
    const frame = await element.contentFrame();
    await frame.waitForSelector('p');
    const frameTitle = await frame.evaluate(() => document.title);
    const created = new Promise((done) => page.once('workercreated', done));
    await page.evaluate(() => { globalThis.kept = new Worker(URL.createObjectURL(new Blob(['self.a = 41']))); });
    const inWorker = await (await created).evaluate('self.a + 1');
    const pdf = Buffer.from(await page.pdf()).subarray(0, 5).toString();
    const picture = Buffer.from(await page.screenshot()).subarray(1, 4).toString();
    let sum = 0;
    for (let i = 0; i < 1000; i++) sum += await page.evaluate((it) => it, i);
    await browser.disconnect();
    return { total, popupTitle, routed, frameTitle, inWorker, pdf, picture, sum };
  },

  // `close` is how its users end.
  async close() {
    const browser = await connect();
    const version = await browser.version();
    await browser.close();
    return { version };
  },
};

console.log(JSON.stringify(await parts[part]()));
process.exit(0);

// How long what Playwright and Puppeteer do takes, over the address that is given: the
// medians in milliseconds, as one line of JSON.
import { chromium } from 'playwright-core';
import puppeteer from 'puppeteer-core';

const [client, address, site] = process.argv.slice(2);

const rounds = 60;
// As much as a page of a catalogue has.
const large = 5 * 1024 * 1024;

const median = async (times, work) => {
  const took = [];
  for (let i = 0; i < times + 5; i++) {
    const began = performance.now();
    await work();
    // The first ones warm up.
    if (i >= 5) took.push(performance.now() - began);
  }
  took.sort((a, b) => a - b);
  return took[Math.floor(took.length / 2)];
};

let page, browser;
if (client === 'playwright') {
  browser = await chromium.connectOverCDP(address);
  page = await (await browser.newContext()).newPage();
} else {
  browser = await puppeteer.connect({ browserWSEndpoint: address, defaultViewport: { width: 1280, height: 720 } });
  page = await (await browser.createBrowserContext()).newPage();
}
await page.goto(site + '/');
const measured = {
  evaluate: await median(rounds * 5, () => page.evaluate(() => 1 + 1)),
  click: await median(rounds, () => page.click('#count')),
  goto: await median(rounds, () => page.goto(site + '/')),
  screenshot: await median(rounds / 2, () => page.screenshot()),
  'evaluate 5 MB': await median(rounds / 3, () => page.evaluate((it) => 'x'.repeat(it), large)),
};
console.log(JSON.stringify(measured));
process.exit(0);

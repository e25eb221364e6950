// A browser for a test, and what must hold of every page.

import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';

import { PATIENCE_MS } from './servers.js';

const ARGUMENTS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

/** A browser without a window, that is closed when the test `context` is over. */
export async function openBrowser(context) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ARGUMENTS });
  context.after(() => browser.close());
  return browser;
}

/** A page in a browser profile of its own. Its `faults` are errors of its scripts and what its content policy forbade. */
export async function openPage(browser, options = {}) {
  const profile = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 }, ...options });
  profile.setDefaultTimeout(PATIENCE_MS);
  const page = await profile.newPage();
  page.faults = [];
  page.on('pageerror', (error) => page.faults.push(String(error.stack)));
  page.on('console', (message) => {
    // That a request failed is told by the browser on its own; what the page makes of it is what the tests look at.
    const isOfRequest = message.text().startsWith('Failed to load resource');
    if (message.type() === 'error' && !isOfRequest) page.faults.push(message.text());
  });
  return page;
}

/** Whether who uses no pointer, and sees nothing, can use the page as it is now. */
export async function assertUsable(page) {
  await assertNamed(page);
  await assertReached(page);
}

/** Each control has a name, as the browser tells it to screen readers. */
async function assertNamed(page) {
  const session = await page.context().newCDPSession(page);
  const { nodes } = await session.send('Accessibility.getFullAXTree');
  await session.detach();
  const isFocusable = (node) => node.properties?.some(({ name, value }) => name === 'focusable' && value.value);
  const controls = nodes.filter((node) => !node.ignored && isFocusable(node) && node.role.value !== 'RootWebArea');
  assert.ok(controls.length > 3, 'there are controls');
  // The main part can have the focus only because the link to the content leads there.
  const nameless = controls.filter((node) => !node.name?.value && node.role.value !== 'main');
  assert.deepEqual(nameless.map((node) => node.role.value), [], 'controls without a name');
}

/** The tab key leads to each control, once around. Of radio buttons one of a group is enough: arrows lead further. */
async function assertReached(page) {
  const expected = await page.evaluate(() => {
    const isStop = (element) => !element.disabled && element.checkVisibility({ visibilityProperty: true });
    const scope = document.querySelector('dialog[open]') ?? document;
    const stops = [...scope.querySelectorAll('a[href], button, input, select, textarea, [tabindex="0"]')].filter(isStop);
    stops.forEach((element, at) => { element.dataset.stop = String(at); });
    return stops.filter((element) => element.type !== 'radio' || element.checked)
      .map((element) => ({ stop: element.dataset.stop, html: element.outerHTML.slice(0, 120) }));
  });
  let missed = expected;
  for (let count = 0; missed.length > 0 && count < 3 * expected.length + 10; count += 1) {
    await page.keyboard.press('Tab');
    const reached = await page.evaluate(() => document.activeElement?.dataset.stop);
    missed = missed.filter(({ stop }) => stop !== reached);
  }
  assert.deepEqual(missed, [], 'controls that the tab key does not reach');
}

// The website of the example `todo`, used in a browser while its servers are killed, fall silent and come back.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { test } from 'node:test';

import { assertUsable, openBrowser, openPage } from './browser.js';
import { Cluster, until } from './servers.js';

/** The website as a process; gives its address. */
async function startWebsite(context, cluster) {
  const env = {
    ...process.env,
    RAFTMAP_ENDPOINTS: cluster.endpoints, RAFTMAP_CERTS: cluster.certs, RAFTMAP_AS: 'app', TODO_LISTEN: '127.0.0.1:0',
  };
  const website = spawn(process.env.TODO_BIN, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  context.after(() => website.kill());
  for await (const line of createInterface({ input: website.stdout })) {
    const address = /http:\/\/\S+/.exec(line);
    if (address) return address[0];
  }
  throw new Error('the website ended');
}

test('every item that the page confirmed is there, whatever happened to the servers', async (context) => {
  const cluster = await Cluster.start(context);
  const website = await startWebsite(context, cluster);
  const browser = await openBrowser(context);
  const page = await openPage(browser);
  await page.goto(website);

  const confirmed = [];
  const saved = async (on) => (await on.locator('li.saved label').allTextContents()).sort();
  /** Adds items, and waits until the page says that each is saved. */
  const add = async (when) => {
    const added = Array.from({ length: 10 }, (_, at) => `item ${at} ${when}`);
    for (const text of added) {
      await page.getByRole('textbox').fill(text);
      await page.keyboard.press('Enter');
    }
    for (const text of added) await page.locator('li.saved', { hasText: text }).waitFor();
    confirmed.push(...added);
  };

  await add('before anything happened');
  await assertUsable(page);

  const killed = await cluster.leader();
  await cluster.kill(killed);
  await add('while the leader was dead');
  await cluster.start(killed);
  await add('after it came back');

  const silent = await cluster.leader();
  cluster.pause(silent);
  await add('while the leader was silent');
  cluster.resume(silent);

  const follower = [1, 2, 3].find((id) => id !== silent);
  cluster.pause(follower);
  await add('while another server was silent');
  cluster.resume(follower);

  for (const id of [1, 2, 3]) await cluster.kill(id);
  const comeBack = async () => {
    // The website gives up, and says why: the page asks again.
    await page.waitForResponse((answer) => answer.request().method() === 'PUT' && answer.status() === 503);
    await page.locator('#state.waiting').waitFor();
    for (const id of [1, 2, 3]) await cluster.start(id);
  };
  await Promise.all([add('while no server ran'), comeBack()]);

  confirmed.sort();
  await until('the page shows what it confirmed', async () => (await saved(page)).join() === confirmed.join());
  const fresh = await openPage(browser);
  await fresh.goto(website);
  await fresh.locator('li.saved').first().waitFor();
  assert.deepEqual(await saved(fresh), confirmed);
  assert.deepEqual([...page.faults, ...fresh.faults], []);
});

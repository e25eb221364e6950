// The console in a browser, while people and the leader's death do what they do.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { assertUsable, openBrowser, openPage } from './browser.js';
import { Cluster, until } from './servers.js';

test('the console of a server', async (context) => {
  const cluster = await Cluster.start(context, () => ['--client-auth', 'none']);
  const browser = await openBrowser(context);
  const page = await openPage(browser);
  /** The server that serves the page. */
  let here = 0;
  const text = (selector) => page.locator(selector).textContent();
  const shows = (selector, wanted) => until(`${selector} shows ${wanted}`, async () => (await text(selector)).includes(wanted));
  const hasEvent = (wanted) => until(`the event ${wanted}`, async () => (await text('#all-events')).includes(wanted));
  const rows = () => page.locator('#keys .key-name').allTextContents();
  const save = () => page.locator('#editor button[type=submit]').click();
  const isClosed = () => page.locator('#editor').waitFor({ state: 'hidden' });

  /** Opens the page of a server that does not lead, and gives the one that does. */
  const openAtFollower = async () => {
    const leader = await cluster.leader();
    if (here === 0 || here === leader) {
      here = [1, 2, 3].find((id) => id !== leader);
      await page.goto(`https://${cluster.address(here)}/console/`);
    }
    return leader;
  };

  await context.test('shows the members and who leads', async () => {
    await openAtFollower();
    // On a machine that is busy another one may lead by now.
    await until('the leader is shown', async () => {
      return (await text('#headline')).startsWith(`Server ${await cluster.leader()} leads in term`);
    });
    assert.equal(await page.locator('.server').count(), 3);
    await shows('#figure-voters', '3 of 3');
    assert.match(await text('.server.own'), new RegExp(`Server ${here}.*Term\\d+.*Applied\\d+`));
    await until('one of them is marked', async () => (await page.locator('.badge[data-kind=leader]').count()) === 1);
    await until('a read was timed', async () => /\d (µs|ms|s)/.test(await text('#figure-read')));
    await assertUsable(page);
  });

  await context.test('makes a key and changes it', async () => {
    await page.keyboard.press('n');
    await assertUsable(page);
    await page.fill('#editor-key', 'shop/lamp');
    await page.fill('#editor-value', '{"price":1.50,"id":12345678901234567890}');
    await save();
    await isClosed();
    await shows('.entry-key', 'shop/lamp');
    assert.equal(await text('#value pre'), '{\n  "price": 1.50,\n  "id": 12345678901234567890\n}');
    await page.keyboard.press('e');
    await page.fill('#editor-value', 'sold out');
    await page.locator('#editor-value').press('Control+Enter');
    await isClosed();
    await shows('#value pre', 'sold out');
    assert.equal(await cluster.command('get', 'shop/lamp'), 'sold out');
    await assertUsable(page);
  });

  await context.test('shows both values when somebody else was faster', async () => {
    await page.keyboard.press('e');
    await page.fill('#editor-value', 'mine');
    await cluster.command('put', 'shop/lamp', 'theirs');
    await save();
    await shows('#editor h2', 'Somebody has changed the key meanwhile.');
    const sides = await page.locator('#editor .side pre').allTextContents();
    assert.deepEqual(sides.map((side) => side.trim()), ['theirs', 'mine']);
    await assertUsable(page);
    assert.equal(await cluster.command('get', 'shop/lamp'), 'theirs');
    await page.getByRole('button', { name: 'Replace theirs by mine' }).click();
    await isClosed();
    await shows('#value pre', 'mine');
    assert.equal(await cluster.command('get', 'shop/lamp'), 'mine');
  });

  await context.test('finds keys by how they begin, and goes on page by page', async () => {
    const lines = Array.from({ length: 130 }, (_, at) => `bulk/${String(at).padStart(3, '0')}`);
    await page.evaluate((keys) => fetch('/raftmap.v1.Map/Put', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ entries: keys.map((key) => ({ key: btoa(key), value: btoa('x') })) }),
    }), lines);
    await cluster.command('put', '--hex', '00ff10', 'ffad');
    await page.keyboard.press('/');
    await page.keyboard.type('bulk/');
    await until('a page of them', async () => (await rows()).length === 100);
    await page.locator('#more').click();
    await until('all of them', async () => (await rows()).length === 130);
    assert.deepEqual(await rows(), lines);
    await page.fill('#prefix', 'shop/');
    await until('the lamp alone', async () => (await rows()).join() === 'shop/lamp');
    await page.selectOption('#prefix-encoding', 'hex');
    await page.fill('#prefix', '00ff');
    await until('the binary key', async () => (await rows()).join() === '00ff10');
    await page.locator('#keys .key').click();
    await until('its bytes', async () => /^000000 {2}ff ad /.test(await text('#value pre')));
    await page.fill('#prefix', '');
    await page.selectOption('#prefix-encoding', 'text');
  });

  await context.test('deletes a key when that is confirmed', async () => {
    await page.fill('#prefix', 'bulk/000');
    await until('the key', async () => (await rows()).join() === 'bulk/000');
    await page.locator('#keys .key').click();
    await shows('.entry-key', 'bulk/000');
    await page.getByRole('button', { name: 'Delete' }).click();
    await page.locator('#editor').getByRole('button', { name: 'Cancel' }).click();
    assert.equal(await cluster.command('get', 'bulk/000'), 'x');
    await page.getByRole('button', { name: 'Delete' }).click();
    await save();
    await isClosed();
    await until('it is gone', async () => (await rows()).length === 0);
    await assert.rejects(cluster.command('get', 'bulk/000'), { code: 4 });
    await page.fill('#prefix', '');
  });

  await context.test('applies a write once whose answer was lost, and says that it is uncertain', async () => {
    const revisions = [];
    await page.route('**/raftmap.v1.Map/Txn', async (route) => {
      const answer = await route.fetch();
      revisions.push((await answer.json()).revision);
      // The answer does not arrive, until somebody has read what the page says about it.
      if (await page.locator('#editor .waiting').isHidden()) await route.abort();
      else await route.fulfill({ response: answer });
    });
    await page.locator('#new-key').click();
    await page.fill('#editor-key', 'lost/answer');
    await page.fill('#editor-value', 'once');
    await save();
    await shows('#editor .sheet-state', 'Whether it was applied is uncertain; asking again applies it once.');
    await isClosed();
    await page.unroute('**/raftmap.v1.Map/Txn');
    assert.equal(revisions.length, 2);
    assert.equal(revisions[0], revisions[1], 'it was answered again, not applied again');
    assert.match(await cluster.command('get', '--json', 'lost/answer'), new RegExp(`"revision": ?${revisions[0]}\\b`));
  });

  await context.test('goes on while the leader is killed', async () => {
    await page.keyboard.press('Escape');
    const old = await openAtFollower();
    await shows('#figure-voters', '3 of 3');
    await page.keyboard.press('2');
    await cluster.kill(old);
    // At once: it waits for the election.
    await page.locator('#new-key').click();
    await page.fill('#editor-key', 'after');
    await page.fill('#editor-value', 'the leader died');
    await save();
    await isClosed();
    await shows('.entry-key', 'after');
    assert.equal(await cluster.command('get', 'after'), 'the leader died');
    const next = await cluster.leader();
    await page.keyboard.press('3');
    await hasEvent(`Server ${old} is away.`);
    await hasEvent(`Server ${next} leads in term`);
    await page.keyboard.press('1');
    await shows('#headline', `Server ${next} leads in term`);
    await shows('#figure-voters', '2 of 3');
    await cluster.start(old);
    await page.keyboard.press('3');
    await hasEvent(`Server ${old} is back, after`);
    await assertUsable(page);
  });

  await context.test('asks again for a write that no majority took, and says so', async () => {
    const [first, second] = [1, 2, 3].filter((id) => id !== here);
    await Promise.all([cluster.kill(first), cluster.kill(second)]);
    await page.keyboard.press('n');
    await page.fill('#editor-key', 'patient');
    await page.fill('#editor-value', 'written once');
    await save();
    await shows('#editor .sheet-state', 'It is asked for again.');
    await shows('#figure-read', 'failing');
    await cluster.start(first);
    await until('it is written', async () => {
      // If it took so long that a person is asked: it is the same write still.
      if (await page.locator('#editor .panel').isVisible()) await save();
      return page.locator('#editor').isHidden();
    });
    assert.equal(await cluster.command('get', 'patient'), 'written once');
    await cluster.start(second);
    await page.keyboard.press('3');
    await hasEvent('A linearizable read failed:');
    await hasEvent('Linearizable reads are answered again');
  });

  await context.test('says that its server is gone, and where the others are', async () => {
    await cluster.kill(here);
    await page.locator('#banner').waitFor();
    assert.match(await text('#banner-text'), new RegExp(`Server ${here}, which serves this page, has not answered`));
    const other = [1, 2, 3].find((id) => id !== here);
    await page.locator('#banner-others a', { hasText: `server ${other}` }).click();
    await page.waitForURL(`https://${cluster.address(other)}/console/`);
    await shows('#headline', 'leads in term');
  });

  assert.deepEqual(page.faults, []);
});

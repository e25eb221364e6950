// Who a page of the console is shown to: by a token, or by a client's certificate.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { test } from 'node:test';

import { assertUsable, openBrowser, openPage } from './browser.js';
import { Cluster, until } from './servers.js';

const shows = (page, selector, wanted) => until(`${selector} shows ${wanted}`, async () => {
  return (await page.locator(selector).allTextContents()).join().includes(wanted);
});

test('a token opens what its user may see and change', async (context) => {
  const { token, hash } = JSON.parse(execFileSync(process.env.RAFTMAP_BIN, ['token', 'ann', '--json'], { encoding: 'utf8' }));
  const users = (tokens) => `
[roles.shop]
read = ["shop/"]
write = ["shop/"]
[roles.all]
read = [""]
write = [""]
[users.ann]
roles = ["shop"]
tokens = [${tokens}]
[users.app]
roles = ["all"]
`;
  const cluster = await Cluster.start(context, async (cluster) => {
    await writeFile(cluster.file('users.toml'), users(`"${hash}"`));
    return ['--client-auth', 'optional', '--users', cluster.file('users.toml')];
  });
  await cluster.command('put', 'shop/lamp', 'brass');
  await cluster.command('put', 'secret', 'x');
  const page = await openPage(await openBrowser(context));
  const signIn = async (text) => {
    await page.fill('#token', text);
    await page.keyboard.press('Enter');
  };
  /** What of the token is kept: in this tab, and beyond it. */
  const stored = () => page.evaluate(() => ({
    here: JSON.stringify({ ...sessionStorage }),
    beyond: JSON.stringify([{ ...localStorage }, document.cookie, location.href]),
  }));
  const isStored = async (isHere) => {
    const { here, beyond } = await stored();
    assert.equal(here.includes(token), isHere);
    assert.ok(!beyond.includes(token));
  };

  await page.goto(`https://${cluster.address(1)}/console/`);
  await shows(page, '#sign-in-why', 'This server wants to know who asks.');
  await assertUsable(page);
  await signIn(`${token.slice(0, -4)}AAAA`);
  await shows(page, '#sign-in-error', 'The server does not know this token.');
  await isStored(false);

  await signIn(token);
  await shows(page, '#headline', 'leads in term');
  await page.reload();
  await shows(page, '#headline', 'leads in term');
  await page.keyboard.press('2');
  await shows(page, '#keys-failure', 'You may not do this.');
  await page.fill('#prefix', 'shop/');
  await shows(page, '#keys', 'shop/lamp');
  await page.locator('#new-key').click();
  await page.fill('#editor-key', 'secret');
  await page.fill('#editor-value', 'changed');
  await page.locator('#editor button[type=submit]').click();
  await shows(page, '#editor', 'It was certainly not applied.');
  await page.fill('#editor-key', 'shop/chair');
  await page.locator('#editor button[type=submit]').click();
  await page.locator('#editor').waitFor({ state: 'hidden' });
  assert.equal(await cluster.command('get', 'shop/chair'), 'changed');
  assert.equal(await cluster.command('get', 'secret'), 'x');

  await isStored(true);
  await page.locator('#sign-out').click();
  await page.locator('#sign-in').waitFor();
  await isStored(false);
  await signIn(token);
  await page.locator('#sign-out').waitFor();
  await writeFile(cluster.file('users.toml'), users(''));
  await shows(page, '#sign-in-error', 'Your token is not good any more.');
  await isStored(false);
  assert.deepEqual(page.faults, []);
});

test('who shows the certificate of a client needs no token', async (context) => {
  const cluster = await Cluster.start(context);
  const origin = `https://${cluster.address(1)}`;
  const [certPath, keyPath] = ['pem', 'key'].map((kind) => `${cluster.certs}/app.${kind}`);
  const page = await openPage(await openBrowser(context), { clientCertificates: [{ origin, certPath, keyPath }] });
  await page.goto(`${origin}/console/`);
  await shows(page, '#headline', 'leads in term');
  assert.ok(await page.locator('#sign-in').isHidden());
  await page.keyboard.press('n');
  await page.fill('#editor-key', 'greeting');
  await page.fill('#editor-value', 'hello');
  await page.locator('#editor button[type=submit]').click();
  await shows(page, '#value', 'hello');
  assert.deepEqual(page.faults, []);
});

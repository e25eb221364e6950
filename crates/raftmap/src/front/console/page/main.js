// Puts the page together: one watch, and views that show what it learns.

import * as clusterView from './cluster-view.js';
import { consoleOf } from './cluster.js';
import { byId, el, setAttribute, setText } from './dom.js';
import * as events from './events.js';
import * as eventsView from './events-view.js';
import { clock, span } from './format.js';
import * as keyboard from './keyboard.js';
import * as keysView from './keys-view.js';
import { current, onRoute, tell } from './route.js';
import * as series from './series.js';
import * as signIn from './sign-in.js';
import * as watch from './watch.js';

const TITLES = { cluster: 'Cluster', keys: 'Keys', events: 'Events' };

let isSigningIn = false;
let unseen = 0;

function showView({ view }) {
  const shown = isSigningIn ? 'sign-in' : view;
  document.body.dataset.view = shown;
  for (const section of document.querySelectorAll('.view')) section.hidden = section.id !== `view-${shown}`;
  for (const tab of byId('tabs').querySelectorAll('a')) setAttribute(tab, 'aria-current', tab.dataset.view === shown ? 'page' : null);
  if (view === 'events') unseen = 0;
  drawUnseen();
  drawTitle();
}

function drawUnseen() {
  byId('unseen').hidden = unseen === 0;
  setText(byId('unseen'), String(unseen));
}

function drawTitle() {
  const { text } = clusterView.headline();
  document.title = `${isSigningIn ? 'Sign in' : `${text} · ${TITLES[current().view]}`} · raftmap`;
}

function drawNow() {
  const { text, kind } = isSigningIn ? { text: 'Signed out', kind: 'waiting' } : clusterView.headline();
  setText(byId('now-text'), text);
  byId('now').dataset.kind = kind;
  drawTitle();
}

/** The server that serves this page is gone: its members know where others are. */
function drawBanner() {
  const { phase, since, view, seenAt } = watch.state;
  const isSilent = phase === 'silent' && view !== null;
  byId('banner').hidden = !isSilent;
  if (!isSilent) return;
  const silence = span(Date.now() - since);
  setText(byId('banner-text'),
    `Server ${view.by}, which serves this page, has not answered for ${silence}. What is shown is of ${clock(seenAt)}.`);
  const others = view.members.filter((member) => !member.isOwn && consoleOf(member.address));
  const says = others.map((member) => member.address).join();
  if (byId('banner-others').dataset.says === says) return;
  byId('banner-others').dataset.says = says;
  byId('banner-others').replaceChildren(others.length > 0 ? 'Consoles of the others: ' : '',
    ...others.flatMap((member, at) => [at > 0 ? ', ' : '', el('a', { href: consoleOf(member.address) }, `server ${member.id}`)]));
}

function learn(state) {
  series.see(state);
  events.see(state);
}

watch.onStatus(learn);
watch.onProbe(series.seeProbe);
watch.onProbe(events.seeProbe);
clusterView.start();
eventsView.start();
events.onEvent(() => {
  if (current().view !== 'events') unseen += 1;
  drawUnseen();
});
keysView.start();
keyboard.start();
onRoute(showView);
signIn.start((isShown) => {
  isSigningIn = isShown;
  showView(current());
  drawNow();
  if (!isShown && current().view === 'keys') keysView.reload();
});
watch.onStatus(drawNow);
watch.onStatus(drawBanner);
byId('look-now').addEventListener('click', watch.lookNow);
byId('skip').addEventListener('click', (event) => {
  event.preventDefault();
  byId('main').focus();
});
tell();
watch.start();

// The cluster: who leads, how each server is, and how that went.

import { hasToken } from './call.js';
import { consoleOf } from './cluster.js';
import { button, byId, el, setAttribute, setText, svg } from './dom.js';
import { events, onEvent } from './events.js';
import { row as eventRow } from './events-view.js';
import { failurePanel } from './explain.js';
import { counted, grouped, listed, micros, rate, size, span, uptime } from './format.js';
import { Graph } from './graph.js';
import * as series from './series.js';
import { isProbeDenied, lookNow, onStatus, state } from './watch.js';

const EVENTS_SHOWN = 6;

/** What is told of a server, in order; `null` is not known from here. */
const FACTS = [
  ['Term', (member) => number(member.term)],
  ['Log', (member) => number(member.log)],
  ['Committed', (member) => number(member.commit)],
  ['Applied', (member) => number(member.applied)],
  ['Lag', (member) => (member.isOwn ? null : number(member.lag))],
  ['Log write p99', (member) => member.isOwn && (member.syncUs ? micros(member.syncUs) : '–')],
  ['Memory', (member) => member.memory && size(member.memory)],
  ['Up', (member) => member.uptimeMs !== null && uptime(member.uptimeMs)],
  ['Version', (member) => member.version],
];

const number = (value) => (value === null ? null : grouped(value));

const READ_ABOUT = 'One linearizable read a second, from the request to the answer: the way there and back counts, too.';

const cards = new Map();
const graphs = {
  committed: new Graph({
    title: 'Entries committed a second', format: rate, least: 10,
    about: 'Of the whole cluster, by its commit index. A write is an entry; so is an election.',
  }),
  latency: new Graph({
    title: 'A small read, from this browser', format: micros, least: 2000, failing: true,
    about: READ_ABOUT,
  }),
  answered: new Graph({ title: 'Requests answered a second', format: rate, least: 10, about: ' ' }),
  lag: new Graph({ title: 'Entries behind', format: rate, least: 10, about: ' ' }),
};
let shownMs = 60_000;

export function start() {
  byId('graphs').append(...Object.values(graphs).map((graph) => graph.element));
  for (const choice of byId('span').querySelectorAll('input')) {
    choice.addEventListener('change', () => {
      shownMs = Number(choice.value) * 60_000;
      drawGraphs();
    });
  }
  onStatus(draw);
  onEvent(drawEvents);
}

function draw() {
  const { view, phase } = state;
  drawHeadline();
  drawRefusal();
  byId('cluster-seen').hidden = !view;
  if (view) {
    drawMap(view);
    drawServers(view);
    drawFigures(view);
    drawGraphs();
  }
  for (const id of ['cluster', 'figures']) byId(id).classList.toggle('stale', phase !== 'fine');
}

/** What the cluster is, in a sentence, and what follows from it. */
export function headline() {
  const { view, phase } = state;
  if (phase === 'denied') return { text: 'The cluster is not shown to you', kind: 'bad' };
  if (phase === 'silent' && !view) return { text: 'The server does not answer', kind: 'bad' };
  if (!view) return { text: 'Asking the server', kind: 'waiting' };
  if (phase === 'silent') return { text: `Server ${view.by} does not answer`, kind: 'bad' };
  if (view.leader === null) return { text: 'No server leads', kind: 'waiting' };
  return { text: `Server ${view.leader} leads in term ${grouped(view.term)}`, kind: 'good' };
}

function drawHeadline() {
  const { view, phase } = state;
  setText(byId('headline'), headline().text);
  if (!view) {
    setText(byId('subline'), '');
    return;
  }
  const parts = [];
  if (phase === 'silent') parts.push('What is shown is what it said last.');
  else if (view.leader === null) {
    const voters = counted(view.voters, 'voter', 'voters');
    parts.push(`An election takes about a second, if ${view.majority} of ${voters} run and reach each other.`);
  } else if (view.isLeader && view.electedBy.length > 0) {
    parts.push(`Elected with the votes of ${view.electedBy.length === 1 ? 'server' : 'servers'} ${listed(view.electedBy)}.`);
  }
  const away = view.members.filter((member) => member.isAway).map((member) => member.id);
  if (away.length > 0 && phase === 'fine') {
    parts.push(`${away.length === 1 ? 'Server' : 'Servers'} ${listed(away)} ${away.length === 1 ? 'is' : 'are'} away.`);
  }
  parts.push(`Seen from server ${view.by}.`);
  setText(byId('subline'), parts.join(' '));
}

function drawRefusal() {
  const place = byId('cluster-failure');
  const isShown = !state.view && state.failure && state.phase !== 'unauthenticated';
  if (!isShown) place.replaceChildren();
  else if (place.childElementCount === 0) {
    const actions = [button('Try again', lookNow)];
    if (state.phase === 'denied' && !hasToken()) actions.push(button('Use a token', () => byId('sign-in-open').click()));
    place.append(failurePanel(state.failure, { actions }));
  }
}

function drawFigures(view) {
  const { entries } = series.committed.latest();
  const read = series.medianRead();
  const isFailing = series.latency.latest().read === null;
  setText(byId('figure-committed'), typeof entries === 'number' ? rate(entries) : '–');
  setText(byId('figure-read'), isFailing ? 'failing' : read === null || state.phase !== 'fine' ? '–' : micros(read));
  setAttribute(byId('figure-read'), 'data-kind', isFailing ? 'bad' : null);
  const here = view.members.filter((member) => member.role === 'voter' && !member.isAway).length;
  setText(byId('figure-voters'), `${here} of ${view.voters}`);
  setAttribute(byId('figure-voters'), 'data-kind', here < view.voters ? (here < view.majority ? 'bad' : 'warn') : null);
  setText(byId('figure-index'), view.own ? grouped(view.own.commit) : '–');
}

/** The servers in a circle, and the connections of the one that serves this page: what it knows by itself. */
function drawMap({ members, by, leader }) {
  const radius = members.length > 6 ? 16 : 23;
  const places = new Map(members.map(({ id }, at) => [id, placeOf(at, members.length)]));
  const own = places.get(by);
  const lines = members.filter((member) => !member.isOwn && own).map(({ id, isAway }) => {
    const there = places.get(id);
    return svg('line', { class: isAway ? 'link away' : 'link', x1: own.x, y1: own.y, x2: there.x, y2: there.y });
  });
  const nodes = members.flatMap((member) => {
    const { x: cx, y: cy } = places.get(member.id);
    const kind = member.isAway ? 'away' : member.leads ? 'leads' : '';
    return [
      member.isOwn && svg('circle', { class: 'own-ring', cx, cy, r: radius + 5 }),
      svg('circle', { class: `node ${kind}`, cx, cy, r: radius }),
      svg('text', { class: `node-id ${kind}`, x: cx, y: cy + 6, 'text-anchor': 'middle' }, member.id),
    ].filter(Boolean);
  });
  byId('map').replaceChildren(...lines, ...nodes);
  const away = members.filter((member) => member.isAway).map(({ id }) => id);
  const parts = [`Servers ${listed(members.map(({ id }) => id))}`, leader ? `server ${leader} leads` : 'no server leads'];
  if (away.length > 0) parts.push(`away: ${listed(away)}`);
  setAttribute(byId('map'), 'aria-label', parts.join('; '));
}

/** Where one of `count` servers stands in the drawing: the first one at the top, the others clockwise. */
function placeOf(at, count) {
  const center = { x: 130, y: 108 };
  if (count === 1) return center;
  const angle = (2 * Math.PI * at) / count - Math.PI / 2;
  // A triangle reaches further up than down.
  const down = count === 3 ? 14 : 0;
  return { x: center.x + 83 * Math.cos(angle), y: center.y + 74 * Math.sin(angle) + down };
}

function drawServers(view) {
  for (const [id, card] of cards) {
    if (view.members.some((member) => member.id === id)) continue;
    card.element.remove();
    cards.delete(id);
  }
  const most = Math.max(1, ...view.members.map((member) => member.log ?? 0));
  // The one that is known best comes first.
  view.members.toSorted((a, b) => b.isOwn - a.isOwn).forEach((member, at) => {
    const card = cards.get(member.id) ?? newCard(member.id);
    const there = byId('servers').children[at] ?? null;
    if (there !== card.element) byId('servers').insertBefore(card.element, there);
    drawCard(card, member, view, most);
  });
  drawServersNote(view);
}

/** What the server that serves this page does not know, and who does. */
function drawServersNote(view) {
  const note = byId('servers-note');
  note.hidden = view.isLeader || view.members.length < 2;
  const leader = view.members.find((member) => member.leads && !member.isOwn);
  const place = leader && consoleOf(leader.address);
  // Who has the focus on the link keeps it, as long as it leads to the same place.
  const says = `${view.by} ${place}`;
  if (note.dataset.says === says) return;
  note.dataset.says = says;
  note.replaceChildren(
    `Server ${view.by} does not lead: of the others it knows only whether it has a connection to them. `,
    place ? el('a', { href: place }, `The console of server ${leader.id}`) : 'A leader’s console',
    ' shows how far each of them is.',
  );
}

function newCard(id) {
  const card = {
    badge: el('span', { class: 'badge' }),
    here: el('span', { class: 'tag here' }, 'this server'),
    learner: el('span', { class: 'tag' }),
    address: el('a', { class: 'address' }),
    bar: el('div', { class: 'bar', 'aria-hidden': 'true' }, el('i'), el('i')),
    facts: FACTS.map(([name]) => ({ row: el('div', {}, el('dt', {}, name), el('dd')) })),
    unknown: el('p', { class: 'unknown' }),
    notes: el('ul', { class: 'notes' }),
  };
  const title = el('h3', { id: `server-${id}` }, `Server ${id}`);
  card.list = el('dl', {}, card.facts.map(({ row }) => row));
  card.element = el('li', { class: 'server card', 'aria-labelledby': `server-${id}` },
    el('div', { class: 'server-head' }, title, card.badge),
    el('div', { class: 'server-where' }, card.address, card.here, card.learner),
    card.notes, card.bar, card.list, card.unknown);
  cards.set(id, card);
  return card;
}

function drawCard(card, member, view, most) {
  const [is, kind] = stateOf(member);
  setText(card.badge, is);
  card.badge.dataset.kind = kind;
  card.element.dataset.kind = kind;
  card.element.classList.toggle('own', member.isOwn);
  card.here.hidden = !member.isOwn;
  setText(card.learner, member.role);
  card.learner.hidden = member.role === 'voter';
  setText(card.address, member.address || 'address unknown');
  setAttribute(card.address, 'href', member.isOwn ? null : consoleOf(member.address));
  card.bar.hidden = member.log === null;
  if (member.log !== null) {
    const [applied, held] = card.bar.children;
    applied.style.width = `${(100 * (member.applied ?? member.log)) / most}%`;
    held.style.width = `${(100 * member.log) / most}%`;
  }
  card.facts.forEach(({ row }, at) => {
    const value = FACTS[at][1](member);
    row.hidden = !value;
    if (value) setText(row.lastChild, value);
  });
  card.list.hidden = FACTS.every((_, at) => card.facts[at].row.hidden);
  card.unknown.hidden = member.isKnown;
  setText(card.unknown, member.isAway ? '' : 'It is connected. What it holds is not known from here.');
  const notes = (member.notes ?? []).filter((entry) => entry.is !== 'learner').map((entry) => `${entry.is}: ${entry.why}`);
  if (member.isAway) {
    notes.unshift(member.awayMs > 0 ? `no connection for ${span(member.awayMs)}` : 'it does not answer the leader');
  }
  if (card.notes.childElementCount !== notes.length) card.notes.replaceChildren(...notes.map(() => el('li')));
  notes.forEach((text, at) => setText(card.notes.children[at], text));
}

/** A word for how a server is, and how that is to be taken. */
function stateOf(member) {
  if (member.isAway) return ['away', 'bad'];
  if (member.isOwn && state.phase === 'silent') return ['no answer', 'bad'];
  const wrong = member.notes?.find((entry) => entry.isBad);
  if (wrong) return [wrong.is, 'bad'];
  if (member.leads) return ['leader', 'leader'];
  if (member.state) return [member.state, member.state === 'follower' ? 'fine' : 'warn'];
  return [member.role === 'learner' ? 'learner' : 'follower', 'fine'];
}

function drawGraphs() {
  if (byId('view-cluster').hidden || !state.view) return;
  const to = Date.now();
  const from = to - shownMs;
  const marks = series.leaders.slice(1).map(({ at, leader }) => ({ at, label: `${leader} leads` }));
  const draw = (graph, numbers, lines) => graph.draw(numbers.since(from), { from, to, lines, marks });
  const { by, isLeader } = state.view;
  draw(graphs.committed, series.committed, [{ key: 'entries', label: '' }]);
  draw(graphs.latency, series.latency, [{ key: 'read', label: '' }]);
  draw(graphs.answered, series.answered, [{ key: 'writes', label: 'writes' }, { key: 'reads', label: 'reads' }]);
  const ids = [...new Set(series.lag.since(from).flatMap(({ values }) => Object.keys(values)))].sort((a, b) => a - b);
  draw(graphs.lag, series.lag, ids.map((key) => ({ key, label: `server ${key}` })));
  graphs.latency.describe(isProbeDenied() ? 'You may not read the key by which this is timed.' : READ_ABOUT);
  graphs.answered.describe(`By server ${by} alone. One read a second is of this page.`);
  graphs.lag.describe(isLeader
    ? `Entries of the log of server ${by}, the leader, that each other server does not hold yet.`
    : `Committed entries that server ${by} has not applied yet. How far the others are behind, the leader knows.`);
}

function drawEvents() {
  const latest = events.slice(-EVENTS_SHOWN).reverse();
  byId('latest-events').replaceChildren(...latest.map(eventRow));
}

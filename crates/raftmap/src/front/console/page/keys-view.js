// The browser of keys: a search by how they begin, a page at a time, and one key that is chosen.

import { decode, isEqual, keyLabel, textOf, toHex } from './bytes.js';
import { button, byId, el, setText } from './dom.js';
import * as editor from './editor.js';
import * as entryView from './entry-view.js';
import { failurePanel } from './explain.js';
import { Failure } from './failure.js';
import { counted, grouped } from './format.js';
import * as map from './map.js';
import { current, go, onRoute, toKeys } from './route.js';

/** So long nothing is typed before the keys are looked for. */
const TYPING_MS = 180;

/** What is looked for and what was found; `chosen` is the key in the address. */
const shown = { prefix: '', encoding: 'text', entries: [], more: false, chosen: null };
let search = null;
let typing = 0;
let isLoaded = false;

export function start() {
  byId('search').addEventListener('submit', (event) => {
    event.preventDefault();
    typed();
  });
  byId('prefix').addEventListener('input', () => {
    clearTimeout(typing);
    typing = setTimeout(typed, TYPING_MS);
  });
  byId('prefix').addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown') {
      event.preventDefault();
      focusKey(0);
    }
  });
  byId('prefix-encoding').addEventListener('change', respell);
  byId('stale').addEventListener('change', reload);
  byId('more').addEventListener('click', () => load({ isMore: true }));
  byId('new-key').addEventListener('click', create);
  byId('keys').addEventListener('keydown', move);
  byId('keys').addEventListener('click', (event) => {
    const row = event.target.closest('[role=option]');
    if (row) choose(indexOf(row));
  });
  entryView.start({ isStale, changed, leave });
  onRoute(follow);
}

/** Looks again for what is shown. */
export function reload() {
  load({});
  if (shown.chosen) entryView.show(shown.chosen);
}

/** Makes a new key, which begins as what is looked for. */
export function create() {
  const prefix = decode(shown.prefix, shown.encoding);
  editor.create(prefix ?? new Uint8Array(), changed);
}

export const isStale = () => byId('stale').checked;

function follow({ view, prefix, encoding, key }) {
  if (view !== 'keys') return;
  const isOther = prefix !== shown.prefix || encoding !== shown.encoding;
  Object.assign(shown, { prefix, encoding });
  if (document.activeElement !== byId('prefix')) byId('prefix').value = prefix;
  byId('prefix-encoding').value = encoding;
  if (isOther || !isLoaded) load({});
  const isSame = key && shown.chosen ? isEqual(key, shown.chosen) : key === shown.chosen;
  shown.chosen = key;
  byId('browser').classList.toggle('has-entry', key !== null);
  if (!isSame || !key) entryView.show(key);
  mark();
}

function typed() {
  clearTimeout(typing);
  const [prefix, encoding] = [byId('prefix').value, byId('prefix-encoding').value];
  go(toKeys({ prefix, encoding, key: shown.chosen }), false);
}

/** Writes what is looked for in the other way, if it can be written so. */
function respell() {
  const encoding = byId('prefix-encoding').value;
  const bytes = decode(shown.prefix, shown.encoding);
  const text = bytes && (encoding === 'hex' ? toHex(bytes) : textOf(bytes));
  byId('prefix').value = text ?? '';
  typed();
}

async function load({ isMore = false }) {
  search?.abort();
  search = new AbortController();
  isLoaded = true;
  const prefix = decode(shown.prefix, shown.encoding);
  byId('keys-failure').replaceChildren();
  if (!prefix) {
    Object.assign(shown, { entries: [], more: false });
    draw();
    setText(byId('keys-count'), 'Hex is written as pairs of the digits 0 to 9 and a to f.');
    return;
  }
  const { signal } = search;
  const after = isMore ? shown.entries.at(-1).key : null;
  byId('keys').setAttribute('aria-busy', 'true');
  try {
    const page = await map.keys({ prefix, after, isStale: isStale(), signal });
    if (signal.aborted) return;
    shown.entries = isMore ? [...shown.entries, ...page.entries] : page.entries;
    shown.more = page.more;
    draw(isMore ? shown.entries.length - page.entries.length : null);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (!signal.aborted) refuse(failure, isMore);
  } finally {
    if (!signal.aborted) byId('keys').removeAttribute('aria-busy');
  }
}

function refuse(failure, isMore) {
  const actions = [button('Try again', () => load({ isMore }))];
  if (!isStale() && failure.code !== 'DENIED' && failure.code !== 'UNAUTHENTICATED') {
    actions.push(button('Show what this server has', readHere));
  }
  const note = failure.code === 'DENIED' ? 'If you may read some keys only, search for how those begin.' : '';
  byId('keys-failure').replaceChildren(failurePanel(failure, { actions, note }));
}

function readHere() {
  byId('stale').checked = true;
  reload();
}

/** `focusAt`: the row that the focus goes to, after it was on the button that brought more. */
function draw(focusAt = null) {
  const { entries, more, prefix } = shown;
  byId('keys').replaceChildren(...entries.map(row));
  byId('more').hidden = !more;
  const count = `${counted(entries.length, 'key', 'keys')}${more ? ', and there are more' : ''}`;
  const none = prefix ? 'No key begins so.' : 'The map is empty.';
  setText(byId('keys-count'), entries.length > 0 ? count : none);
  mark();
  if (focusAt !== null) focusKey(focusAt);
}

function row({ key, revision, expiresAtMs }) {
  const { label, isText } = keyLabel(key);
  return el('li', { class: 'key', role: 'option', tabindex: -1 },
    el('span', { class: 'key-name' }, label),
    !isText && el('span', { class: 'tag' }, 'hex'),
    expiresAtMs > 0 && el('span', { class: 'tag' }, 'expires'),
    el('span', { class: 'key-revision', title: 'Revision' }, grouped(revision)));
}

/** Shows which key is chosen. One row alone is a stop of the tab key; arrows lead to the others. */
function mark() {
  const chosen = shown.chosen ? shown.entries.findIndex(({ key }) => isEqual(key, shown.chosen)) : -1;
  [...byId('keys').children].forEach((row, at) => {
    row.setAttribute('aria-selected', String(at === chosen));
    row.tabIndex = at === Math.max(0, chosen) ? 0 : -1;
  });
}

const indexOf = (row) => [...byId('keys').children].indexOf(row);

function focusKey(at) {
  const rows = byId('keys').children;
  const row = rows[Math.min(rows.length - 1, Math.max(0, at))];
  if (!row) return;
  for (const other of rows) other.tabIndex = other === row ? 0 : -1;
  row.focus();
}

/** Moves among the rows, from wherever the focus is. */
export function step(by) {
  const at = indexOf(document.activeElement);
  focusKey(at < 0 ? 0 : at + by);
}

function move(event) {
  const at = indexOf(event.target);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  if (event.key in steps) focusKey(at + steps[event.key]);
  else if (event.key === 'Enter' || event.key === ' ') choose(at);
  else return;
  event.preventDefault();
}

function choose(at) {
  go(toKeys({ ...shown, key: shown.entries[at].key }));
  // Where there is no room for both, the list is gone.
  if (!byId('keys').checkVisibility()) byId('entry').focus();
}

/** Goes back to the list, to the row that was chosen. */
export function leave() {
  const at = shown.chosen ? shown.entries.findIndex(({ key }) => isEqual(key, shown.chosen)) : -1;
  go(toKeys({ ...shown, key: null }));
  if (at >= 0) focusKey(at);
}

/** A key was written or removed from this page. */
async function changed({ key, isRemoved }) {
  const at = Math.max(0, indexOf(byId('keys').querySelector('[aria-selected=true]')));
  const isHere = current().view === 'keys' && shown.chosen && isEqual(shown.chosen, key);
  if (isRemoved) go(toKeys({ ...shown, key: null }), false);
  else if (isHere) entryView.show(key);
  else go(toKeys({ ...shown, key }));
  await load({});
  if (document.activeElement === document.body) focusKey(at);
}

// What single keys of the keyboard do, when nobody is writing.

import { byId, el } from './dom.js';
import * as entryView from './entry-view.js';
import * as keysView from './keys-view.js';
import { current, go } from './route.js';

/** Key, what it does in words, and what it does. */
const SHORTCUTS = [
  ['/', 'search the keys', () => {
    if (current().view !== 'keys') go('#/keys');
    byId('prefix').focus();
    byId('prefix').select();
  }],
  ['1', 'the cluster', () => go('#/cluster')],
  ['2', 'the keys', () => go('#/keys')],
  ['3', 'the events', () => go('#/events')],
  ['n', 'a new key', () => {
    if (current().view !== 'keys') go('#/keys');
    keysView.create();
  }],
  ['j', 'the next key of the list', () => inKeys(() => keysView.step(1))],
  ['k', 'the one before', () => inKeys(() => keysView.step(-1))],
  ['e', 'edit the chosen key', () => inKeys(entryView.edit)],
  ['d', 'delete it, after a question', () => inKeys(entryView.remove)],
  ['r', 'read again', () => inKeys(keysView.reload)],
  ['t', 'light, dark, or as the system', () => byId('theme').click()],
  ['?', 'this list', () => byId('help').showModal()],
];

const MORE = [
  ['Enter', 'choose the key that has the focus'],
  ['← →', 'move the cursor of a graph'],
  ['Ctrl Enter', 'save what is being edited'],
  ['Esc', 'close, or stop waiting; in the keys: back to the list'],
];

export function start() {
  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
    if (!byId('view-sign-in').hidden || isWriting(event.target)) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    if (event.key === 'Escape') inKeys(keysView.leave);
    const shortcut = SHORTCUTS.find(([key]) => key === event.key);
    if (!shortcut) return;
    event.preventDefault();
    shortcut[2]();
  });
  byId('shortcuts').append(...[...SHORTCUTS, ...MORE].map(([keys, does]) => el('div', {},
    el('dt', {}, keys.split(' ').map((key) => el('kbd', {}, key))), el('dd', {}, does))));
  byId('help-open').addEventListener('click', () => byId('help').showModal());
  byId('help-close').addEventListener('click', () => byId('help').close());
}

function isWriting(element) {
  return element.matches('textarea, select, input:not([type=radio], [type=checkbox])');
}

function inKeys(act) {
  if (current().view === 'keys') act();
}

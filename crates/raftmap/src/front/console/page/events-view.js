// What happened since the page was opened, the latest first.

import { byId, announce, el, setText } from './dom.js';
import { onEvent } from './events.js';
import { clock, dayAndClock } from './format.js';

const KINDS = { good: 'As it should be', done: 'Noted', bad: 'Not as it should be' };

export function start() {
  const opened = clock(Date.now());
  setText(byId('events-since'), `Since ${opened}, when this page was opened. Times are of this browser, to about a second.`);
  onEvent((event) => {
    byId('no-events').hidden = true;
    byId('all-events').prepend(row(event));
    announce(event.text);
  });
}

/** One event as a row. */
export function row({ at, kind, text }) {
  return el('li', { class: 'event', 'data-kind': kind },
    el('time', { datetime: new Date(at).toISOString(), title: dayAndClock(at) }, clock(at)),
    el('span', { class: 'event-sign', role: 'img', 'aria-label': KINDS[kind] }),
    el('span', {}, text));
}

// What a failure says to a person: what happened, whether it was applied, what to do.

import { el } from './dom.js';
import { grouped } from './format.js';

const AGAIN = 'Try again in a moment.';
const ELSEWHERE = 'Use the console of another server; the cluster view says where they are.';

/** What happened, and what to do about it. */
const TEXTS = {
  CODE_UNSPECIFIED: ['The server failed.', 'Look into its log, then try again.'],
  INVALID: ['The server does not take this request.', 'Change what it names.'],
  TOO_LARGE: ['This is too large.', 'Make it smaller.'],
  OVERLOADED: ['The server has too much to do.', AGAIN],
  NO_LEADER: ['No server leads at the moment.', 'An election takes about a second, if a majority of the servers runs. Then try again.'],
  NO_QUORUM: ['A majority of the servers cannot be reached.', 'See in the cluster view which servers are away, and try again when they are back.'],
  DEADLINE: ['There was no answer in time.', AGAIN],
  LEADERSHIP_LOST: ['The leader changed meanwhile.', AGAIN],
  DISK_FULL: ['The disk of a server is full.', 'Somebody must make room on it. Reads go on.'],
  NODE_UNFIT: ['This server is being made whole, and answers nothing until then.', ELSEWHERE],
  SHUTTING_DOWN: ['This server is being stopped.', ELSEWHERE],
  UNAUTHENTICATED: ['The server does not know who you are.', 'Sign in.'],
  DENIED: ['You may not do this.', 'Ask whoever runs the cluster, or sign in with another token.'],
  SESSION_UNKNOWN: ['The server has forgotten the session of this page.', 'Read the key, then decide.'],
  SEQUENCE_FORGOTTEN: ['This write is over for the server.', 'Read the key, then decide.'],
  SEQUENCE_REUSED: ['The server has this write with another content.', 'Load this page again.'],
  BEHIND: ['This server is too far behind.', ELSEWHERE],
  SCAN_LOST: ['The server has lost its place in the map.', 'Search again.'],
  UNSUPPORTED: ['The server does not know this request.', 'Load this page again: it may be of another version.'],
  LOST: ['There is no answer from the server.', 'It may be gone or cut off. If it stays so, use the console of another server.'],
  STOPPED: ['You stopped waiting.', 'Read the key, then decide.'],
};

/** `{ happened, applied, todo }` in sentences; `applied` is of writes alone. */
export function explain(failure, isWrite = false) {
  const [happened, todo] = TEXTS[failure.code] ?? TEXTS.CODE_UNSPECIFIED;
  const limit = failure.limit > 0 ? ` ${grouped(failure.limit)} are allowed.` : '';
  let applied = '';
  if (isWrite) {
    applied = failure.maybeApplied
      ? 'It is uncertain whether it was applied: it may have been, or may be yet.'
      : 'It was certainly not applied.';
  }
  return { happened: happened + limit, applied, todo };
}

/** A panel that says so. `actions` are buttons. */
export function failurePanel(failure, { isWrite = false, actions = [], note = '' } = {}) {
  const { happened, applied, todo } = explain(failure, isWrite);
  const kind = isWrite && failure.maybeApplied ? 'uncertain' : 'failed';
  return el('div', { class: `panel ${kind}`, role: 'alert' },
    el('p', { class: 'panel-title' }, happened),
    applied && el('p', { class: 'panel-applied' }, applied),
    el('p', {}, note || todo),
    el('p', { class: 'panel-reason' }, el('span', { class: 'tag' }, failure.code), ' ', failure.reason),
    actions.length > 0 && el('div', { class: 'buttons' }, actions));
}

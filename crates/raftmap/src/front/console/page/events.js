// What happened since the page was opened: two looks at the cluster, one after the other, and what is new in the second.

import { listed, span, uptime } from './format.js';

const EVENTS_MAX = 500;

/** `{ at, kind, text }`, the latest last. `kind`: `good`, `done`, `bad`. */
export const events = [];

const listeners = [];

export const onEvent = (listener) => listeners.push(listener);

export function note(kind, text, at = Date.now()) {
  const event = { at, kind, text };
  events.push(event);
  if (events.length > EVENTS_MAX) events.shift();
  listeners.forEach((listener) => listener(event));
}

let before = null;
let silentSince = 0;
/** The last leader that there was, and since when there is none. */
let led = null;
let leaderlessSince = 0;
/** Since when each server is away. */
const away = new Map();

/** Takes in what was learned in a look: the state of watch.js. */
export function see({ phase, since, view }) {
  if (phase === 'silent') {
    if (silentSince === 0 && before) {
      silentSince = since;
      note('bad', `Server ${before.by}, which serves this page, does not answer.`);
    }
    return;
  }
  if (phase !== 'fine') return;
  if (silentSince > 0) {
    note('good', `Server ${view.by} answers again, after ${span(Date.now() - silentSince)}.`);
    silentSince = 0;
  }
  compareLeader(view);
  if (before) {
    compareOwn(view.own, before.own);
    compareMembers(view.members, new Map(before.members.map((member) => [member.id, member])));
  } else {
    view.members.filter((member) => member.isAway).forEach((member) => away.set(member.id, Date.now() - member.awayMs));
  }
  before = view;
}

function compareLeader(view) {
  const { leader, term } = view;
  if (leader === null) {
    if (leaderlessSince === 0) {
      leaderlessSince = Date.now();
      note('bad', 'No server leads.');
    }
    if (before && term > before.term) note('done', `Term ${term} begins: an election.`);
    return;
  }
  if (led?.leader === leader && led.term === term && leaderlessSince === 0) return;
  const votes = view.isLeader && view.electedBy.length > 0 ? `, with the votes of ${listed(view.electedBy)}` : '';
  const gap = leaderlessSince > 0 && led ? ` No leader was seen for ${span(Date.now() - leaderlessSince)}.` : '';
  const verb = led && led.leader === leader && led.term === term ? 'still leads' : 'leads';
  note('good', `Server ${leader} ${verb} in term ${term}${votes}.${gap}`);
  [led, leaderlessSince] = [{ leader, term }, 0];
}

function compareOwn(own, was) {
  if (!own || !was || own.id !== was.id) return;
  if (own.uptimeMs < was.uptimeMs) note('done', `Server ${own.id} started anew, ${uptime(own.uptimeMs)} ago.`);
  if (own.version !== was.version) note('done', `Server ${own.id} runs version ${own.version}.`);
}

function compareMembers(members, earlier) {
  for (const member of members) {
    const was = earlier.get(member.id);
    if (!was) {
      note('good', `Server ${member.id} is a member, as a ${member.role}.`);
      continue;
    }
    earlier.delete(member.id);
    compareMember(member, was);
  }
  for (const id of earlier.keys()) {
    away.delete(id);
    note('done', `Server ${id} is no member any more.`);
  }
}

function compareMember(member, was) {
  const name = `Server ${member.id}`;
  if (member.isAway && !was.isAway) {
    away.set(member.id, Date.now() - member.awayMs);
    note('bad', `${name} is away.`);
  } else if (was.isAway && !member.isAway) {
    const since = away.get(member.id);
    away.delete(member.id);
    note('good', since ? `${name} is back, after ${span(Date.now() - since)}.` : `${name} is back.`);
  }
  if (was.role === 'learner' && member.role === 'voter') note('good', `${name} has caught up, and votes.`);
  if (member.address !== was.address) note('done', `${name} answers clients at ${member.address}.`);
  // A server that does not lead knows nothing of others: that is no news of them.
  if (!member.notes || !was.notes) return;
  const [is, did] = [member.notes, was.notes].map((notes) => notes.map((entry) => entry.is));
  for (const entry of member.notes.filter((entry) => entry.is !== 'learner' && !did.includes(entry.is))) {
    note(entry.isBad ? 'bad' : 'done', `${name}, ${entry.is}: ${entry.why}.`);
  }
  for (const gone of did.filter((entry) => entry !== 'learner' && !is.includes(entry))) {
    note('good', `${name} is over it: no longer “${gone}”.`);
  }
}

let failingSince = 0;

/** Takes in a timed read. */
export function seeProbe({ at, failure }) {
  if (failure?.code === 'DENIED') return;
  if (failure) {
    if (failingSince === 0) {
      failingSince = at;
      note('bad', `A linearizable read failed: ${failure.message}.`, at);
    }
  } else if (failingSince > 0) {
    note('good', `Linearizable reads are answered again: they failed for ${span(Date.now() - failingSince)}.`);
    failingSince = 0;
  }
}

// Looks at the cluster once a second, for as long as the page is open, and waits longer while nobody answers.

import { call } from './call.js';
import { viewOf } from './cluster.js';
import { Failure } from './failure.js';

const EVERY_MS = 1000;
const TIMEOUT_MS = 2500;
const PAUSE_MAX_MS = 5000;

/** The key of the small read that is timed. It need not be there. */
const PROBE = btoa('console-probe');

/**
 * What was learned last. `phase`: `starting`, `fine`, `silent` (no answer), `unauthenticated`, `denied`.
 * `view`: the cluster as it was seen last; `seenAt`: when. `since`: when the phase began.
 */
export const state = { phase: 'starting', since: Date.now(), view: null, seenAt: 0, failure: null, retryAt: 0 };

const listeners = { status: [], probe: [] };
let wake = () => {};
let failures = 0;
let probeDenied = false;

/** `listener(state)` hears of each look. */
export const onStatus = (listener) => listeners.status.push(listener);

/** `listener({ at, us, failure })` hears of each timed read; one that failed has no time. */
export const onProbe = (listener) => listeners.probe.push(listener);

export function start() {
  watch();
  probe();
}

/** Whether the server refuses the timed read to this user. */
export const isProbeDenied = () => probeDenied;

/** Looks at once, instead of when it is time, and for all that was refused before. */
export function lookNow() {
  failures = 0;
  probeDenied = false;
  wake();
}

async function watch() {
  for (;;) {
    const began = performance.now();
    await look();
    const patience = Math.min(PAUSE_MAX_MS, EVERY_MS * 2 ** Math.max(0, failures - 1));
    const pause = Math.max(EVERY_MS / 4, patience - (performance.now() - began));
    state.retryAt = failures > 0 ? Date.now() + pause : 0;
    listeners.status.forEach((listener) => listener(state));
    await new Promise((done) => {
      wake = done;
      setTimeout(done, pause);
    });
  }
}

async function look() {
  try {
    const options = { timeoutMs: TIMEOUT_MS };
    const [status, members] = await Promise.all([
      call('Cluster/Status', {}, options),
      call('Cluster/Members', {}, options),
    ]);
    state.view = viewOf(status, members);
    state.seenAt = Date.now();
    state.failure = null;
    failures = 0;
    enter('fine');
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    state.failure = failure;
    failures += 1;
    if (failure.code === 'UNAUTHENTICATED') enter('unauthenticated');
    else if (failure.code !== 'DENIED') enter('silent');
    else {
      // What somebody else was shown before is not for this one.
      state.view = null;
      enter('denied');
    }
  }
}

function enter(phase) {
  if (state.phase === phase) return;
  state.phase = phase;
  state.since = Date.now();
}

/** The reads go on also while the server says nothing of itself: they tell for how long a client would have waited. */
async function probe() {
  for (;;) {
    await new Promise((done) => setTimeout(done, EVERY_MS));
    if (probeDenied || state.phase === 'starting' || state.phase === 'unauthenticated') continue;
    const at = Date.now();
    const began = performance.now();
    let failure = null;
    await call('Map/Get', { keys: [PROBE] }, { timeoutMs: TIMEOUT_MS }).catch((failed) => {
      failure = failed;
    });
    const us = failure ? null : (performance.now() - began) * 1000;
    listeners.probe.forEach((listener) => listener({ at, us, failure }));
    probeDenied = failure?.code === 'DENIED';
  }
}

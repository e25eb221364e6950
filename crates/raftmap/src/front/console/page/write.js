// Writes that may be asked for again: each is applied once, whatever was lost on the way.
//
// Each write is a transaction on the condition that the key is as it was seen, and carries a tag of a session that this
// page opens for its first write. With its tag, a write that is repeated gets its first answer again.

import { call } from './call.js';
import { Failure } from './failure.js';
import { toBase64 } from './bytes.js';

const ATTEMPT_MS = 5000;
/** So long a write is asked for again before a person is. */
const PATIENCE_MS = 20_000;
const PAUSE_FIRST_MS = 200;
const PAUSE_MAX_MS = 2000;

/** After these, the next attempt may end otherwise. */
const PASSING = new Set([
  'CODE_UNSPECIFIED', 'OVERLOADED', 'NO_LEADER', 'NO_QUORUM', 'DEADLINE', 'LEADERSHIP_LOST', 'SHUTTING_DOWN', 'NODE_UNFIT',
  'BEHIND', 'LOST',
]);

/** This page's session, once it is open: its id and the sequence that comes next. */
let session = null;

/** Sets `key`, if its revision still is `revision`; `'0'`: if it is not there. */
export function put(key, value, revision, ttlMs = 0) {
  return new Write(key, revision, { put: { key: toBase64(key), value: toBase64(value), ttlMs: String(ttlMs) } });
}

/** Removes `key`, if its revision still is `revision`. */
export function remove(key, revision) {
  return new Write(key, revision, { delete: toBase64(key) });
}

/** One write, from the first attempt to its end. */
class Write {
  constructor(key, revision, operation) {
    this.request = {
      conditions: [{ key: toBase64(key), revision }],
      then: [operation],
      otherwise: [{ get: toBase64(key) }],
    };
    this.tag = null;
    /** Whether an attempt so far may have been applied. */
    this.maybeApplied = false;
  }

  /**
   * Asks for it until it is answered, cannot succeed, or took too long; may be called again after a failure.
   * Gives `{ succeeded, revision, current }`, where `current` is the entry that stands in the way, or `null`.
   * `waiting(failure)` hears why it is asked for again.
   */
  async run({ signal, waiting = () => {} } = {}) {
    const deadline = performance.now() + PATIENCE_MS;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.attempt(signal);
      } catch (failure) {
        if (!(failure instanceof Failure)) throw failure;
        const isNew = this.isOfNewSession(failure);
        failure.maybeApplied = this.maybeApplied;
        const pause = Math.max(failure.retryAfterMs, Math.min(PAUSE_MAX_MS, PAUSE_FIRST_MS * 2 ** attempt));
        const isOver = performance.now() + pause > deadline || signal?.aborted;
        if (isOver || !(isNew || PASSING.has(failure.code))) throw failure;
        waiting(failure);
        await sleep(pause, signal);
      }
    }
  }

  async attempt(signal) {
    this.tag ??= await nextTag(signal);
    const options = { timeoutMs: ATTEMPT_MS, signal };
    const answer = await call('Map/Txn', { ...this.request, session: this.tag }, options).catch((failure) => {
      // An unknown session applies nothing: what may be unknown is whether an earlier attempt was applied.
      this.maybeApplied ||= failure.maybeApplied && failure.code !== 'SESSION_UNKNOWN';
      throw failure;
    });
    return {
      succeeded: answer.succeeded === true,
      revision: answer.revision ?? '0',
      current: answer.succeeded ? null : (answer.results?.[0]?.entry ?? null),
    };
  }

  /** Whether the session is gone, and it is right to ask again in another one: if nothing can have been applied. */
  isOfNewSession(failure) {
    if (failure.code !== 'SESSION_UNKNOWN') return false;
    if (session?.id === this.tag?.sessionId) session = null;
    if (this.maybeApplied) return false;
    this.tag = null;
    return true;
  }
}

/** A page has one write under way: all earlier ones are over, and need not be remembered for it. */
async function nextTag(signal) {
  if (!session) {
    const opened = await call('Map/OpenSession', {}, { timeoutMs: ATTEMPT_MS, signal }).catch((failure) => {
      // A session that was opened and is not used changes nothing.
      failure.maybeApplied = false;
      throw failure;
    });
    session = { id: opened.sessionId, sequence: 0 };
  }
  session.sequence += 1;
  const sequence = String(session.sequence);
  return { sessionId: session.id, sequence, acknowledgedBelow: sequence };
}

async function sleep(ms, signal) {
  await new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      done();
    }, { once: true });
  });
}

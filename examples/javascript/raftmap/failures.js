// How a call fails, and what follows from an attempt that failed.

import { failureIn } from "./contract.js";

// Milliseconds: the longest pause before the second attempt, which doubles with each one; its bound; what a server can ask for.
const PAUSE_FIRST = 10;
const PAUSE_MAX = 500;
const RETRY_AFTER_MAX = 5000;

/** A call that has no answer. */
export class RaftmapError extends Error {
  constructor(failed, attempts) {
    const facts = [failed.code, failed.server, `${attempts} attempts`].filter(Boolean);
    super(`${failed.message} (${facts.join(", ")})`, { cause: failed });
    this.name = new.target.name;
    /** A name of Failure.Code in map.proto; empty if no server said anything. */
    this.code = failed.code;
    /** Whether it would end the same way again. */
    this.isFinal = failed.next === Next.END;
  }
}

/** The write certainly was not applied, by no attempt, and will not be: it may be sent again. Every read that fails is this. */
export class NotApplied extends RaftmapError {}

/** The write may have been applied, or may be later. A new call would be a new write: read before you decide. */
export class OutcomeUnknown extends RaftmapError {}

/** What to do after an attempt that failed. */
export const Next = Object.freeze({
  END: "no attempt can end otherwise",
  ELSEWHERE: "ask another server",
  AGAIN: "ask again: the server works, and has too much to do",
  NEW_SESSION: "send it as a new write, in a new session",
});

// Of all other codes: END.
const NEXT = {
  OVERLOADED: Next.AGAIN,
  NO_LEADER: Next.ELSEWHERE,
  NO_QUORUM: Next.ELSEWHERE,
  DEADLINE: Next.ELSEWHERE,
  LEADERSHIP_LOST: Next.ELSEWHERE,
  NODE_UNFIT: Next.ELSEWHERE,
  SHUTTING_DOWN: Next.ELSEWHERE,
  BEHIND: Next.ELSEWHERE,
  SCAN_LOST: Next.ELSEWHERE, // a scan is repeated from its beginning here
  SESSION_UNKNOWN: Next.NEW_SESSION,
};

/** One attempt that brought no answer. */
export class Failed extends Error {
  constructor(server, reason, { maybeApplied, next = Next.ELSEWHERE, code = "", leader = "", retryAfterMs = 0 }) {
    super(reason);
    Object.assign(this, { server, maybeApplied, next, code, leader, retryAfterMs });
  }
}

/** What the status says with which an attempt ended. Whatever fails in a server has a `Failure` among its details. */
export function judge(server, error) {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const failure = details && failureIn(details);
  if (!failure) {
    // The connection broke, or the time was over. The request may have been taken.
    return new Failed(server, error.details || error.message, { maybeApplied: true });
  }
  return new Failed(server, failure.reason, {
    // An unknown session applies nothing: what is unknown then is whether an earlier attempt was applied.
    maybeApplied: failure.outcome !== "NOT_APPLIED" && failure.code !== "SESSION_UNKNOWN",
    next: NEXT[failure.code] ?? Next.END,
    code: String(failure.code), // the number, if it is of a newer server
    leader: failure.leader,
    retryAfterMs: Math.min(failure.retryAfterMs, RETRY_AFTER_MAX),
  });
}

/** What became of a call's attempts so far. */
export class History {
  #isRead;
  #attempts = 0;
  #maybeApplied = false;
  #last = new Failed("", "there was no time for an attempt", { maybeApplied: false });

  constructor({ isRead }) {
    this.#isRead = isRead;
  }

  record(failed) {
    this.#attempts += 1;
    this.#maybeApplied ||= failed.maybeApplied && !this.#isRead;
    // What a server said tells more than that a connection broke or the time was over.
    const saysMore = !["", "DEADLINE"].includes(failed.code) || failed.next === Next.END;
    if (this.#attempts === 1 || saysMore) this.#last = failed;
    // In a new session it would be a second write.
    return failed.next === Next.NEW_SESSION && this.#maybeApplied ? Next.END : failed.next;
  }

  /**
   * Milliseconds before the next attempt: the first one fails over at once, later ones wait longer and longer, by chance, so
   * that those who failed together do not come back together.
   */
  pause(failed) {
    if (this.#attempts === 1 && failed.next !== Next.AGAIN) return failed.retryAfterMs;
    const bound = Math.min(PAUSE_FIRST * 2 ** (this.#attempts - 1), PAUSE_MAX);
    return failed.retryAfterMs + Math.random() * bound;
  }

  /** The error of a call that ends here. */
  error() {
    return new (this.#maybeApplied ? OutcomeUnknown : NotApplied)(this.#last, this.#attempts);
  }
}

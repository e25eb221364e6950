// Why a call failed, and whether it may have been applied: `Failure` of map.proto, out of an error of Connect.

import { fromBase64 } from './bytes.js';

const DETAIL = 'raftmap.v1.Failure';

/** By their numbers in map.proto. */
const CODES = [
  'CODE_UNSPECIFIED', 'INVALID', 'TOO_LARGE', 'OVERLOADED', 'NO_LEADER', 'NO_QUORUM', 'DEADLINE', 'LEADERSHIP_LOST',
  'DISK_FULL', 'NODE_UNFIT', 'SHUTTING_DOWN', 'UNAUTHENTICATED', 'DENIED', 'SESSION_UNKNOWN', 'SEQUENCE_FORGOTTEN',
  'SEQUENCE_REUSED', 'BEHIND', 'SCAN_LOST', 'UNSUPPORTED',
];

/** What an error of Connect means that has no detail: it was refused before anything was done. */
const REFUSALS = {
  unauthenticated: 'UNAUTHENTICATED',
  permission_denied: 'DENIED',
  invalid_argument: 'INVALID',
  out_of_range: 'TOO_LARGE',
  unimplemented: 'UNSUPPORTED',
};

/** A call that brought no answer. Its code is one of map.proto, or one of this page: `LOST`, `STOPPED`. */
export class Failure extends Error {
  constructor({ code, maybeApplied, reason, field = '', limit = 0, retryAfterMs = 0 }) {
    super(reason);
    Object.assign(this, { code, maybeApplied, reason, field, limit, retryAfterMs });
  }

  /** There was a connection, or none: nobody knows how far the call came. */
  static lost(reason) {
    return new Failure({ code: 'LOST', maybeApplied: true, reason });
  }

  /** Whoever waited for it does not wait any more. */
  static stopped() {
    return new Failure({ code: 'STOPPED', maybeApplied: true, reason: 'you stopped waiting for the answer' });
  }

  /** What a server answered with a status of HTTP that is none of success. */
  static answered(status, text) {
    let error = {};
    try {
      error = JSON.parse(text) ?? {};
    } catch {
      // Something between this page and the server answered.
    }
    const detail = Array.isArray(error.details) ? error.details.find((detail) => detail.type === DETAIL) : undefined;
    const bytes = detail && fromBase64(String(detail.value));
    if (bytes) return new Failure(read(bytes));
    const refusal = REFUSALS[error.code];
    const reason = error.message || `the answer has status ${status}`;
    return new Failure({ code: refusal ?? 'CODE_UNSPECIFIED', maybeApplied: !refusal, reason });
  }
}

/** The fields of the message, by their numbers. Fields that are new since this page was made are passed over. */
function read(bytes) {
  const found = {};
  let at = 0;
  const varint = () => {
    let [value, factor] = [0, 1];
    for (; at < bytes.length; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < bytes.length) {
    const tag = varint();
    const wire = tag & 7;
    if (wire === 0) {
      found[tag >>> 3] = varint();
    } else if (wire === 2) {
      const length = varint();
      found[tag >>> 3] = new TextDecoder().decode(bytes.subarray(at, at + length));
      at += length;
    } else {
      at += wire === 1 ? 8 : 4;
    }
  }
  return {
    reason: found[1] ?? '',
    maybeApplied: found[2] !== 1,
    code: CODES[found[4] ?? 0] ?? CODES[0],
    field: found[5] ?? '',
    limit: found[6] ?? 0,
    retryAfterMs: found[7] ?? 0,
  };
}

// Reads of the map.

import { call } from './call.js';
import { endOfPrefix, fromBase64, next, toBase64 } from './bytes.js';

/** Keys of one page. */
const PAGE = 100;

/**
 * The keys that begin with `prefix`, a page of them, from the one behind `after` on: `{ entries, more }`.
 * `isStale`: as the server that answers has them, perhaps behind.
 */
export async function keys({ prefix, after = null, isStale, signal }) {
  const end = endOfPrefix(prefix);
  const request = {
    start: toBase64(after ? next(after) : prefix),
    end: toBase64(end),
    limit: PAGE,
    keysOnly: true,
    ...consistency(isStale),
  };
  const { entries = [], more = false } = await call('Map/ScanPage', request, { signal });
  return { entries: entries.map(entryOf), more };
}

/** One entry, or `null` if the key is not there. */
export async function get(key, { isStale, signal }) {
  const { results = [] } = await call('Map/Get', { keys: [toBase64(key)], ...consistency(isStale) }, { signal });
  return results[0]?.entry ? entryOf(results[0].entry) : null;
}

/** An entry of map.proto; its revision stays a text, with all its digits. */
export function entryOf({ key = '', value = '', revision = '0', expiresAtMs = '0' }) {
  return { key: fromBase64(key), value: fromBase64(value), revision, expiresAtMs: Number(expiresAtMs) };
}

const consistency = (isStale) => (isStale ? { consistency: 'STALE' } : {});

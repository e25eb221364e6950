// One call to the server that serves this page: the Connect protocol with JSON.

import { Failure } from './failure.js';

const TOKEN = 'raftmap-token';

/** The server ends a call at its deadline and says so; only one that does not even do that is given up here. */
const GRACE_MS = 500;

let token = sessionStorage.getItem(TOKEN) ?? '';
let refused = () => {};

/** Whether calls carry a token. */
export const hasToken = () => token !== '';

/** The token that all further calls carry; empty: none. It stays in this tab, and goes with it. */
export function setToken(text) {
  token = text;
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

/** What is to be done when a server wants to know who asks. */
export function onUnauthenticated(listener) {
  refused = listener;
}

/**
 * The answer to a call such as `Map/Get`. Throws a `Failure`.
 * `timeoutMs`: how long the server may take. `signal` ends the wait earlier.
 */
export async function call(name, request, { timeoutMs = 5000, signal } = {}) {
  const shown = token;
  const headers = {
    'content-type': 'application/json',
    'connect-protocol-version': '1',
    'connect-timeout-ms': String(Math.ceil(timeoutMs)),
  };
  if (token) headers.authorization = `Bearer ${token}`;
  const patience = AbortSignal.timeout(timeoutMs + GRACE_MS);
  const options = {
    method: 'POST',
    headers,
    body: JSON.stringify(request),
    cache: 'no-store',
    signal: signal ? AbortSignal.any([signal, patience]) : patience,
  };
  const { ok, status, text } = await exchange(`/raftmap.v1.${name}`, options, { signal, patience, timeoutMs });
  if (!ok) {
    const failure = Failure.answered(status, text);
    if (failure.code === 'UNAUTHENTICATED') {
      // Somebody signed in while it was under way.
      if (shown !== token) return call(name, request, { timeoutMs, signal });
      refused(failure);
    }
    throw failure;
  }
  try {
    return JSON.parse(text);
  } catch {
    throw Failure.lost('the answer is not of a raftmap server');
  }
}

async function exchange(path, options, { signal, patience, timeoutMs }) {
  try {
    const response = await fetch(path, options);
    return { ok: response.ok, status: response.status, text: await response.text() };
  } catch {
    if (signal?.aborted) throw Failure.stopped();
    throw Failure.lost(patience.aborted ? `no answer within ${timeoutMs} ms` : 'the server cannot be reached');
  }
}

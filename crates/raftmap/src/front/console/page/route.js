// Which view is shown: what stands behind the # of the address, so that it can be kept and sent, and Back works.

import { fromBase64, toBase64Url } from './bytes.js';

const listeners = [];

/** `{ view, prefix, encoding, key }` of the address. */
export function current() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const asked = new URLSearchParams(query);
  const key = asked.get('key');
  return {
    view: ['keys', 'events'].includes(path) ? path : 'cluster',
    prefix: asked.get('prefix') ?? '',
    encoding: asked.get('in') === 'hex' ? 'hex' : 'text',
    key: key ? fromBase64(key) : null,
  };
}

/** The address of the keys that begin with `prefix`, with the value of one of them. */
export function toKeys({ prefix = '', encoding = 'text', key = null }) {
  const query = new URLSearchParams();
  if (prefix) query.set('prefix', prefix);
  if (prefix && encoding === 'hex') query.set('in', 'hex');
  if (key) query.set('key', toBase64Url(key));
  return query.size > 0 ? `#/keys?${query}` : '#/keys';
}

/** Goes to an address; without `isStep`, Back does not lead to where one was. */
export function go(hash, isStep = true) {
  if (hash === location.hash) return;
  if (isStep) history.pushState(null, '', hash);
  else history.replaceState(null, '', hash);
  tell();
}

/** `listener(route)` hears of each change. */
export const onRoute = (listener) => listeners.push(listener);

export function tell() {
  const route = current();
  listeners.forEach((listener) => listener(route));
}

addEventListener('popstate', tell);

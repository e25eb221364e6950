// Who asks: a token, if the server wants one. Without it a client certificate may do, or nothing at all.

import { hasToken, onUnauthenticated, setToken } from './call.js';
import { byId, setText } from './dom.js';
import { lookNow, onStatus, state } from './watch.js';

/** Whether the form is shown because somebody asked for it. */
let isAskedFor = false;
let isTried = false;
let listener = () => {};

/** `shown(isShown)` hears when the form comes and goes. */
export function start(shown) {
  listener = shown;
  byId('sign-in').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = byId('token').value.trim();
    // Anything else would not go into a header.
    if (!/^[\x21-\x7e]+$/.test(token)) {
      setText(byId('sign-in-error'), 'This is no token: it has spaces, or letters that no token has.');
      return;
    }
    setToken(token);
    byId('token').value = '';
    isTried = true;
    isAskedFor = false;
    setText(byId('sign-in-error'), '');
    lookNow();
  });
  byId('sign-in-open').addEventListener('click', () => {
    isAskedFor = true;
    draw();
  });
  byId('sign-in-cancel').addEventListener('click', () => {
    isAskedFor = false;
    draw();
  });
  byId('sign-out').addEventListener('click', () => {
    setToken('');
    // What was shown is not for whoever comes next.
    location.reload();
  });
  onUnauthenticated(lookNow);
  onStatus(draw);
  draw();
}

function draw() {
  const isRefused = state.phase === 'unauthenticated';
  const isShown = isRefused || isAskedFor;
  // A token that is nobody's is not shown again: servers count that.
  if (isRefused && hasToken()) {
    setToken('');
    setText(byId('sign-in-error'), isTried
      ? 'The server does not know this token. Look whether all of it is there.'
      : 'Your token is not good any more.');
  }
  if (!isRefused) isTried = false;
  byId('sign-out').hidden = !hasToken();
  byId('sign-in-open').hidden = hasToken() || isShown;
  byId('sign-in-cancel').hidden = isRefused;
  setText(byId('sign-in-why'), isRefused
    ? 'This server wants to know who asks.'
    : 'With a token you may do what it allows, whatever you may do without.');
  const wasShown = !byId('view-sign-in').hidden;
  if (isShown !== wasShown) {
    listener(isShown);
    if (isShown) byId('token').focus();
  }
}

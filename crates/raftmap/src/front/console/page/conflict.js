// Two values of one key, side by side: what somebody else has written meanwhile, and what was to be written here.

import { hexDump, textOf } from './bytes.js';
import { button, el } from './dom.js';
import { grouped } from './format.js';

/** So much of each value is shown. */
const LINES_MAX = 400;
const BYTES_MAX = 4096;

/** Somebody changed, made or deleted the key before this page could write it. `current`: what stands there; `null`: nothing. */
export function onPut({ seen, current, mine, isNew, keep, editFurther, overwrite }) {
  const happened = !current
    ? 'Somebody has deleted the key meanwhile.'
    : isNew ? 'There is such a key already.' : 'Somebody has changed the key meanwhile.';
  const [theirLines, myLines] = compared(current?.value ?? null, mine);
  const mineSays = isNew ? 'Yours' : `Yours, made of revision ${grouped(seen.revision)}`;
  const theirs = current ? `Theirs, revision ${grouped(current.revision)}` : 'Theirs';
  return el('div', { class: 'conflict' },
    el('h2', { id: 'editor-title' }, happened),
    el('p', { class: 'panel-applied' }, 'Your value was not written.'),
    el('div', { class: 'sides' }, side(theirs, theirLines), side(mineSays, myLines)),
    el('div', { class: 'buttons end' },
      button(current ? 'Keep theirs' : 'Leave it deleted', keep),
      button('Edit mine further', editFurther),
      button(current ? 'Replace theirs by mine' : 'Create it with mine', overwrite, 'primary')));
}

/** Somebody changed the key before this page could delete it. */
export function onRemoval({ seen, current, cancel, again }) {
  const [theirLines, seenLines] = compared(current.value, seen.value);
  return el('div', { class: 'conflict' },
    el('h2', { id: 'editor-title' }, 'Somebody has changed the key meanwhile.'),
    el('p', { class: 'panel-applied' }, 'It was not deleted.'),
    el('div', { class: 'sides' },
      side(`Now, revision ${grouped(current.revision)}`, theirLines),
      side(`As you saw it, revision ${grouped(seen.revision)}`, seenLines)),
    el('div', { class: 'buttons end' },
      button('Leave it', cancel),
      button('Delete it all the same …', again, 'danger')));
}

function side(title, content) {
  return el('section', { class: 'side' },
    el('h3', {}, title),
    el('pre', { class: 'value', tabindex: 0, role: 'region', 'aria-label': title }, content));
}

/** Both as lines, in which what is between a common beginning and a common end stands out. `null`: there is none. */
function compared(theirs, mine) {
  const [a, b] = [theirs, mine].map((bytes) => bytes && linesOf(bytes));
  if (!a || !b) return [a ? marked(a, 0, 0) : gone(), b ? marked(b, 0, 0) : gone()];
  const shorter = Math.min(a.length, b.length);
  let first = 0;
  while (first < shorter && a[first] === b[first]) first += 1;
  let last = 0;
  while (last < shorter - first && a.at(-1 - last) === b.at(-1 - last)) last += 1;
  return [marked(a, first, last), marked(b, first, last)];
}

function linesOf(bytes) {
  const text = textOf(bytes);
  return (text ?? hexDump(bytes, BYTES_MAX)).split('\n');
}

function marked(lines, first, last) {
  const shown = lines.slice(0, LINES_MAX).map((line, at) => {
    const isCommon = at < first || at >= lines.length - last;
    return el('span', { class: isCommon ? 'common' : 'differs' }, `${line}\n`);
  });
  if (lines.length > LINES_MAX) shown.push(el('span', { class: 'faint' }, `… ${grouped(lines.length - LINES_MAX)} more lines`));
  return shown;
}

function gone() {
  return [el('span', { class: 'faint' }, 'no value')];
}

// The dialog in which a key is made, changed or deleted: only if it still is as it was seen. If it is not, both values are
// shown, and somebody chooses.

import { isEqual, keyLabel } from './bytes.js';
import * as conflict from './conflict.js';
import { announce, button, byId, el, setText, toast } from './dom.js';
import { explain, failurePanel } from './explain.js';
import { Failure } from './failure.js';
import { BytesField, ExpiryField } from './fields.js';
import { grouped, size } from './format.js';
import { indentedText, isJson } from './json.js';
import * as map from './map.js';
import * as write from './write.js';

const dialog = byId('editor');
/** What is being written: ended by Cancel and Escape. */
let work = null;

dialog.addEventListener('cancel', (event) => {
  event.preventDefault();
  cancel();
});
// Browsers close a dialog at a second Escape, whatever it says.
dialog.addEventListener('close', () => work?.abort());

/** Makes a new key, which may begin as `prefix`. `done({ key, isRemoved })` hears of it once it is written. */
export function create(prefix, done) {
  openForm({ key: null, prefix, value: new Uint8Array(), revision: '0', expiresAtMs: 0 }, done);
}

/** Changes an entry, if it still is of this revision. */
export function edit(entry, done) {
  openForm(entry, done);
}

/** Deletes an entry, if it still is of this revision and somebody confirms. */
export function remove(entry, done) {
  const { label } = keyLabel(entry.key);
  const place = el('div', { class: 'sheet-state' });
  const submitter = el('button', { type: 'submit', class: 'danger filled' }, 'Delete');
  const task = {
    place, submitter, done, key: entry.key, isRemoval: true,
    fields: [], verb: 'Delete',
    write: () => write.remove(entry.key, entry.revision),
    onConflict: (current) => {
      if (!current) finish(task, 'The key was deleted already, by somebody else.');
      else show(conflict.onRemoval({ seen: entry, current, cancel: close, again: () => remove(current, done) }));
    },
  };
  show(el('form', { submit: (event) => submit(event, task) },
    el('h2', { id: 'editor-title' }, 'Delete this key?'),
    el('p', { class: 'sheet-key' }, label),
    el('p', { class: 'note' },
      `Revision ${grouped(entry.revision)}, ${size(entry.value.length)}. It is deleted only if nobody has changed it meanwhile.`),
    place, footer(submitter)));
  // Whoever hits Enter once too often is to delete nothing.
  dialog.querySelector('.cancel').focus();
}

/** `base`: what is changed, as it was seen; `draft`: what somebody has written already. */
function openForm(base, done, draft = null) {
  const isNew = base.key === null;
  const key = isNew && new BytesField({ id: 'editor-key', label: 'Key', bytes: draft?.key ?? base.prefix });
  const value = new BytesField({ id: 'editor-value', label: 'Value', bytes: draft?.value ?? base.value, lines: 12 });
  const expiry = new ExpiryField(base.expiresAtMs, draft?.expiry);
  value.extras.prepend(button('Indent JSON', () => indent(value), 'quiet small'));
  const place = el('div', { class: 'sheet-state' });
  const submitter = el('button', { type: 'submit', class: 'primary' }, isNew ? 'Create' : 'Save');
  const read = () => ({ key: isNew ? key.read() : base.key, value: value.read(), ttlMs: expiry.read() });
  const task = {
    place, submitter, done, expiry, isRemoval: false, verb: isNew ? 'Create' : 'Save',
    fields: [key && key.input, value.input, expiry.choice, expiry.count, expiry.unit].filter(Boolean),
    write: () => {
      const draft = read();
      if (!draft.key || !draft.value || draft.ttlMs === null) return null;
      if (draft.key.length === 0) {
        key.complain('A key has one byte at least.');
        return null;
      }
      Object.assign(task, draft);
      return write.put(draft.key, draft.value, base.revision, draft.ttlMs);
    },
    onConflict: (current) => meet(task, base, current),
  };
  const stands = base.revision === '0' ? 'not there' : `at revision ${grouped(base.revision)}`;
  const hint = el('span', { class: 'hint' }, el('kbd', {}, 'Ctrl'), ' ', el('kbd', {}, 'Enter'), isNew ? ' creates it' : ' saves it');
  show(el('form', { submit: (event) => submit(event, task), keydown: submitByKeys },
    el('h2', { id: 'editor-title' }, isNew ? 'New key' : 'Edit'),
    isNew ? key.element : el('p', { class: 'sheet-key' }, keyLabel(base.key).label),
    value.element, expiry.element,
    !isNew && el('p', { class: 'note' }, `It is saved only if the key still is ${stands}.`),
    place, footer(submitter, hint)));
  (key ? key.input : value.input).focus();
}

/** Somebody else was faster. `current`: what stands there now; `null`: nothing. */
function meet(task, base, current) {
  const entry = current ?? { key: task.key, value: new Uint8Array(), revision: '0', expiresAtMs: 0 };
  if (current && isEqual(current.value, task.value)) {
    finish(task, `The key holds this value already, since revision ${grouped(current.revision)}.`);
    return;
  }
  show(conflict.onPut({
    seen: base, current, mine: task.value, isNew: base.key === null,
    keep: () => finish(task, current ? 'Your value was not written.' : 'The key stays deleted.'),
    editFurther: () => openForm(entry, task.done, task),
    overwrite: () => {
      openForm(entry, task.done, task);
      dialog.querySelector('form').requestSubmit();
    },
  }));
}

async function submit(event, task) {
  event.preventDefault();
  if (work) return;
  // Asked for again unchanged, it is the same write: applied once, if an attempt before was.
  const asked = task.failed ?? task.write();
  if (!asked) return;
  work = new AbortController();
  begin(task);
  try {
    const answer = await asked.run({ signal: work.signal, waiting: (failure) => wait(task, failure) });
    work = null;
    end(task);
    if (!answer.succeeded) task.onConflict(answer.current && map.entryOf(answer.current));
    else if (task.isRemoval) finish(task, 'The key is deleted.');
    else finish(task, `Saved, at revision ${grouped(answer.revision)}.`);
  } catch (failure) {
    work = null;
    end(task);
    if (!(failure instanceof Failure)) throw failure;
    if (dialog.open) refuse(task, asked, failure);
    else toast(`You stopped waiting. ${explain(failure, true).applied}`);
  }
}

function begin(task) {
  task.place.replaceChildren();
  task.submitter.disabled = true;
  task.fields.forEach((field) => setFixed(field, true));
  setText(dialog.querySelector('.cancel'), 'Stop waiting');
}

function end(task) {
  task.submitter.disabled = false;
  task.fields.forEach((field) => setFixed(field, false));
  if (dialog.open) setText(dialog.querySelector('.cancel'), 'Cancel');
}

/** Whether a field may be changed. Choices know nothing of being read only. */
function setFixed(field, isFixed) {
  if (field.localName === 'select') field.disabled = isFixed;
  else field.readOnly = isFixed;
}

function wait(task, failure) {
  const { happened } = explain(failure);
  let shown = task.place.querySelector('.waiting');
  if (!shown) {
    shown = el('p', { class: 'waiting', role: 'status' });
    task.place.replaceChildren(shown);
  }
  const uncertain = failure.maybeApplied ? ' Whether it was applied is uncertain; asking again applies it once.' : '';
  setText(shown, `${happened} It is asked for again.${uncertain}`);
}

/** Says what happened. An uncertain write stays the same write, as long as nothing of it is changed. */
function refuse(task, asked, failure) {
  const again = `“${task.verb}” asks for the same once more, which is safe: it is applied once. Or close this and read the key.`;
  task.place.replaceChildren(failurePanel(failure, { isWrite: true, note: failure.maybeApplied ? again : '' }));
  task.failed = failure.maybeApplied ? asked : null;
  task.fields.forEach((field) => field.addEventListener('input', () => {
    task.failed = null;
  }, { once: true }));
  task.submitter.focus();
}

function finish(task, text) {
  close();
  toast(text);
  announce(text);
  task.done({ key: task.key, isRemoved: task.isRemoval });
}

function cancel() {
  if (work) work.abort();
  else close();
}

function close() {
  dialog.close();
  dialog.replaceChildren();
}

function show(content) {
  dialog.replaceChildren(content);
  dialog.setAttribute('aria-labelledby', 'editor-title');
  if (!dialog.open) dialog.showModal();
}

function footer(submitter, hint = null) {
  return el('div', { class: 'buttons end' }, hint, button('Cancel', cancel, 'cancel'), submitter);
}

function submitByKeys(event) {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  event.currentTarget.requestSubmit();
}

function indent(field) {
  if (field.spelling !== 'text' || !isJson(field.input.value)) field.complain('This is no JSON.');
  else field.input.value = indentedText(field.input.value);
}

// One key: its value as text, JSON, hex or base64, its revision, when it expires, and what can be done with it.

import { encode, hexDump, isEqual, keyLabel, textOf, toBase64 } from './bytes.js';
import { button, byId, el, setText, toast } from './dom.js';
import * as editor from './editor.js';
import { failurePanel } from './explain.js';
import { Failure } from './failure.js';
import { dayAndClock, grouped, size, span } from './format.js';
import { indented, indentedText, isJson } from './json.js';
import * as map from './map.js';

const FORMS = { text: 'Text', json: 'JSON', hex: 'Hex', base64: 'Base64' };
/** So much of a value is shown before somebody asks for all of it. */
const SHOWN_BYTES = 64 << 10;
/** JSON that is longer has no colours: each coloured part is an element. */
const COLOURED_BYTES = 128 << 10;

let { isStale, changed, leave } = {};
let shown = null;
let loading = null;
/** How values were looked at last, if this value can be shown so. */
let formChosen = null;

/** `isStale()`: how to read; `changed({ key, isRemoved })` and `leave()` are called. */
export function start(options) {
  ({ isStale, changed, leave } = options);
  setInterval(drawExpiry, 1000);
}

/** Shows a key, or none. */
export async function show(key) {
  loading?.abort();
  if (!key) {
    shown = null;
    byId('entry').replaceChildren(el('p', { class: 'empty' }, 'Choose a key to see its value.'));
    return;
  }
  loading = new AbortController();
  const { signal } = loading;
  if (!shown || !isEqual(shown.key, key)) {
    shown = null;
    byId('entry').replaceChildren(back(), title(key), el('p', { class: 'note' }, 'Reading'));
  }
  try {
    const entry = await map.get(key, { isStale: isStale(), signal });
    if (signal.aborted) return;
    shown = entry;
    if (entry) draw(entry);
    else drawAbsent(key);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (signal.aborted) return;
    const again = button('Try again', () => show(key));
    byId('entry').replaceChildren(back(), title(key), failurePanel(failure, { actions: [again] }));
  }
}

/** Opens the editor of what is shown. */
export function edit() {
  if (shown) editor.edit(shown, changed);
}

/** Asks whether what is shown is to be deleted. */
export function remove() {
  if (shown) editor.remove(shown, changed);
}

function back() {
  return button('← All keys', () => leave(), 'quiet back');
}

function title(key) {
  const { label, isText } = keyLabel(key);
  return el('h2', { class: 'entry-key' }, label, !isText && el('span', { class: 'tag' }, 'hex'));
}

function drawAbsent(key) {
  byId('entry').replaceChildren(back(), title(key),
    el('p', { class: 'note' }, isStale() ? 'This server has no such key.' : 'There is no such key.'),
    el('div', { class: 'buttons' }, button('Create it', () => editor.create(key, changed))));
}

function draw(entry) {
  const text = textOf(entry.value);
  const forms = ['hex', 'base64'];
  if (text !== null) forms.unshift('text');
  if (text !== null && isJson(text)) forms.unshift('json');
  const form = forms.includes(formChosen) ? formChosen : forms[0];
  const facts = el('dl', { class: 'entry-facts' },
    fact('Revision', grouped(entry.revision)),
    fact('Size', size(entry.value.length)),
    fact('Content', text === null ? 'binary' : forms[0] === 'json' ? 'JSON' : 'text'),
    fact('Expires', '', 'entry-expiry'));
  const actions = el('div', { class: 'buttons' },
    button('Edit', edit, 'primary'),
    button('Copy', () => copy(entry)),
    button('Reload', () => show(entry.key)),
    button('Delete', remove, 'danger'));
  const place = byId('entry');
  const focused = place.contains(document.activeElement) ? document.activeElement.textContent : null;
  place.replaceChildren(back(), title(entry.key), facts, actions, chooser(forms, form), el('div', { id: 'value' }));
  // Who was on a button still is.
  if (focused) [...place.querySelectorAll('button')].find((one) => one.textContent === focused)?.focus();
  drawValue(entry, form);
  drawExpiry();
}

function fact(name, value, id = null) {
  return el('div', {}, el('dt', {}, name), el('dd', { id }, value));
}

function chooser(forms, form) {
  return el('fieldset', { class: 'segments' }, el('legend', { class: 'unseen' }, 'Show the value as'),
    forms.map((name) => el('label', {},
      el('input', { type: 'radio', name: 'form', value: name, checked: name === form, change: () => choose(name) }),
      el('span', {}, FORMS[name]))));
}

function choose(form) {
  formChosen = form;
  drawValue(shown, form);
}

function drawValue({ value }, form, count = SHOWN_BYTES) {
  const isCut = value.length > count;
  const kind = form === 'hex' ? 'value rows' : 'value';
  const pre = el('pre', { class: kind, tabindex: 0, role: 'region', 'aria-label': `Value as ${FORMS[form]}` });
  const bytes = isCut ? value.subarray(0, count) : value;
  if (value.length === 0) pre.append(el('span', { class: 'faint' }, 'empty'));
  else if (form === 'hex') pre.append(hexDump(bytes, count));
  else if (form === 'base64') pre.append(toBase64(bytes));
  else if (form === 'json' && !isCut && value.length > COLOURED_BYTES) pre.append(indentedText(textOf(value)));
  else if (form === 'json' && !isCut) pre.append(...indented(textOf(value)).map(part));
  else pre.append(new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes, { stream: isCut }));
  const more = isCut && el('p', { class: 'note' }, `The first ${size(count)} of ${size(value.length)}. `,
    button('Show all', () => drawValue({ value }, form, Infinity)));
  byId('value').replaceChildren(pre, ...(more ? [more] : []));
}

function part({ kind, text }) {
  return kind === 'mark' ? text : el('span', { class: `json-${kind}` }, text);
}

/** The time goes by: log time, by which keys expire, is close to that of clocks. */
function drawExpiry() {
  const place = byId('entry-expiry');
  if (!place || !shown) return;
  if (shown.expiresAtMs === 0) {
    setText(place, 'never');
    return;
  }
  const left = shown.expiresAtMs - Date.now();
  setText(place, left > 0 ? `in about ${span(left)}` : 'about now');
  place.title = dayAndClock(shown.expiresAtMs);
}

async function copy({ value }) {
  const form = byId('entry').querySelector('input[name=form]:checked').value;
  const written = form === 'json' ? indentedText(textOf(value)) : encode(value, form);
  try {
    await navigator.clipboard.writeText(written);
    toast(`The value is copied as ${FORMS[form]}.`);
  } catch {
    toast('The browser does not let this page copy.');
  }
}

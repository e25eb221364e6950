// The fields of a key that is written: bytes in one of three spellings, and a time after which the key expires.

import { decode, encode, textOf } from './bytes.js';
import { el, setText } from './dom.js';
import { span } from './format.js';

const SPELLINGS = { text: 'text', hex: 'hex', base64: 'base64' };
const MALFORMED = {
  hex: 'Hex is written as pairs of the digits 0 to 9 and a to f.',
  base64: 'This is no base64.',
};
const UNITS = { seconds: 1000, minutes: 60_000, hours: 3_600_000, days: 86_400_000 };

/** A field of browsers makes one end of line of the other: such a text would not come back unchanged. */
const isSafeText = (bytes) => textOf(bytes) !== null && !textOf(bytes).includes('\r');

/** A field for bytes. With `lines` it has room for as many. */
export class BytesField {
  constructor({ id, label, bytes, lines = 0 }) {
    this.spelling = isSafeText(bytes) ? 'text' : 'hex';
    const options = { id, autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', 'aria-describedby': `${id}-error` };
    this.input = lines > 0 ? el('textarea', { ...options, rows: lines }) : el('input', { ...options, type: 'text' });
    this.input.value = encode(bytes, this.spelling);
    this.error = el('p', { class: 'field-error', id: `${id}-error`, role: 'alert' });
    this.chooser = el('select', { 'aria-label': `How the ${label.toLowerCase()} is written`, change: () => this.respell() },
      Object.entries(SPELLINGS).map(([value, name]) => el('option', { value, selected: value === this.spelling }, name)));
    this.extras = el('span', { class: 'field-extras' }, this.chooser);
    this.element = el('div', { class: 'field' },
      el('div', { class: 'field-head' }, el('label', { for: id }, label), this.extras), this.input, this.error);
    this.input.addEventListener('input', () => this.complain(''));
  }

  /** The bytes, or `null` after it has said what is wrong with them. */
  read() {
    const bytes = decode(this.input.value, this.spelling);
    this.complain(bytes ? '' : MALFORMED[this.spelling]);
    return bytes;
  }

  write(bytes) {
    if (this.spelling === 'text' && !isSafeText(bytes)) this.spelling = 'hex';
    this.chooser.value = this.spelling;
    this.input.value = encode(bytes, this.spelling);
  }

  complain(text) {
    setText(this.error, text);
    if (text) this.input.setAttribute('aria-invalid', 'true');
    else this.input.removeAttribute('aria-invalid');
  }

  /** The same bytes in the other spelling, if they can be written so. */
  respell() {
    const wanted = this.chooser.value;
    const bytes = this.read();
    this.chooser.value = this.spelling;
    if (!bytes) return;
    if (wanted === 'text' && !isSafeText(bytes)) {
      this.complain('These bytes cannot be changed as text without harm.');
      return;
    }
    this.spelling = wanted;
    this.write(bytes);
  }
}

/** A field for when the key expires. `expiresAtMs`: when it does now; 0: never. `draft`: a field that was filled in before. */
export class ExpiryField {
  constructor(expiresAtMs, draft = null) {
    this.expiresAtMs = expiresAtMs;
    const left = Math.max(0, expiresAtMs - Date.now());
    this.choice = el('select', { id: 'expiry', change: () => this.follow() },
      expiresAtMs > 0 && el('option', { value: 'keep' }, `as before, in about ${span(left)}`),
      el('option', { value: 'never' }, 'never'),
      el('option', { value: 'after' }, 'after …'));
    this.count = el('input', { type: 'number', min: 1, max: 999_999, value: 60, 'aria-label': 'How many' });
    this.unit = el('select', { 'aria-label': 'Of what' },
      Object.keys(UNITS).map((unit) => el('option', { value: unit }, unit)));
    this.error = el('p', { class: 'field-error', role: 'alert' });
    this.element = el('div', { class: 'field' },
      el('div', { class: 'expiry' }, el('label', { for: 'expiry' }, 'Expires'), this.choice, this.count, this.unit), this.error);
    if (draft?.choice.value === 'after') {
      [this.choice.value, this.count.value, this.unit.value] = ['after', draft.count.value, draft.unit.value];
    } else if (draft?.choice.value === 'never') {
      this.choice.value = 'never';
    }
    this.follow();
  }

  follow() {
    const isCounted = this.choice.value === 'after';
    this.count.hidden = !isCounted;
    this.unit.hidden = !isCounted;
    setText(this.error, '');
  }

  /** For how long the key is to be there, in milliseconds; 0: for ever; `null`: it has said what is wrong. */
  read() {
    if (this.choice.value === 'never') return 0;
    if (this.choice.value === 'keep') return Math.max(1, this.expiresAtMs - Date.now());
    const count = Number(this.count.value);
    const isSound = Number.isInteger(count) && count > 0;
    setText(this.error, isSound ? '' : 'Write a whole number from 1.');
    return isSound ? count * UNITS[this.unit.value] : null;
  }
}

// Keys and values are bytes. Here they become what people read and write, and come back unchanged.

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const ENCODER = new TextEncoder();

/** Control characters that no text has which people write; tabs and ends of lines are none of them. */
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/;

const utf8 = (text) => ENCODER.encode(text);

/** The text that the bytes are, or `null` if they are none. */
export function textOf(bytes) {
  try {
    const text = UTF8.decode(bytes);
    return CONTROL.test(text) ? null : text;
  } catch {
    return null;
  }
}

export function toBase64(bytes) {
  let binary = '';
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

/** Takes both alphabets, with padding or without; `null` if it is malformed. */
export function fromBase64(text) {
  const standard = text.replace(/\s/g, '').replaceAll('-', '+').replaceAll('_', '/');
  try {
    return Uint8Array.from(atob(standard), (letter) => letter.charCodeAt(0));
  } catch {
    return null;
  }
}

/** For addresses: without the letters that mean something there. */
export const toBase64Url = (bytes) => toBase64(bytes).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

export function toHex(bytes) {
  let hex = '';
  for (const byte of bytes) hex += byte.toString(16).padStart(2, '0');
  return hex;
}

/** Spaces between the digits are taken; `null` if it is malformed. */
function fromHex(text) {
  const digits = text.replace(/\s/g, '');
  if (digits.length % 2 !== 0 || /[^0-9a-f]/i.test(digits)) return null;
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

/** The bytes that a text stands for in an encoding: `text`, `hex` or `base64`; `null` if it is malformed. */
export function decode(text, encoding) {
  if (encoding === 'hex') return fromHex(text);
  return encoding === 'base64' ? fromBase64(text) : utf8(text);
}

export function encode(bytes, encoding) {
  if (encoding === 'hex') return toHex(bytes);
  return encoding === 'base64' ? toBase64(bytes) : textOf(bytes);
}

export function isEqual(a, b) {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

/** The first key behind all that begin with `prefix`; empty: there is none, the range has no end. */
export function endOfPrefix(prefix) {
  const end = Uint8Array.from(prefix);
  for (let length = end.length; length > 0; length -= 1) {
    if (end[length - 1] < 255) {
      end[length - 1] += 1;
      return end.subarray(0, length);
    }
  }
  return new Uint8Array();
}

/** The key that comes directly behind `key`. */
export function next(key) {
  const behind = new Uint8Array(key.length + 1);
  behind.set(key);
  return behind;
}

/** A key in a line: as text in which ends of lines are seen, or else its digits. */
export function keyLabel(key) {
  const text = textOf(key);
  if (text === null) return { label: toHex(key), isText: false };
  return { label: text.replaceAll('\n', '⏎').replaceAll('\r', '␍').replaceAll('\t', '⇥'), isText: true };
}

/** Offset, digits and letters, sixteen bytes a line. */
export function hexDump(bytes, count) {
  const lines = [];
  for (let at = 0; at < Math.min(bytes.length, count); at += 16) {
    const row = bytes.subarray(at, Math.min(at + 16, count));
    const digits = Array.from(row, (byte) => byte.toString(16).padStart(2, '0'));
    const halves = [digits.slice(0, 8).join(' '), digits.slice(8).join(' ')].join('  ');
    const letters = Array.from(row, (byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '·')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${halves.padEnd(49)} ${letters}`);
  }
  return lines.join('\n');
}

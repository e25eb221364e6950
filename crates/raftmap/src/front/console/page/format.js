// Numbers and times as people write them.

const GROUPED = new Intl.NumberFormat('en');
const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const DAY_AND_CLOCK = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

/** `1,234,567`, also of what is too long for a number. */
export const grouped = (number) => GROUPED.format(typeof number === 'string' ? BigInt(number) : number);

/** What happens in a second. */
export const rate = (number) => (number < 10 && !Number.isInteger(number) ? number.toFixed(1) : grouped(Math.round(number)));

/** A time in the unit that people would choose. */
export function micros(us) {
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 10_000) return `${(us / 1000).toFixed(1)} ms`;
  if (us < 1_000_000) return `${Math.round(us / 1000)} ms`;
  return us < 10_000_000 ? `${(us / 1_000_000).toFixed(1)} s` : `${Math.round(us / 1_000_000)} s`;
}

/** How long something took or takes: `0.8 s`, `12 s`, `3m05s`. */
export function span(ms) {
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : long(ms, ' s');
}

/** How long a server runs: `12s`, `3m05s`, `2h07m`, `9d03h`. */
export const uptime = (ms) => long(ms, 's');

function long(ms, unit) {
  const seconds = Math.floor(ms / 1000);
  const two = (number) => String(number).padStart(2, '0');
  if (seconds < 60) return `${seconds}${unit}`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${two(Math.floor(seconds / 60) % 60)}m`;
  return `${Math.floor(seconds / 86_400)}d${two(Math.floor(seconds / 3600) % 24)}h`;
}

/** `340 bytes`, `1.2 KiB`, `34 MiB`. */
export function size(bytes) {
  if (bytes < 1024) return bytes === 1 ? '1 byte' : `${bytes} bytes`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let [count, unit] = [bytes / 1024, 0];
  while (count >= 1024 && unit < units.length - 1) [count, unit] = [count / 1024, unit + 1];
  return `${count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export const clock = (at) => CLOCK.format(at);

export const dayAndClock = (at) => DAY_AND_CLOCK.format(at);

/** `1`, `1 and 2`, `1, 2 and 3`. */
export function listed(texts) {
  return texts.length < 2 ? texts.join('') : `${texts.slice(0, -1).join(', ')} and ${texts.at(-1)}`;
}

/** `1 key`, `2 keys`. */
export const counted = (number, one, many) => `${grouped(number)} ${Number(number) === 1 ? one : many}`;

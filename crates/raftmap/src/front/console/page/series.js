// Numbers over time, kept for as long as the page can show them.

/** So long numbers are kept. */
const KEPT_MS = 15 * 60_000;

/** Points `{ at, values }` in order of time; a value that is not known is `null`. */
class Series {
  points = [];

  push(at, values) {
    this.points.push({ at, values });
    while (this.points[0].at < at - KEPT_MS) this.points.shift();
  }

  /** The points from `from` on, and the one before them, so that lines do not begin in the middle. */
  since(from) {
    const first = this.points.findIndex((point) => point.at >= from);
    return first < 0 ? [] : this.points.slice(Math.max(0, first - 1));
  }

  latest() {
    return this.points.at(-1)?.values ?? {};
  }
}

/** Entries that the cluster committed in a second. */
export const committed = new Series();
/** Requests that the server that serves this page answered in a second: `writes`, `reads`. */
export const answered = new Series();
/** By server: entries that it is behind. */
export const lag = new Series();
/** Microseconds that a small linearizable read took. */
export const latency = new Series();
/** When another server began to lead: `{ at, leader, term }`. */
export const leaders = [];

let before = null;

/** Takes in what was learned in a look: the state of watch.js. */
export function see({ phase, view, seenAt: at }) {
  if (phase !== 'fine') {
    if (phase === 'silent') unknown(Date.now());
    before = null;
    return;
  }
  const { own, leader, term } = view;
  const last = leaders.at(-1);
  if (leader !== null && (last?.leader !== leader || last.term !== term)) leaders.push({ at, leader, term });
  lag.push(at, lagsOf(view));
  if (own && before) {
    const seconds = (at - before.at) / 1000;
    const per = (now, earlier) => (seconds > 0 && now >= earlier ? (now - earlier) / seconds : null);
    committed.push(at, { entries: per(own.commit, before.own.commit) });
    answered.push(at, { writes: per(own.writes, before.own.writes), reads: per(own.reads, before.own.reads) });
  }
  before = own && { at, own };
}

/** A leader knows how far the others are; any other server, how far it is itself with what it knows to be committed. */
function lagsOf({ isLeader, members, own }) {
  if (!isLeader) return own ? { [own.id]: Math.max(0, own.commit - own.applied) } : {};
  return Object.fromEntries(members.filter((member) => !member.isOwn).map((member) => [member.id, member.lag]));
}

function unknown(at) {
  for (const series of [committed, answered, lag]) {
    if (series.points.length > 0) series.push(at, {});
  }
}

/** Takes in a timed read. */
export function seeProbe({ at, us, failure }) {
  if (failure?.code !== 'DENIED') latency.push(at, { read: us });
}

/** The middle one of the last reads, in microseconds; `null`: none was answered lately. */
export function medianRead() {
  const last = latency.points.slice(-15).map((point) => point.values.read).filter((us) => us !== null).sort((a, b) => a - b);
  return last.length > 0 ? last[Math.floor(last.length / 2)] : null;
}

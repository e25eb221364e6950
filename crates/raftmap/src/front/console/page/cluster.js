// How the cluster is, as one server tells it: for itself all, for the others what the leader knows if it is the leader.

const ROLES = { VOTER: 'voter', LEARNER: 'learner' };
const STATES = { FOLLOWER: 'follower', PRE_CANDIDATE: 'pre-candidate', CANDIDATE: 'candidate', LEADER: 'leader' };

/** How far the server's log, or the leader's, may be ahead of what a server holds before it is worth a word. */
const LAG_NOTED = 10_000;

/** One view out of the answers to `Cluster/Status` and `Cluster/Members`. */
export function viewOf(status, { term = '0', members: known = [] }) {
  const by = status.answeredBy ?? '0';
  const told = status.members ?? [];
  const own = told.find((member) => member.id === by) ?? {};
  const isLeader = own.state === 'LEADER';
  const leader = isLeader ? by : (known.find((member) => member.leader && member.id !== by)?.id ?? null);
  const members = told.map((member) => memberOf(member, { by, leader, isLeader }));
  const voters = members.filter((member) => member.role === 'voter').length;
  return {
    by,
    term: Number(own.term ?? term),
    leader,
    isLeader,
    electedBy: own.electedBy ?? [],
    members,
    own: members.find((member) => member.isOwn) ?? null,
    voters,
    majority: Math.floor(voters / 2) + 1,
  };
}

/** One member; what is not known is `null`. */
function memberOf(told, { by, leader, isLeader }) {
  const isOwn = told.id === by;
  const isKnown = isOwn || isLeader;
  const number = (value) => Number(value ?? 0);
  const own = (value) => (isOwn ? number(value) : null);
  const awayMs = number(told.awayMs);
  const isAway = !isOwn && (awayMs > 0 || !told.reachable);
  // What a new leader says of a server that it has not heard of yet is no news of it.
  const isHeard = isOwn || (isLeader && !(isAway && number(told.lastLogIndex) === 0));
  return {
    id: told.id,
    address: told.clientAddress ?? '',
    isOwn,
    isKnown,
    leads: told.id === leader,
    role: ROLES[told.role] ?? 'no member',
    state: isOwn ? (STATES[told.state] ?? 'unknown') : null,
    isAway,
    awayMs,
    term: own(told.term),
    log: isHeard ? number(told.lastLogIndex) : null,
    commit: own(told.commitIndex),
    applied: own(told.appliedIndex),
    lag: isLeader && isHeard ? number(told.lag) : null,
    syncUs: own(told.logWriteP99Us) || null,
    memory: own(told.memoryBytes) || null,
    version: told.version || null,
    uptimeMs: own(told.uptimeMs),
    writes: own(told.writesAnswered),
    reads: own(told.readsAnswered),
    notes: isKnown ? notesOf(told, isOwn) : null,
  };
}

/** What is remarkable about a member: `{ is, why, isBad }`. */
function notesOf(told, isOwn) {
  const notes = [];
  const note = (is, why, isBad = true) => notes.push({ is, why, isBad });
  if (told.damaged) note('damaged', 'it neither votes nor counts until the leader has re-sent what its disk lost');
  if (told.statesDiffer) note('refuses requests', "the servers' states differ, and no majority has one of them");
  if (told.quarantined) note('quarantined', 'its state was wrong; it serves nothing until it has a snapshot');
  else if (told.stateLost) note('lost its state', 'it serves nothing until it has a snapshot of another server');
  else if (told.needsSnapshot) note('takes a snapshot', 'it was too far behind for the log alone', false);
  if (told.role === 'LEARNER') note('learner', 'it votes once it has caught up', false);
  if (isOwn && told.role !== 'LEARNER' && told.role !== 'VOTER') note('no member', 'the cluster does not count on it', false);
  if (!isOwn && told.reachable && Number(told.lag ?? 0) >= LAG_NOTED) note('far behind', 'it is catching up', false);
  return notes;
}

/** Where the console of a member is; `null`: its address is none. */
export function consoleOf(address) {
  if (!/^(\[[0-9a-f:.]+\]|[\w.-]+):\d+$/i.test(address)) return null;
  return `${location.protocol}//${address}/console/`;
}

//! What was seen of a cluster over time: rates, and what happened.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use raftmap::survey::{ClusterView, MemberView};

use super::super::status;

/// How many seconds of rates are kept.
const SECONDS_MAX: usize = 120;
/// How many events are kept.
const EVENTS_MAX: usize = 200;
/// A rate is of at least so long.
const SECOND: Duration = Duration::from_secs(1);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

/// How it is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it should be.
    Good,
    /// Somebody asked for it.
    Done,
    /// It should not be so.
    Bad,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct History {
    began: Instant,
    view: ClusterView,
    /// Of each member when it was seen last: its state in words.
    known: BTreeMap<u64, String>,
    last_leader: Option<(u64, u64)>,
    counted: Counted,
    /// Requests a second of all servers, second by second, the latest last.
    pub(crate) writes: VecDeque<u64>,
    pub(crate) reads: VecDeque<u64>,
    /// What happened, the latest last.
    pub(crate) events: VecDeque<Happened>,
}

/// The servers' counters, when they were looked at last.
#[derive(Debug)]
struct Counted {
    at: Instant,
    by_server: BTreeMap<u64, (u64, u64)>,
}

impl History {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            began: now,
            view: ClusterView::default(),
            known: BTreeMap::new(),
            last_leader: None,
            counted: Counted { at: now, by_server: BTreeMap::new() },
            writes: VecDeque::new(),
            reads: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The cluster as it was seen last.
    pub(crate) fn view(&self) -> &ClusterView {
        &self.view
    }

    /// Since the beginning.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Notes that something happened.
    pub(crate) fn note(&mut self, now: Instant, kind: Kind, text: String) {
        let happened = Happened { at: self.age(now), kind, text };
        keep(&mut self.events, EVENTS_MAX, happened);
    }

    /// Takes in how the cluster is now.
    pub(crate) fn see(&mut self, now: Instant, view: ClusterView) {
        self.count(now, &view);
        self.compare_members(now, &view);
        self.compare_leader(now, &view);
        self.view = view;
    }

    fn count(&mut self, now: Instant, view: &ClusterView) {
        let elapsed = now.saturating_duration_since(self.counted.at);
        if elapsed < SECOND {
            return;
        }
        let own = view.members.iter().filter_map(|member| member.own.as_ref());
        let by_server: BTreeMap<u64, (u64, u64)> =
            own.map(|own| (own.id, (own.writes_answered, own.reads_answered))).collect();
        let (mut writes, mut reads) = (0, 0);
        for (id, now) in &by_server {
            // One that was not seen before began earlier; one that has started anew has answered all that it counts since then.
            let Some(before) = self.counted.by_server.get(id) else { continue };
            let since = |now: u64, before: u64| if now < before { now } else { now - before };
            writes += since(now.0, before.0);
            reads += since(now.1, before.1);
        }
        keep(&mut self.writes, SECONDS_MAX, per_second(writes, elapsed));
        keep(&mut self.reads, SECONDS_MAX, per_second(reads, elapsed));
        self.counted.at = now;
        // One that does not answer for a moment goes on where it was.
        self.counted.by_server.extend(by_server);
    }

    fn compare_members(&mut self, now: Instant, view: &ClusterView) {
        let first_look = self.known.is_empty();
        for member in &view.members {
            let (id, is) = (member.id.0, condition(member, view));
            let was = self.known.insert(id, is.clone());
            match was {
                None if !first_look => self.note(now, Kind::Good, format!("server {id} is a member: {is}")),
                Some(was) if was != is => {
                    let kind = if is == FINE || is == "learner" { Kind::Good } else { Kind::Bad };
                    self.note(now, kind, format!("server {id}: {is}"));
                }
                _ => {}
            }
        }
        let gone: Vec<u64> = self
            .known
            .keys()
            .filter(|id| view.members.iter().all(|member| member.id.0 != **id))
            .copied()
            .collect();
        // Without an answer of anybody nothing is known of the members.
        for id in gone.into_iter().filter(|_| !view.members.is_empty()) {
            self.known.remove(&id);
            self.note(now, Kind::Done, format!("server {id} is no member any more"));
        }
    }

    fn compare_leader(&mut self, now: Instant, view: &ClusterView) {
        let leader = view.leader.map(|leader| (leader.0, view.leader_term()));
        if leader == self.last_leader {
            return;
        }
        match leader {
            Some((id, term)) => {
                let own = view
                    .members
                    .iter()
                    .find(|member| member.id.0 == id)
                    .and_then(|member| member.own.as_ref());
                let voters = own.map(|own| own.elected_by.clone()).unwrap_or_default();
                let votes = if voters.is_empty() {
                    String::new()
                } else {
                    format!(", with the votes of {}", listed(&voters))
                };
                self.note(now, Kind::Good, format!("server {id} leads in term {term}{votes}"));
            }
            None if !self.view.members.is_empty() => self.note(now, Kind::Bad, "no server leads".to_owned()),
            None => {}
        }
        self.last_leader = leader;
    }
}

/// What there is to say of a member that is as it should be.
const FINE: &str = "it answers";

/// How a member is, in a few words that stay the same as long as that does.
fn condition(member: &MemberView, view: &ClusterView) -> String {
    match &member.own {
        None => "it does not answer".to_owned(),
        Some(_) => match status::notes(member, view).first() {
            None => FINE.to_owned(),
            Some(note) => note.split([':', ',']).next().unwrap_or(note).to_owned(),
        },
    }
}

/// `1`, `1 and 2`, `1, 2 and 3`.
fn listed(ids: &[u64]) -> String {
    let texts: Vec<String> = ids.iter().map(u64::to_string).collect();
    match texts.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => texts.concat(),
    }
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    let us = elapsed.as_micros().max(1);
    u64::try_from(u128::from(count) * 1_000_000 / us).unwrap_or(u64::MAX)
}

/// Adds one, and lets go of the oldest beyond `max`.
pub(crate) fn keep<T>(all: &mut VecDeque<T>, max: usize, one: T) {
    if all.len() == max {
        all.pop_front();
    }
    all.push_back(one);
}

#[cfg(test)]
mod tests {
    use raftmap_client::MemberStatus;
    use raftmap_proto::v1::member_status::State;
    use raftmap_raft::NodeId;

    use super::*;

    fn member(id: u64, state: State, writes: u64) -> MemberView {
        let elected_by = if state == State::LEADER { vec![1, 2] } else { Vec::new() };
        let own = MemberStatus {
            id,
            state: state.into(),
            term: 4,
            writes_answered: writes,
            elected_by,
            reachable: true,
            ..MemberStatus::default()
        };
        MemberView { own: Some(own), ..MemberView::unknown(NodeId(id), format!("h{id}:1")) }
    }

    fn view(members: Vec<MemberView>) -> ClusterView {
        let leader = members.iter().find(|member| member.says_leader()).map(|member| member.id);
        ClusterView { leader, term: 4, members, silent: Vec::new() }
    }

    fn texts(history: &History) -> Vec<&str> {
        history.events.iter().map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn what_changes_is_told_once() {
        let began = Instant::now();
        let mut history = History::new(began);
        let both = || view(vec![member(1, State::LEADER, 0), member(2, State::FOLLOWER, 0)]);
        history.see(began, both());
        history.see(began, both());
        assert_eq!(texts(&history), ["server 1 leads in term 4, with the votes of 1 and 2"]);
        let mut silent = both();
        silent.members[0].own = None;
        silent.leader = None;
        history.see(began, silent.clone());
        history.see(began, silent);
        assert_eq!(texts(&history)[1..], ["server 1: it does not answer", "no server leads"]);
        history.see(began, view(vec![member(2, State::FOLLOWER, 0), member(3, State::FOLLOWER, 0)]));
        assert_eq!(
            texts(&history)[3..],
            ["server 3 is a member: it answers", "server 1 is no member any more"]
        );
    }

    #[test]
    fn rates_are_of_all_servers_and_go_on_when_one_starts_anew() {
        let began = Instant::now();
        let mut history = History::new(began);
        let at = |seconds, counts: [u64; 2]| {
            let members = (1..).zip(counts).map(|(id, count)| member(id, State::FOLLOWER, count)).collect();
            (began + Duration::from_secs(seconds), view(members))
        };
        for (now, view) in [at(1, [1000, 50]), at(2, [1500, 50]), at(4, [10, 250])] {
            history.see(now, view);
        }
        assert_eq!(history.writes, [0, 500, 105]);
    }

    #[test]
    fn voters_are_listed_as_people_do() {
        assert_eq!([listed(&[1]), listed(&[1, 2]), listed(&[1, 2, 3])], ["1", "1 and 2", "1, 2 and 3"]);
    }
}

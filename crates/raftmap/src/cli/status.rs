//! `raftmap status`.

use std::time::Duration;

use clap::Args;
use raftmap::survey::{self, ClusterView, MemberView};
use raftmap_client::MemberStatus;
use raftmap_proto::v1::member::Role;
use raftmap_proto::v1::member_status::State;
use raftmap_state::LEVEL_FIRST;
use serde::Serialize;

use super::exit::{self, Failure};
use super::output::{self, aligned};
use super::request::{Connection, Request};

const EXAMPLES: &str = "\
Examples:
    raftmap status
  For programs, and until a leader is there:
    raftmap status --json
    until raftmap status > /dev/null; do sleep 1; done";

/// Show the members of the cluster: who leads, how far each one is, and what is wrong
///
/// Asks every server. Ends with code 1 if none leads.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Status {
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

/// A server that is asked for its status answers at once or hardly at all; all are asked at the same time.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);

impl Request for Status {
    const WRITES: bool = false;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let (endpoints, security) = (to.options().endpoints()?, to.options().security()?);
        let timeout = to.options().timeout().min(TIMEOUT_MAX);
        let view = survey::ask(endpoints, &security, timeout).await;
        let report = Report::new(&view);
        if self.json {
            let json = serde_json::to_value(&report)
                .map_err(|error| Failure::Failed(format!("the report cannot be written as JSON: {error}")))?;
            output::json(&json)?;
        } else {
            output::line(report.text().trim_end())?;
        }
        match view.leader {
            Some(_) => Ok(()),
            None if view.members.is_empty() => Err(Failure::Failed("no server answered".to_owned())),
            None => Err(Failure::Failed(
                "no server leads: a majority must run and reach each other; an election takes about a second"
                    .to_owned(),
            )),
        }
    }
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    leader: Option<u64>,
    term: u64,
    /// What the servers may use; `null`: no server that answered knows of levels.
    feature_level: Option<u32>,
    members: Vec<Row>,
    /// Endpoints that did not answer and are no known member's.
    silent: Vec<Silent>,
}

#[derive(Serialize)]
struct Silent {
    address: String,
    reason: String,
}

/// One member. What is not known is `null`.
#[derive(Serialize)]
struct Row {
    id: u64,
    client_address: String,
    /// `leader`, `follower`, `candidate`, `pre-candidate`; `null`: it did not answer.
    role: Option<&'static str>,
    term: Option<u64>,
    last_log_index: Option<u64>,
    commit_index: Option<u64>,
    applied_index: Option<u64>,
    /// Entries of the leader's log that it does not hold yet, as the leader knows.
    lag: Option<u64>,
    /// Whether it answered this command.
    answers: bool,
    /// Whether it answers the leader.
    reached_by_leader: Option<bool>,
    damaged: bool,
    version: Option<String>,
    /// The highest feature level that its program understands.
    feature_level_understood: Option<u32>,
    uptime_ms: Option<u64>,
    /// What is remarkable about it, in words.
    notes: Vec<String>,
}

impl Report {
    fn new(view: &ClusterView) -> Self {
        let silent = view.silent.iter().cloned().map(|(address, reason)| Silent { address, reason });
        Self {
            leader: view.leader.map(|leader| leader.0),
            term: view.term,
            feature_level: own_statuses(view)
                .map(|status| status.feature_level)
                .max()
                .filter(|level| *level > 0),
            members: view.members.iter().map(|member| Row::new(member, view)).collect(),
            silent: silent.collect(),
        }
    }

    fn text(&self) -> String {
        let mut text = match self.leader {
            Some(leader) => format!("server {leader} leads in term {}", self.term),
            None => "no server leads".to_owned(),
        };
        if let Some(level) = self.feature_level {
            text.push_str(&format!(", feature level {level}"));
        }
        text.push('\n');
        let head = ["ID", "ADDRESS", "ROLE", "TERM", "LOG", "COMMIT", "APPLIED", "LAG", "UPTIME", "NOTES"];
        let mut table = vec![head.map(str::to_owned)];
        table.extend(self.members.iter().map(Row::cells));
        if !self.members.is_empty() {
            text.push_str(&aligned(&table));
        }
        for silent in &self.silent {
            text.push_str(&format!("no answer from {}: {}\n", silent.address, silent.reason));
        }
        text
    }
}

impl Row {
    fn new(member: &MemberView, view: &ClusterView) -> Self {
        let own = member.own.as_ref();
        let leads = view.leader == Some(member.id);
        Self {
            id: member.id.0,
            client_address: member.client_address.clone(),
            role: own.map(role),
            term: own.map(|status| status.term),
            last_log_index: member.last_log_index(),
            commit_index: own.map(|status| status.commit_index),
            applied_index: own.map(|status| status.applied_index),
            lag: if leads { Some(0) } else { member.by_leader.as_ref().map(|status| status.lag) },
            answers: own.is_some(),
            reached_by_leader: member.by_leader.as_ref().map(|status| status.reachable),
            damaged: member.damaged(),
            version: own.map(|status| status.version.clone()),
            feature_level_understood: own.map(understood),
            uptime_ms: own.map(|status| status.uptime_ms),
            notes: notes(member, view),
        }
    }

    fn cells(&self) -> [String; 10] {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        [
            self.id.to_string(),
            self.client_address.clone(),
            self.role.unwrap_or("no answer").to_owned(),
            number(self.term),
            number(self.last_log_index),
            number(self.commit_index),
            number(self.applied_index),
            number(self.lag),
            self.uptime_ms.map_or_else(|| "-".to_owned(), uptime),
            self.notes.join("; "),
        ]
    }
}

/// How each server is, a line each: what a request that nobody answered is to be explained by.
pub(crate) fn explain(view: &ClusterView) -> String {
    let mut lines = vec![match view.leader {
        Some(leader) => format!("Now server {leader} leads in term {}:", view.term),
        None => "No server leads; a majority of these must run and reach each other:".to_owned(),
    }];
    for member in &view.members {
        let is = match &member.own {
            Some(own) => format!("answers, {} in term {}", role(own), own.term),
            None => member.silence.clone().unwrap_or_else(|| "was not asked".to_owned()),
        };
        let away = member
            .away
            .iter()
            .map(|(from, ms)| format!("; server {from} has not reached it for {}", uptime(*ms)));
        lines.push(format!(
            "  server {} at {}: {is}{}",
            member.id,
            member.client_address,
            away.collect::<String>()
        ));
    }
    lines.extend(view.silent.iter().map(|(address, reason)| format!("  {address}: {reason}")));
    lines.join("\n")
}

pub(crate) fn role(status: &MemberStatus) -> &'static str {
    match status.state.as_known() {
        Some(State::LEADER) => "leader",
        Some(State::FOLLOWER) => "follower",
        Some(State::CANDIDATE) => "candidate",
        Some(State::PRE_CANDIDATE) => "pre-candidate",
        Some(State::STATE_UNSPECIFIED) | None => "unknown",
    }
}

fn own_statuses(view: &ClusterView) -> impl Iterator<Item = &MemberStatus> {
    view.members.iter().filter_map(|member| member.own.as_ref())
}

/// The feature level that a server's program understands; one that says none understands the first.
fn understood(status: &MemberStatus) -> u32 {
    status.feature_level_understood.max(u32::from(LEVEL_FIRST))
}

pub(crate) fn notes(member: &MemberView, view: &ClusterView) -> Vec<String> {
    let mut notes = Vec::new();
    if member.damaged() {
        notes.push(
            "damaged: it neither votes nor counts until the leader has re-sent what its disk lost".to_owned(),
        );
    }
    let statuses = || member.own.iter().chain(&member.by_leader);
    if statuses().any(|status| status.role == Role::LEARNER) {
        notes.push("learner: it votes once it has caught up".to_owned());
    }
    if member.own.as_ref().is_some_and(|status| status.states_differ) {
        notes
            .push("refuses requests: the servers' states differ, and no majority has one of them".to_owned());
    }
    if member.own.as_ref().is_some_and(|status| status.quarantined) {
        notes.push("quarantined: its state was wrong, it serves nothing until it has a snapshot".to_owned());
    } else if member.own.as_ref().is_some_and(|status| status.state_lost) {
        notes.push("lost its state: it serves nothing until it has a snapshot of another server".to_owned());
    } else if member.by_leader.as_ref().is_some_and(|status| status.needs_snapshot) {
        notes.push("so far behind that it takes a snapshot".to_owned());
    }
    let newest = own_statuses(view).map(understood).max();
    if member.own.as_ref().map(understood) < newest && member.own.is_some() {
        notes.push("runs an older version: the feature level rises once all run the newer one".to_owned());
    }
    if member.says_leader() && view.leader != Some(member.id) {
        notes.push("takes itself for the leader, of an earlier term".to_owned());
    }
    if member.own.is_some() && member.by_leader.as_ref().is_some_and(|status| !status.reachable) {
        notes.push("does not answer the leader".to_owned());
    }
    notes.extend(member.silence.clone());
    notes
}

pub(crate) fn uptime(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use raftmap_raft::NodeId;

    use super::*;

    fn status(id: u64, state: State, term: u64) -> MemberStatus {
        MemberStatus { id, state: state.into(), term, ..MemberStatus::default() }
    }

    fn member(id: u64, own: Option<MemberStatus>, by_leader: Option<MemberStatus>) -> MemberView {
        MemberView { own, by_leader, ..MemberView::unknown(NodeId(id), format!("h{id}:1")) }
    }

    #[test]
    fn what_is_wrong_stands_in_the_notes() {
        let reachable =
            |id, reachable| Some(MemberStatus { reachable, ..status(id, State::STATE_UNSPECIFIED, 0) });
        let damaged = MemberStatus { damaged: true, ..status(4, State::FOLLOWER, 7) };
        let lost = MemberStatus { state_lost: true, ..status(6, State::FOLLOWER, 7) };
        let behind = MemberStatus { needs_snapshot: true, reachable: true, ..status(7, State::FOLLOWER, 7) };
        let mut silent = member(5, None, reachable(5, false));
        silent.silence = Some("connection refused".to_owned());
        let view = ClusterView {
            leader: Some(NodeId(2)),
            term: 7,
            members: vec![
                member(1, Some(status(1, State::LEADER, 6)), reachable(1, true)),
                member(2, Some(status(2, State::LEADER, 7)), None),
                member(3, Some(status(3, State::FOLLOWER, 7)), reachable(3, false)),
                member(4, Some(damaged), reachable(4, true)),
                silent,
                member(6, Some(lost), reachable(6, true)),
                member(7, Some(status(7, State::FOLLOWER, 7)), Some(behind)),
            ],
            silent: vec![("old:1".to_owned(), "no such host".to_owned())],
        };
        let text = Report::new(&view).text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "server 2 leads in term 7");
        for (line, ending) in [
            (2, "takes itself for the leader, of an earlier term"),
            (3, "0s"),
            (4, "does not answer the leader"),
            (5, "re-sent what its disk lost"),
            (6, "connection refused"),
            (7, "until it has a snapshot of another server"),
            (8, "so far behind that it takes a snapshot"),
            (9, "no answer from old:1: no such host"),
        ] {
            assert!(lines[line].ends_with(ending), "{text}");
        }
        assert!(lines[6].contains("no answer"), "{text}");
    }

    #[test]
    fn an_upgrade_on_its_way_shows_the_level_and_who_keeps_it_there() {
        let new = |id, state, feature_level| {
            let status = MemberStatus { feature_level, feature_level_understood: 2, ..status(id, state, 7) };
            member(id, Some(status), None)
        };
        let old = member(3, Some(status(3, State::FOLLOWER, 7)), None);
        let view =
            |members| ClusterView { leader: Some(NodeId(1)), term: 7, members, ..ClusterView::default() };
        let mixed = view(vec![new(1, State::LEADER, 1), new(2, State::FOLLOWER, 1), old]);
        let text = Report::new(&mixed).text();
        assert!(text.starts_with("server 1 leads in term 7, feature level 1\n"), "{text}");
        let noted: Vec<bool> =
            text.lines().skip(2).map(|line| line.contains("runs an older version")).collect();
        assert_eq!(noted, [false, false, true], "{text}");
        let upgraded = view(vec![new(1, State::LEADER, 2), new(3, State::FOLLOWER, 1)]);
        let text = Report::new(&upgraded).text();
        assert!(text.starts_with("server 1 leads in term 7, feature level 2\n"), "{text}");
        assert!(!text.contains("older"), "{text}");
    }

    #[test]
    fn what_keeps_a_majority_away_is_told_of_each_server() {
        let mut gone = member(2, None, None);
        gone.silence = Some("connection refused".to_owned());
        gone.away.insert(NodeId(1), 123_000);
        let view = ClusterView {
            leader: None,
            term: 4,
            members: vec![member(1, Some(status(1, State::FOLLOWER, 4)), None), gone],
            silent: vec![("old:1".to_owned(), "no such host".to_owned())],
        };
        let text = explain(&view);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1..],
            [
                "  server 1 at h1:1: answers, follower in term 4",
                "  server 2 at h2:1: connection refused; server 1 has not reached it for 2m03s",
                "  old:1: no such host",
            ]
        );
        assert!(lines[0].starts_with("No server leads"), "{text}");
    }

    #[test]
    fn times_are_short() {
        let texts = [0, 59_999, 60_000, 3_600_000, 90_000_000].map(uptime);
        assert_eq!(texts, ["0s", "59s", "1m00s", "1h00m", "1d01h"]);
    }
}

//! How a node answers: requests go to the replica; reads are made here, once the replica says that they may.

use std::sync::Arc;
use std::time::Instant;

use futures::stream;
use raftmap_proto::v1;
use raftmap_raft::{ChangeRefusal, Outcome};
use raftmap_replica::{Failure as ReplicaFailure, Reason, RequestKind};
use raftmap_state::validate::RequestLimits;
use raftmap_state::{Answer, GetAnswer, ReadError, ScanCursor, SessionOpened, StateError};
use tokio::sync::{oneshot, watch};

use super::{Node, POLL};
use crate::api::{
    Backup, Call, Checked, Code, Consistency, Failure, FailureOutcome, GetValueInput, MembersChange,
    ReadAndWrite, ReadOptions, ScanInput, ScanPage, ScanPages, WriteInput,
};
use crate::runtime::{Callback, NodeError, Reply, StateHandle, Submission};

/// A get of more keys than this is read on a thread that may block.
const INLINE_KEYS_MAX: usize = 64;

impl ReadAndWrite for Node {
    fn limits(&self) -> &RequestLimits {
        &self.shared.limits
    }

    async fn submit_write(&self, write: Checked<WriteInput>) -> Result<Answer, Failure> {
        let WriteInput { request, session, call } = write.into_inner();
        self.write(RequestKind::Write { request, session }, call).await
    }

    fn submit_writes<F>(self: &Arc<Self>, writes: Vec<(Checked<WriteInput>, F)>)
    where
        F: FnOnce(Result<Answer, Failure>) + Send + 'static,
    {
        let admitted = self.shared.inbox.admit(writes.len());
        let mut submissions = Vec::with_capacity(admitted);
        for (write, answer) in writes {
            if submissions.len() == admitted {
                answer(Err(self.overloaded()));
                continue;
            }
            let WriteInput { request, session, call } = write.into_inner();
            let node = Arc::clone(self);
            let callback = Callback::new(move |result| {
                let ended = |node: &Self| Err(node.ended(FailureOutcome::Unknown));
                if matches!(result, Some(Ok(_))) {
                    node.shared.meters.count_write();
                }
                answer(result.map_or_else(|| ended(&node), |result| result.map_err(|f| node.failure(f))));
            });
            submissions.push(submission(
                RequestKind::Write { request, session },
                call,
                Reply::Callback(callback),
            ));
        }
        self.shared.inbox.submit(submissions);
    }

    async fn submit_get(&self, get: Checked<GetValueInput>) -> Result<GetAnswer, Failure> {
        let GetValueInput { get, options, call } = get.into_inner();
        self.await_readable(options, call).await?;
        let answer_bytes_max = self.shared.limits.answer_bytes_max;
        let read = if get.keys.len() <= INLINE_KEYS_MAX {
            self.shared.state.get().reader.get(&get, answer_bytes_max)
        } else {
            let state = self.shared.state.get();
            self.blocking(move || state.reader.get(&get, answer_bytes_max)).await?
        };
        if read.is_ok() {
            self.shared.meters.count_read();
        }
        read.map_err(|error| match error {
            ReadError::AnswerTooLarge { limit } => {
                Failure::not_applied(Code::TooLarge, error.to_string()).in_field("keys").over_limit(limit)
            }
            ReadError::State(error) => self.state_failed(error),
        })
    }

    async fn submit_scan(&self, scan: Checked<ScanInput>) -> Result<ScanPages, Failure> {
        let ScanInput { scan, page_bytes_max, options, call } = scan.into_inner();
        self.await_readable(options, call).await?;
        let state = self.shared.state.get();
        let held = Arc::clone(&state);
        let cursor = self.blocking(move || state.reader.scan(&scan)).await?;
        let cursor = cursor.map_err(|error| self.state_failed(error))?;
        self.shared.meters.count_read();
        let page_bytes_max = u64::from(page_bytes_max);
        let pages = Pages { node: self.clone(), state: held, page_bytes_max };
        Ok(Box::pin(stream::unfold(Some((pages, cursor)), |state| async move {
            let (pages, cursor) = state?;
            Some(match pages.next(cursor).await {
                Ok((page, cursor)) => {
                    let rest = (!page.last).then_some((pages, cursor));
                    (Ok(page), rest)
                }
                Err(failure) => (Err(failure), None),
            })
        })))
    }

    async fn backup(&self, call: Call) -> Result<Backup, Failure> {
        self.begin_backup(call).await
    }

    async fn open_session(&self, call: Call) -> Result<SessionOpened, Failure> {
        match self.write(RequestKind::OpenSession, call).await? {
            Answer::SessionOpened(opened) => Ok(opened),
            other => unreachable!("the opening of a session is answered as such, not by {other:?}"),
        }
    }

    fn members_index(&self) -> u64 {
        self.shared.addresses.index()
    }

    async fn members(&self, _: Call) -> Result<v1::MembersResponse, Failure> {
        Ok(self.describe_members(&self.replica_status().await?))
    }

    async fn change_members(&self, change: MembersChange, call: Call) -> Result<(), Failure> {
        let kind = match change {
            MembersChange::Add(introduction) => RequestKind::AddMember(introduction),
            MembersChange::Remove(id) => RequestKind::RemoveMember(id),
        };
        loop {
            let (reply, answer) = oneshot::channel();
            self.submit(kind.clone(), call.clone(), Reply::Write(reply))?;
            match answer.await.map_err(|_| self.ended(FailureOutcome::Unknown))? {
                Ok(_) => return Ok(()),
                // One change at a time: the one before it is over in a moment.
                Err(ReplicaFailure { reason: Reason::Members(ChangeRefusal::Busy), .. })
                    if Instant::now() + POLL < call.deadline =>
                {
                    tokio::time::sleep(POLL).await;
                }
                Err(failure) => return Err(self.failure(failure)),
            }
        }
    }

    async fn status(&self, _: Call) -> Result<v1::StatusResponse, Failure> {
        Ok(self.describe_status(&self.replica_status().await?))
    }

    fn readiness(&self) -> watch::Receiver<bool> {
        self.shared.ready.clone()
    }
}

/// The pages of one scan.
struct Pages {
    node: Node,
    /// Its files stay while it is read, also when a snapshot takes its place.
    state: Arc<StateHandle>,
    page_bytes_max: u64,
}

impl Pages {
    /// The next page. It is read on a thread that may block.
    async fn next(&self, mut cursor: ScanCursor) -> Result<(ScanPage, ScanCursor), Failure> {
        let page_bytes_max = self.page_bytes_max;
        let read = move || (cursor.next_page(page_bytes_max), cursor);
        let (answer, cursor) = self.node.blocking(read).await?;
        let answer = answer.map_err(|error| self.node.state_failed(error))?;
        if !self.state.is_readable() {
            let reason = "this server's state was found to be in doubt; scan again, at another server";
            return Err(Failure::not_applied(Code::NodeUnfit, reason));
        }
        Ok((ScanPage { answer, last: cursor.is_done() }, cursor))
    }
}

impl Node {
    async fn write(&self, kind: RequestKind, call: Call) -> Result<Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        self.submit(kind, call, Reply::Write(reply))?;
        let answer = answer.await.map_err(|_| self.ended(FailureOutcome::Unknown))?;
        if answer.is_ok() {
            self.shared.meters.count_write();
        }
        answer.map_err(|failure| self.failure(failure))
    }

    /// Waits until the local state may be read for `options`.
    pub(super) async fn await_readable(&self, options: ReadOptions, call: Call) -> Result<(), Failure> {
        let linearizable = options.consistency == Consistency::Linearizable;
        let (reply, ready) = oneshot::channel();
        let kind = RequestKind::Read { linearizable, min_revision: options.min_revision };
        self.submit(kind, call, Reply::Read(reply))?;
        let ready = ready.await.map_err(|_| self.ended(FailureOutcome::NotApplied))?;
        ready.map_err(|failure| self.failure(failure))
    }

    fn submit(&self, kind: RequestKind, call: Call, reply: Reply) -> Result<(), Failure> {
        if self.shared.inbox.admit(1) == 0 {
            return Err(self.overloaded());
        }
        self.shared.inbox.submit(vec![submission(kind, call, reply)]);
        Ok(())
    }

    fn overloaded(&self) -> Failure {
        let limit = self.shared.inbox.requests_max();
        let reason = format!("{limit} requests wait for this server already; ask again in a moment");
        Failure::not_applied(Code::Overloaded, reason).over_limit(limit as u64)
    }

    pub(super) async fn replica_status(&self) -> Result<raftmap_replica::ReplicaStatus, Failure> {
        self.shared.inbox.status().await.map_err(|_| self.ended(FailureOutcome::NotApplied))
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        tokio::task::spawn_blocking(read).await.map_err(|_| self.ended(FailureOutcome::NotApplied))
    }

    /// The engine cannot be read: the node ends.
    pub(super) fn state_failed(&self, error: StateError) -> Failure {
        let failure = Failure::not_applied(Code::NodeUnfit, error.to_string());
        self.shared.failstop.fail(NodeError::from(error));
        failure
    }

    fn ended(&self, outcome: FailureOutcome) -> Failure {
        Failure {
            outcome,
            ..Failure::not_applied(Code::ShuttingDown, "this server has ended; ask another one")
        }
    }

    /// A replica's failure, as clients see it.
    fn failure(&self, failure: ReplicaFailure) -> Failure {
        let ReplicaFailure { reason, outcome, leader } = failure;
        if let Reason::Refused(refusal) = reason {
            return refusal.into();
        }
        let (code, limit) = match reason {
            Reason::NoLeader => (Code::NoLeader, None),
            Reason::NoQuorum { .. } => (Code::NoQuorum, None),
            Reason::LeadershipLost => (Code::LeadershipLost, None),
            Reason::Overloaded { limit } => (Code::Overloaded, Some(limit)),
            Reason::TooLarge { limit } => (Code::TooLarge, Some(limit)),
            Reason::Deadline => (Code::Deadline, None),
            Reason::Behind { .. } => (Code::Behind, None),
            Reason::StateLost | Reason::Quarantined | Reason::StatesDiffer => (Code::NodeUnfit, None),
            Reason::DiskFull { reserve_bytes, .. } => (Code::DiskFull, Some(reserve_bytes)),
            Reason::Members(ChangeRefusal::Busy) => (Code::Overloaded, None),
            Reason::Members(_)
            | Reason::MemberRemoved { .. }
            | Reason::VotesAlready { .. }
            | Reason::NotAMember { .. } => (Code::Invalid, None),
            Reason::ShuttingDown => (Code::ShuttingDown, None),
            Reason::Unsupported => (Code::Unsupported, None),
            Reason::Refused(refusal) => (refusal.code().into(), refusal.limit()),
        };
        let hint = match code {
            Code::DiskFull => "; free some room, delete keys, or lower --space-reserve-mib",
            Code::LeadershipLost if outcome == Outcome::Unknown => "; it may have been applied",
            Code::Deadline if outcome == Outcome::Unknown => " before the answer; it may have been applied",
            _ => "",
        };
        Failure {
            outcome: match outcome {
                Outcome::NotApplied => FailureOutcome::NotApplied,
                Outcome::Unknown => FailureOutcome::Unknown,
            },
            leader: leader.and_then(|leader| self.client_address(leader)),
            limit,
            ..Failure::not_applied(code, format!("{reason}{hint}"))
        }
    }
}

fn submission(kind: RequestKind, call: Call, reply: Reply) -> Submission {
    tracing::trace!(request_id = call.request_id, "submitted");
    Submission { kind, deadline: call.deadline, trace: call.trace, reply }
}

//! What a node offers to those who read and write its map: the seam between the front door, the embedding program, and
//! the replica.
//!
//! [`ReadAndWrite`] is what they call. A node implements the few methods that submit checked requests; the others, which
//! check, are written here once, so that nothing reaches the log unchecked, whatever way it came in.

mod failure;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::Stream;
use raftmap_proto::v1;
use raftmap_raft::{LogIndex, NodeId};
use raftmap_state::validate::{InvalidRequest, RequestLimits};
use raftmap_state::{
    Answer, Delete, DeleteAnswer, Get, GetAnswer, Introduction, Put, PutAnswer, Scan, ScanAnswer,
    SessionOpened, SessionTag, TraceContext, Txn, TxnAnswer, WriteRequest,
};
use tokio::sync::watch;

pub use failure::{Code, Failure, FailureOutcome, by_deadline};

/// What accompanies every request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Names the request in the logs of all servers that it passes; empty: it has no name.
    pub request_id: String,
    /// When its caller stops waiting. A request that still waits in a queue then is dropped and certainly not applied.
    pub deadline: Instant,
    /// Whose trace it belongs to, if it is followed: what each server does for it are spans below this one. It goes into the log
    /// with what it changes.
    pub trace: Option<TraceContext>,
}

/// What a read may miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// It sees what this server has applied, which may be behind.
    Stale,
}

/// How a read is to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// What it may miss.
    pub consistency: Consistency,
    /// It waits until this server has applied this index; [`Code::Behind`] at the deadline.
    pub min_revision: LogIndex,
}

/// Sets keys: [`ReadAndWrite::propose_value`].
#[derive(Clone, Debug)]
pub struct ProposeValueInput {
    /// What to set.
    pub put: Put,
    /// Makes it exactly-once.
    pub session: Option<SessionTag>,
    /// Name and deadline.
    pub call: Call,
}

/// Removes keys: [`ReadAndWrite::delete_value`].
#[derive(Clone, Debug)]
pub struct DeleteValueInput {
    /// What to remove.
    pub delete: Delete,
    /// Makes it exactly-once.
    pub session: Option<SessionTag>,
    /// Name and deadline.
    pub call: Call,
}

/// Runs conditions and operations in one atomic step: [`ReadAndWrite::transact`].
#[derive(Clone, Debug)]
pub struct TransactInput {
    /// What to run.
    pub txn: Txn,
    /// Makes it exactly-once.
    pub session: Option<SessionTag>,
    /// Name and deadline.
    pub call: Call,
}

/// Reads keys: [`ReadAndWrite::get_value`].
#[derive(Clone, Debug)]
pub struct GetValueInput {
    /// The keys.
    pub get: Get,
    /// What the answer may miss.
    pub options: ReadOptions,
    /// Name and deadline.
    pub call: Call,
}

/// Reads a range: [`ReadAndWrite::scan`].
#[derive(Clone, Debug)]
pub struct ScanInput {
    /// The range.
    pub scan: Scan,
    /// The largest page, in bytes, as [`raftmap_state::limits`] counts. A page has at least one entry if one remains.
    pub page_bytes_max: u32,
    /// What the pages may miss.
    pub options: ReadOptions,
    /// Name, and deadline of the first page; the others come when they are asked for.
    pub call: Call,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersChange {
    /// A server comes: as a learner first, then as a voter, by itself. Of a member the addresses change.
    Add(Introduction),
    /// A member goes. Its id is never used again.
    Remove(NodeId),
}

/// Any change of the map, as [`ReadAndWrite::submit_write`] takes it.
#[derive(Clone, Debug)]
pub struct WriteInput {
    /// What to change.
    pub request: WriteRequest,
    /// Makes it exactly-once.
    pub session: Option<SessionTag>,
    /// Name and deadline.
    pub call: Call,
}

/// An input that keeps the node's [`RequestLimits`]. Only the checks of this module make one.
#[derive(Clone, Debug)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    /// The input.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Checked<WriteInput> {
    fn new(input: WriteInput, limits: &RequestLimits) -> Result<Self, InvalidRequest> {
        limits.check_write(&input.request, input.session.as_ref()).map(|()| Self(input))
    }
}

/// One page of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The entries, and whether more remain in the range behind them.
    pub answer: ScanAnswer,
    /// Whether no page follows: the range or the scan's limit is reached.
    pub last: bool,
}

/// The pages of a scan, all read at one revision. It ends after its last page, or after a failure.
pub type ScanPages = Pin<Box<dyn Stream<Item = Result<ScanPage, Failure>> + Send>>;

/// A backup on its way.
pub struct Backup {
    /// The parts of the file, each as large as a chunk of a snapshot or a single row; it ends after the last one, or after a
    /// failure.
    pub parts: Pin<Box<dyn Stream<Item = Result<Bytes, Failure>> + Send>>,
    /// About how long the file will be, in bytes.
    pub bytes_expected: u64,
}

/// A node's map, and what the node knows of its cluster.
///
/// Every method may be called at any time, from any number of tasks. Each ends by the deadline of its [`Call`]: what is
/// late is a [`Code::Deadline`] with the outcome that is known. A future that is dropped does not take back what it has
/// submitted.
pub trait ReadAndWrite: Send + Sync + 'static {
    /// What requests must keep to.
    fn limits(&self) -> &RequestLimits;

    /// Proposes a change, passing it on to the leader if that is another server, and waits until it is applied. One
    /// request is one log entry. What the state machine refuses comes back as the failure of its
    /// [`raftmap_state::Refusal`].
    fn submit_write(
        &self,
        write: Checked<WriteInput>,
    ) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Proposes changes that came together, so that they reach the replica together: they share a batch, whose costs are those of
    /// one change. For each as [`Self::submit_write`] does; its answer goes to the function beside it, once, on whichever thread
    /// it is known: that must not wait for anything.
    fn submit_writes<F>(self: &Arc<Self>, writes: Vec<(Checked<WriteInput>, F)>)
    where
        F: FnOnce(Result<Answer, Failure>) + Send + 'static;

    /// Reads keys, all at one revision. An answer larger than the limits allow is [`Code::TooLarge`].
    fn submit_get(
        &self,
        get: Checked<GetValueInput>,
    ) -> impl Future<Output = Result<GetAnswer, Failure>> + Send;

    /// Opens a scan: its pages come from one snapshot, which is let go when the stream is dropped.
    fn submit_scan(
        &self,
        scan: Checked<ScanInput>,
    ) -> impl Future<Output = Result<ScanPages, Failure>> + Send;

    /// Begins a backup of the state as it is now, with everything in it that was acknowledged before. The view that it is read
    /// from is let go when the stream is dropped.
    fn backup(&self, call: Call) -> impl Future<Output = Result<Backup, Failure>> + Send;

    /// Opens a session for exactly-once writes.
    fn open_session(&self, call: Call) -> impl Future<Output = Result<SessionOpened, Failure>> + Send;

    /// The log index of what changed the members or their addresses last, as far as this server has applied it; 0: nothing did.
    fn members_index(&self) -> u64;

    /// Who the members are and where they answer clients, as far as this server knows.
    fn members(&self, call: Call) -> impl Future<Output = Result<v1::MembersResponse, Failure>> + Send;

    /// Changes the members, if this server leads. Ends when a server that comes is a learner, or one that goes is none any more.
    fn change_members(
        &self,
        change: MembersChange,
        call: Call,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// How the members are: this server for itself, and of the others what the leader knows.
    fn status(&self, call: Call) -> impl Future<Output = Result<v1::StatusResponse, Failure>> + Send;

    /// Whether requests are answered here, and each change of that: there is a leader, or there was one and they wait for the
    /// next, and this server's state may be read.
    fn readiness(&self) -> watch::Receiver<bool>;

    /// Checks a change.
    ///
    /// # Errors
    /// If it does not keep the node's limits.
    fn check_write(&self, write: WriteInput) -> Result<Checked<WriteInput>, Failure> {
        Ok(Checked::<WriteInput>::new(write, self.limits())?)
    }

    /// Sets keys in one atomic step.
    fn propose_value(
        &self,
        input: ProposeValueInput,
    ) -> impl Future<Output = Result<PutAnswer, Failure>> + Send {
        let ProposeValueInput { put, session, call } = input;
        let write = WriteInput { request: WriteRequest::Put(put), session, call };
        async move {
            match self.submit_write(self.check_write(write)?).await? {
                Answer::Put(answer) => Ok(answer),
                other => unreachable!("a put is answered as a put, not by {other:?}"),
            }
        }
    }

    /// Removes keys in one atomic step.
    fn delete_value(
        &self,
        input: DeleteValueInput,
    ) -> impl Future<Output = Result<DeleteAnswer, Failure>> + Send {
        let DeleteValueInput { delete, session, call } = input;
        let write = WriteInput { request: WriteRequest::Delete(delete), session, call };
        async move {
            match self.submit_write(self.check_write(write)?).await? {
                Answer::Delete(answer) => Ok(answer),
                other => unreachable!("a delete is answered as a delete, not by {other:?}"),
            }
        }
    }

    /// Runs conditions and operations in one atomic step.
    fn transact(&self, input: TransactInput) -> impl Future<Output = Result<TxnAnswer, Failure>> + Send {
        let TransactInput { txn, session, call } = input;
        let write = WriteInput { request: WriteRequest::Txn(txn), session, call };
        async move {
            match self.submit_write(self.check_write(write)?).await? {
                Answer::Txn(answer) => Ok(answer),
                other => unreachable!("a transaction is answered as a transaction, not by {other:?}"),
            }
        }
    }

    /// Reads keys, all at one revision.
    fn get_value(&self, input: GetValueInput) -> impl Future<Output = Result<GetAnswer, Failure>> + Send {
        async move {
            self.limits().check_get(&input.get)?;
            self.submit_get(Checked(input)).await
        }
    }

    /// Reads a range, page by page, all at one revision.
    fn scan(&self, input: ScanInput) -> impl Future<Output = Result<ScanPages, Failure>> + Send {
        async move {
            self.limits().check_scan(&input.scan)?;
            self.submit_scan(Checked(input)).await
        }
    }
}

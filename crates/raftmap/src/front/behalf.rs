//! The node, as one caller may use it. Nothing of the front door reaches the node by another way.

use std::sync::Arc;

use raftmap_proto::v1;
use raftmap_state::validate::RequestLimits;
use raftmap_state::{Answer, DeleteAnswer, GetAnswer, PutAnswer, SessionOpened, TxnAnswer, WriteRequest};

use crate::api::{
    Backup, Call, Checked, DeleteValueInput, Failure, GetValueInput, MembersChange, ProposeValueInput,
    ReadAndWrite, ScanInput, ScanPages, TransactInput, WriteInput,
};
use crate::users::Rights;

/// A node that is used on somebody's behalf alone.
pub(super) struct Guarded<N>(Arc<N>);

/// A node, and what may be done with it.
pub(super) struct OnBehalf<'a, N> {
    node: &'a Arc<N>,
    rights: &'a Rights,
}

impl<N: ReadAndWrite> Guarded<N> {
    pub(super) fn new(node: Arc<N>) -> Self {
        Self(node)
    }

    /// For somebody with these rights.
    pub(super) fn on_behalf<'a>(&'a self, rights: &'a Rights) -> OnBehalf<'a, N> {
        OnBehalf { node: &self.0, rights }
    }

    pub(super) fn limits(&self) -> &RequestLimits {
        self.0.limits()
    }

    /// See [`ReadAndWrite::members_index`].
    pub(super) fn members_index(&self) -> impl Fn() -> u64 + Send + use<N> {
        let node = Arc::clone(&self.0);
        move || node.members_index()
    }

    /// Submits changes that [`OnBehalf::check_write`] let pass.
    pub(super) fn submit_writes<F>(&self, writes: Vec<(Allowed, F)>)
    where
        F: FnOnce(Result<Answer, Failure>) + Send + 'static,
    {
        self.0.submit_writes(writes.into_iter().map(|(Allowed(write), then)| (write, then)).collect());
    }
}

/// A change that its caller may make.
pub(super) struct Allowed(Checked<WriteInput>);

impl<N: ReadAndWrite> OnBehalf<'_, N> {
    pub(super) async fn get_value(&self, input: GetValueInput) -> Result<GetAnswer, Failure> {
        self.rights.check_get(&input.get)?;
        self.node.get_value(input).await
    }

    pub(super) async fn propose_value(&self, input: ProposeValueInput) -> Result<PutAnswer, Failure> {
        self.rights.check_put(&input.put)?;
        self.node.propose_value(input).await
    }

    pub(super) async fn delete_value(&self, input: DeleteValueInput) -> Result<DeleteAnswer, Failure> {
        self.rights.check_delete(&input.delete)?;
        self.node.delete_value(input).await
    }

    pub(super) async fn transact(&self, input: TransactInput) -> Result<TxnAnswer, Failure> {
        self.rights.check_txn(&input.txn)?;
        self.node.transact(input).await
    }

    /// Whether a change may be made, and keeps the node's limits.
    pub(super) fn check_write(&self, input: WriteInput) -> Result<Allowed, Failure> {
        match &input.request {
            WriteRequest::Put(put) => self.rights.check_put(put)?,
            WriteRequest::Delete(delete) => self.rights.check_delete(delete)?,
            WriteRequest::Txn(txn) => self.rights.check_txn(txn)?,
        }
        self.node.check_write(input).map(Allowed)
    }

    pub(super) async fn scan(&self, input: ScanInput) -> Result<ScanPages, Failure> {
        self.rights.check_scan(&input.scan)?;
        self.node.scan(input).await
    }

    pub(super) async fn open_session(&self, call: Call) -> Result<SessionOpened, Failure> {
        self.rights.check_any_write()?;
        self.node.open_session(call).await
    }

    // Who may make the calls of the cluster was decided before: `super::access::Caller::check`.

    pub(super) async fn backup(&self, call: Call) -> Result<Backup, Failure> {
        self.node.backup(call).await
    }

    pub(super) async fn members(&self, call: Call) -> Result<v1::MembersResponse, Failure> {
        self.node.members(call).await
    }

    pub(super) async fn change_members(&self, change: MembersChange, call: Call) -> Result<(), Failure> {
        self.node.change_members(change, call).await
    }

    pub(super) async fn status(&self, call: Call) -> Result<v1::StatusResponse, Failure> {
        self.node.status(call).await
    }
}

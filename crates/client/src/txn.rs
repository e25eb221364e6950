//! Transactions, and compare-and-swap as the commonest of them.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use raftmap_proto::v1;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{PutEntry, TxnRequest, condition, operation};

use crate::call::{Running, timeout_option, unexpected_write_answer};
use crate::client::Client;
use crate::entry::Entry;
use crate::error::Error;

/// What a key must be for a condition to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Not there.
    Absent,
    /// There, with any value.
    Present,
    /// Last set by the write of this revision.
    Revision(u64),
    /// There, with this value.
    Value(Bytes),
}

impl Expected {
    fn into_proto(self, key: Bytes) -> v1::Condition {
        let expected = match self {
            Self::Absent => condition::Expected::Exists(false),
            Self::Present => condition::Expected::Exists(true),
            Self::Revision(revision) => condition::Expected::Revision(revision),
            Self::Value(value) => condition::Expected::Value(value),
        };
        v1::Condition { key, expected: Some(expected) }
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation(operation::Operation);

impl Operation {
    /// Sets a key, for good.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self(operation::Operation::Put(PutEntry { key: key.into(), value: value.into(), ttl_ms: 0 }))
    }

    /// Sets a key that expires after `ttl_ms` milliseconds of the cluster's time; 0 lets it stay.
    pub fn put_expiring(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl_ms: u64) -> Self {
        Self(operation::Operation::Put(PutEntry { key: key.into(), value: value.into(), ttl_ms }))
    }

    /// Removes a key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self(operation::Operation::Delete(key.into()))
    }

    /// Reads a key, as the steps before it left it.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self(operation::Operation::Get(key.into()))
    }
}

/// What one step of a transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperationResult {
    /// Of a get: what is there.
    pub entry: Option<Entry>,
    /// Of a delete: whether the key was there.
    pub deleted: bool,
    /// Of a put or a delete: what stood there before.
    pub previous: Option<Entry>,
}

/// The answer to a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Of the transaction.
    pub revision: u64,
    /// Whether all conditions held, so that the first branch ran.
    pub succeeded: bool,
    /// One for each operation of the branch that ran.
    pub results: Vec<OperationResult>,
}

/// The answer to a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// The key was as expected and has the new value.
    Done {
        /// Of the write.
        revision: u64,
    },
    /// The key was not as expected and is as it was.
    Refused {
        /// What is there.
        current: Option<Entry>,
    },
}

impl Client {
    /// A transaction without conditions and operations; add them, then await it.
    pub fn txn(&self) -> Txn<'_> {
        Txn { client: self, request: TxnRequest::default(), timeout: None }
    }

    /// Sets `key` to `value` if it is as expected.
    pub fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected: Expected,
        value: impl Into<Bytes>,
    ) -> CompareAndSwap<'_> {
        let key = key.into();
        let txn = self
            .txn()
            .when(key.clone(), expected)
            .then(Operation::put(key.clone(), value))
            .otherwise(Operation::get(key));
        CompareAndSwap { txn }
    }
}

/// A transaction: if all conditions hold, its one branch runs, else the other; one atomic step. Await it.
#[must_use = "a call runs once it is awaited"]
pub struct Txn<'a> {
    client: &'a Client,
    request: TxnRequest,
    timeout: Option<Duration>,
}

impl Txn<'_> {
    timeout_option!();

    /// Adds a condition.
    pub fn when(mut self, key: impl Into<Bytes>, expected: Expected) -> Self {
        self.request.conditions.push(expected.into_proto(key.into()));
        self
    }

    /// Adds an operation that runs if all conditions hold.
    pub fn then(mut self, operation: Operation) -> Self {
        self.request.then.push(v1::Operation { operation: Some(operation.0) });
        self
    }

    /// Adds an operation that runs if a condition does not hold.
    pub fn otherwise(mut self, operation: Operation) -> Self {
        self.request.otherwise.push(v1::Operation { operation: Some(operation.0) });
        self
    }

    async fn run(self) -> Result<TxnAnswer, Error> {
        let branches = [self.request.otherwise.len(), self.request.then.len()];
        let Response::Txn(txn) = self.client.write(Request::Txn(self.request), self.timeout).await? else {
            return Err(unexpected_write_answer());
        };
        if txn.results.len() != branches[usize::from(txn.succeeded)] {
            return Err(unexpected_write_answer());
        }
        let results = txn.results.into_iter().map(|result| OperationResult {
            entry: result.entry.into_option().map(Entry::detached),
            deleted: result.deleted,
            previous: result.previous.into_option().map(Entry::detached),
        });
        Ok(TxnAnswer { revision: txn.revision, succeeded: txn.succeeded, results: results.collect() })
    }
}

impl<'a> IntoFuture for Txn<'a> {
    type Output = Result<TxnAnswer, Error>;
    type IntoFuture = Running<'a, TxnAnswer>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A compare-and-swap; await it.
#[must_use = "a call runs once it is awaited"]
pub struct CompareAndSwap<'a> {
    txn: Txn<'a>,
}

impl CompareAndSwap<'_> {
    /// How long the call may take, its retries included; the client's default otherwise.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.txn = self.txn.timeout(timeout);
        self
    }

    async fn run(self) -> Result<Swap, Error> {
        let answer = self.txn.run().await?;
        if answer.succeeded {
            return Ok(Swap::Done { revision: answer.revision });
        }
        let current = answer.results.into_iter().next().and_then(|result| result.entry);
        Ok(Swap::Refused { current })
    }
}

impl<'a> IntoFuture for CompareAndSwap<'a> {
    type Output = Result<Swap, Error>;
    type IntoFuture = Running<'a, Swap>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

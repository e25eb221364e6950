//! Puts and deletes.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{DeleteRequest, GetResult, PutEntry, PutRequest};

use crate::call::{Running, previous_option, timeout_option, unexpected_write_answer};
use crate::client::Client;
use crate::entry::Entry;
use crate::error::Error;

impl Client {
    /// Sets `key` to `value`.
    pub fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Put<'_> {
        let entry = PutEntry { key: key.into(), value: value.into(), ttl_ms: 0 };
        Put { client: self, entry, return_previous: false, timeout: None }
    }

    /// Sets several keys in one atomic step.
    pub fn put_many<K: Into<Bytes>, V: Into<Bytes>>(
        &self,
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> PutMany<'_> {
        let entries = entries
            .into_iter()
            .map(|(key, value)| PutEntry { key: key.into(), value: value.into(), ttl_ms: 0 })
            .collect();
        PutMany { client: self, entries, return_previous: false, timeout: None }
    }

    /// Removes `key`.
    pub fn delete(&self, key: impl Into<Bytes>) -> Delete<'_> {
        Delete { client: self, key: key.into(), return_previous: false, timeout: None }
    }

    /// Removes several keys in one atomic step.
    pub fn delete_many<K: Into<Bytes>>(&self, keys: impl IntoIterator<Item = K>) -> DeleteMany<'_> {
        let keys = keys.into_iter().map(Into::into).collect();
        DeleteMany { client: self, keys, return_previous: false, timeout: None }
    }
}

/// The answer to a put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Of the write.
    pub revision: u64,
    /// What stood there before, if it was asked for and anything did.
    pub previous: Option<Entry>,
}

/// The answer to a put of several keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenMany {
    /// Of the write.
    pub revision: u64,
    /// If asked for, one for each key: what stood there before.
    pub previous: Vec<Option<Entry>>,
}

/// The answer to a delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Of the write.
    pub revision: u64,
    /// Whether the key was there.
    pub existed: bool,
    /// What stood there before, if it was asked for and anything did.
    pub previous: Option<Entry>,
}

/// The answer to a delete of several keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletedMany {
    /// Of the write.
    pub revision: u64,
    /// How many of the keys were there.
    pub deleted: u64,
    /// If asked for, one for each key: what stood there before.
    pub previous: Vec<Option<Entry>>,
}

/// What stood there before, for each of `keys`; nothing if it was not asked for.
fn previous(results: Vec<GetResult>, asked: bool, keys: usize) -> Result<Vec<Option<Entry>>, Error> {
    match results.len() {
        _ if !asked => Ok(Vec::new()),
        count if count == keys => Ok(results.into_iter().map(Entry::of_result).collect()),
        _ => Err(unexpected_write_answer()),
    }
}

/// A put of several keys; await it.
#[must_use = "a call runs once it is awaited"]
pub struct PutMany<'a> {
    client: &'a Client,
    entries: Vec<PutEntry>,
    return_previous: bool,
    timeout: Option<Duration>,
}

impl PutMany<'_> {
    timeout_option!();
    previous_option!();

    /// Lets all of the keys expire after this long, by the cluster's time; see [`Put::ttl`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        for entry in &mut self.entries {
            entry.ttl_ms = ttl_ms(ttl);
        }
        self
    }

    async fn run(self) -> Result<WrittenMany, Error> {
        let keys = self.entries.len();
        let request = Request::Put(PutRequest {
            entries: self.entries,
            return_previous: self.return_previous,
            ..PutRequest::default()
        });
        let Response::Put(put) = self.client.write(request, self.timeout).await? else {
            return Err(unexpected_write_answer());
        };
        Ok(WrittenMany {
            revision: put.revision,
            previous: previous(put.previous, self.return_previous, keys)?,
        })
    }
}

impl<'a> IntoFuture for PutMany<'a> {
    type Output = Result<WrittenMany, Error>;
    type IntoFuture = Running<'a, WrittenMany>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A put of one key; await it.
#[must_use = "a call runs once it is awaited"]
pub struct Put<'a> {
    client: &'a Client,
    entry: PutEntry,
    return_previous: bool,
    timeout: Option<Duration>,
}

/// In whole milliseconds, at least one: 0 would mean that the key never expires.
fn ttl_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl Put<'_> {
    timeout_option!();
    previous_option!();

    /// Lets the key expire after this long, by the cluster's time; otherwise it stays, even if it was to expire before.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.entry.ttl_ms = ttl_ms(ttl);
        self
    }

    async fn run(self) -> Result<Written, Error> {
        let Self { client, entry, return_previous, timeout } = self;
        let many = PutMany { client, entries: vec![entry], return_previous, timeout }.run().await?;
        Ok(Written { revision: many.revision, previous: many.previous.into_iter().next().flatten() })
    }
}

impl<'a> IntoFuture for Put<'a> {
    type Output = Result<Written, Error>;
    type IntoFuture = Running<'a, Written>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A delete of several keys; await it.
#[must_use = "a call runs once it is awaited"]
pub struct DeleteMany<'a> {
    client: &'a Client,
    keys: Vec<Bytes>,
    return_previous: bool,
    timeout: Option<Duration>,
}

impl DeleteMany<'_> {
    timeout_option!();
    previous_option!();

    async fn run(self) -> Result<DeletedMany, Error> {
        let keys = self.keys.len();
        let request = Request::Delete(DeleteRequest {
            keys: self.keys,
            return_previous: self.return_previous,
            ..DeleteRequest::default()
        });
        let Response::Delete(delete) = self.client.write(request, self.timeout).await? else {
            return Err(unexpected_write_answer());
        };
        Ok(DeletedMany {
            revision: delete.revision,
            deleted: delete.deleted,
            previous: previous(delete.previous, self.return_previous, keys)?,
        })
    }
}

impl<'a> IntoFuture for DeleteMany<'a> {
    type Output = Result<DeletedMany, Error>;
    type IntoFuture = Running<'a, DeletedMany>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A delete of one key; await it.
#[must_use = "a call runs once it is awaited"]
pub struct Delete<'a> {
    client: &'a Client,
    key: Bytes,
    return_previous: bool,
    timeout: Option<Duration>,
}

impl Delete<'_> {
    timeout_option!();
    previous_option!();

    async fn run(self) -> Result<Deleted, Error> {
        let Self { client, key, return_previous, timeout } = self;
        let many = DeleteMany { client, keys: vec![key], return_previous, timeout }.run().await?;
        Ok(Deleted {
            revision: many.revision,
            existed: many.deleted > 0,
            previous: many.previous.into_iter().next().flatten(),
        })
    }
}

impl<'a> IntoFuture for Delete<'a> {
    type Output = Result<Deleted, Error>;
    type IntoFuture = Running<'a, Deleted>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<F: Future>(_: impl Fn(&'static Client) -> F) -> usize {
        size_of::<F>()
    }

    /// A call is moved to the heap as a whole. With room for all that it hardly ever does it was 9.6 KB.
    #[test]
    fn calls_are_small() {
        let put = bytes_of(|client| client.put("key", "value").run());
        let delete = bytes_of(|client| client.delete("key").run());
        assert!(put.max(delete) < 2048, "a put takes {put} bytes, a delete {delete}");
    }
}

//! Gets.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{Consistency, GetRequest};

use crate::call::{Running, freshness_options, timeout_option, unexpected_read_answer};
use crate::client::Client;
use crate::cluster::Whom;
use crate::entry::Entry;
use crate::error::Error;

/// What a read may miss.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Freshness {
    pub(crate) consistency: Consistency,
    pub(crate) min_revision: u64,
}

impl Freshness {
    pub(crate) fn whom(self) -> Whom {
        if self.consistency == Consistency::STALE { Whom::Any } else { Whom::Leader }
    }
}

impl Client {
    /// The value of `key`, if it is there.
    pub fn get(&self, key: impl Into<Bytes>) -> Get<'_> {
        Get { client: self, key: key.into(), freshness: Freshness::default(), timeout: None }
    }

    /// The values of `keys`, all read at one revision.
    pub fn get_many<K: Into<Bytes>>(&self, keys: impl IntoIterator<Item = K>) -> GetMany<'_> {
        let keys = keys.into_iter().map(Into::into).collect();
        GetMany { client: self, keys, freshness: Freshness::default(), timeout: None }
    }
}

/// A get of several keys; await it.
#[must_use = "a call runs once it is awaited"]
pub struct GetMany<'a> {
    client: &'a Client,
    keys: Vec<Bytes>,
    freshness: Freshness,
    timeout: Option<Duration>,
}

/// The answer to a get of several keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// At which all keys were read: the index of the last write that the read saw.
    pub revision: u64,
    /// One for each key, in order; `None`: no such key.
    pub entries: Vec<Option<Entry>>,
}

impl GetMany<'_> {
    timeout_option!();
    freshness_options!();

    async fn run(self) -> Result<Values, Error> {
        let asked = self.keys.len();
        let request = Request::Get(GetRequest {
            keys: self.keys,
            consistency: self.freshness.consistency.into(),
            min_revision: self.freshness.min_revision,
            ..GetRequest::default()
        });
        match self.client.read(request, self.freshness.whom(), self.timeout).await? {
            Response::Get(got) if got.results.len() == asked => Ok(Values {
                revision: got.revision,
                entries: got.results.into_iter().map(Entry::of_result).collect(),
            }),
            _ => Err(unexpected_read_answer()),
        }
    }
}

impl<'a> IntoFuture for GetMany<'a> {
    type Output = Result<Values, Error>;
    type IntoFuture = Running<'a, Values>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// A get of one key; await it.
#[must_use = "a call runs once it is awaited"]
pub struct Get<'a> {
    client: &'a Client,
    key: Bytes,
    freshness: Freshness,
    timeout: Option<Duration>,
}

impl Get<'_> {
    timeout_option!();
    freshness_options!();

    async fn run(self) -> Result<Option<Entry>, Error> {
        let Self { client, key, freshness, timeout } = self;
        let values = GetMany { client, keys: vec![key], freshness, timeout }.run().await?;
        Ok(values.entries.into_iter().next().flatten())
    }
}

impl<'a> IntoFuture for Get<'a> {
    type Output = Result<Option<Entry>, Error>;
    type IntoFuture = Running<'a, Option<Entry>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

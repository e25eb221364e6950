//! Scans: a range of keys, all at one revision, page by page.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use connectrpc::client::ServerStream;
use hyper::body::Incoming;
use raftmap_proto::v1::failure::Code;
use raftmap_proto::v1::{ScanRequest, ScanResponse, ScanResponseView};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::call::{Running, freshness_options, timeout_option};
use crate::client::{Client, SCANS_MAX};
use crate::dial::Calls;
use crate::entry::Entry;
use crate::error::{Cause, Error};
use crate::link::Link;
use crate::read::Freshness;
use crate::retry::Failed;

impl Client {
    /// All entries in key order; narrow it down, then await it for the first page.
    pub fn scan(&self) -> Scan<'_> {
        let request = ScanRequest::default();
        Scan { client: self, request, freshness: Freshness::default(), timeout: None }
    }
}

/// The first key that does not begin with `prefix`; `None` if there is none.
fn end_of_prefix(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = BytesMut::from(&prefix[..=last]);
    end[last] += 1;
    Some(end.freeze())
}

/// A scan that has not begun; await it.
#[must_use = "a call runs once it is awaited"]
pub struct Scan<'a> {
    client: &'a Client,
    request: ScanRequest,
    freshness: Freshness,
    timeout: Option<Duration>,
}

impl Scan<'_> {
    timeout_option!();
    freshness_options!();

    /// From this key on, it included.
    pub fn start(mut self, key: impl Into<Bytes>) -> Self {
        self.request.start = key.into();
        self
    }

    /// Up to this key, it excluded.
    pub fn end(mut self, key: impl Into<Bytes>) -> Self {
        self.request.end = key.into();
        self
    }

    /// The keys that begin with these bytes.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Self {
        self.request.start = prefix.into();
        self.request.end = end_of_prefix(&self.request.start).unwrap_or_default();
        self
    }

    /// At most so many entries; 0: all.
    pub fn limit(mut self, entries: u32) -> Self {
        self.request.limit = entries;
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.request.reverse = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Self {
        self.request.keys_only = true;
        self
    }

    /// Opens the scan at a server, at another one if that fails, until a first page is there: up to then nothing binds it
    /// to one server's view.
    async fn open(mut self) -> Result<Pages, Error> {
        self.request.consistency = self.freshness.consistency.into();
        self.request.min_revision = self.freshness.min_revision;
        let page_timeout = self.client.timeout(self.timeout);
        let place = Arc::clone(self.client.scans()).try_acquire_owned().map_err(|_| too_many_scans())?;
        let mut attempts = Attempts::new(self.client.cluster(), page_timeout);
        loop {
            let link = self.client.cluster().pick(self.freshness.whom());
            match first_page(&link, self.request.clone(), attempts.until()).await {
                Ok((stream, calls, first)) => {
                    return Ok(Pages {
                        stream,
                        first: Some(first),
                        state: State::Reading,
                        page_timeout,
                        server: link.server().to_owned(),
                        _calls: calls,
                        _place: place,
                    });
                }
                Err(failed) => {
                    attempts.learn(&link, &failed);
                    attempts.follow(&failed.of_read()).await?;
                }
            }
        }
    }
}

impl<'a> IntoFuture for Scan<'a> {
    type Output = Result<Pages, Error>;
    type IntoFuture = Running<'a, Pages>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}

fn too_many_scans() -> Error {
    Error::NotApplied(Box::new(Cause {
        reason: format!("{SCANS_MAX} scans of this client are open; end or drop one first"),
        code: Some(Code::OVERLOADED),
        limit: SCANS_MAX as u64,
        ..Cause::default()
    }))
}

type PageStream = ServerStream<Incoming, ScanResponseView<'static>>;

async fn first_page(
    link: &Link,
    request: ScanRequest,
    until: Instant,
) -> Result<(PageStream, Arc<Calls>, ScanResponse), Failed> {
    let began = Instant::now();
    let work = async {
        let calls = link.calls().await?;
        let status = |e| Failed::status(link.server(), &e);
        let mut stream = calls.map.scan(request).await.map_err(status)?;
        match stream.message().await.map_err(status)? {
            Some(page) => Ok((stream, calls, page.to_owned_message())),
            None => Err(Failed::lost(link.server(), "the scan ended without a page")),
        }
    };
    match tokio::time::timeout_at(until, work).await {
        Ok(page) => page,
        Err(_) => Err(Failed::timed_out(link.server(), true, until - began)),
    }
}

/// Some entries of a scan, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At which the whole scan reads: the same on every page.
    pub revision: u64,
    /// The entries. They share memory: copy what is kept for long.
    pub entries: Vec<Entry>,
}

/// A scan that runs: its pages, one after the other. Holds one of [`SCANS_MAX`] places until it is dropped, and state at
/// its server: read it without long pauses.
pub struct Pages {
    stream: PageStream,
    /// The page that was read to open the scan.
    first: Option<ScanResponse>,
    state: State,
    page_timeout: Duration,
    server: String,
    /// Keeps the connection.
    _calls: Arc<Calls>,
    _place: OwnedSemaphorePermit,
}

enum State {
    Reading,
    Done { more: bool },
    Failed(Error),
}

impl Pages {
    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// If the server failed or lost the scan's view ([`Code::SCAN_LOST`]), or the connection broke. No other server can
    /// go on at the same revision, so the scan is over; a new one from the last key on is at a later revision.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        match &self.state {
            State::Reading => {}
            State::Done { .. } => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
        }
        match self.read().await {
            Ok(response) => {
                if response.done {
                    self.state = State::Done { more: response.more };
                }
                let entries = response.entries.into_iter().map(Entry::shared).collect();
                Ok(Some(Page { revision: response.revision, entries }))
            }
            Err(failed) => {
                let error = Error::NotApplied(Box::new(Cause { attempts: 1, ..*failed.cause }));
                self.state = State::Failed(error.clone());
                Err(error)
            }
        }
    }

    /// After the last page: whether entries remain beyond the limit.
    pub fn more(&self) -> bool {
        matches!(self.state, State::Done { more: true })
    }

    async fn read(&mut self) -> Result<ScanResponse, Failed> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        match tokio::time::timeout(self.page_timeout, self.stream.message()).await {
            Ok(Ok(Some(page))) => Ok(page.to_owned_message()),
            Ok(Ok(None)) => Err(Failed::lost(&self.server, "the scan was cut off")),
            Ok(Err(e)) => Err(Failed::status(&self.server, &e)),
            Err(_) => Err(Failed::timed_out(&self.server, true, self.page_timeout)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key_that_lacks_it() {
        assert_eq!(end_of_prefix(b"user/"), Some(Bytes::from_static(b"user0")));
        assert_eq!(end_of_prefix(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(end_of_prefix(b"\xff"), None);
        assert_eq!(end_of_prefix(b""), None);
    }
}

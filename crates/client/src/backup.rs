//! Backups: the state of one server as a file, part by part.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::client::ServerStream;
use hyper::body::Incoming;
use raftmap_proto::v1::{BackupRequest, BackupResponse, BackupResponseView};
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::client::Client;
use crate::cluster::Whom;
use crate::dial::Calls;
use crate::error::{Cause, Error};
use crate::link::Link;
use crate::retry::Failed;

/// Longer than a server waits for the next part of its own state.
const PART_TIMEOUT: Duration = Duration::from_secs(60);

type PartStream = ServerStream<Incoming, BackupResponseView<'static>>;

/// A backup on its way. The server holds a view of its state for it: take the parts without long pauses.
pub struct BackupStream {
    stream: PartStream,
    first: Option<Bytes>,
    bytes_expected: u64,
    server: String,
    /// Keeps the connection.
    _calls: Arc<Calls>,
}

impl Client {
    /// Begins a backup of all that was acknowledged before the call, at any server; an operator's certificate is needed. What
    /// comes is not checked here: the file itself says whether it is whole.
    ///
    /// # Errors
    /// [`Error::NotApplied`] if no server could begin one in time.
    pub async fn backup(&self) -> Result<BackupStream, Error> {
        let mut attempts = Attempts::new(self.cluster(), self.timeout(None));
        loop {
            let link = self.cluster().pick(Whom::Any);
            match begin(&link, attempts.until()).await {
                Ok(backup) => return Ok(backup),
                Err(failed) => {
                    attempts.learn(&link, &failed);
                    attempts.follow(&failed.of_read()).await?;
                }
            }
        }
    }
}

async fn begin(link: &Link, until: Instant) -> Result<BackupStream, Failed> {
    let began = Instant::now();
    let work = async {
        let calls = link.calls().await?;
        let status = |e| Failed::status(link.server(), &e);
        let mut stream = calls.cluster.backup(BackupRequest::default()).await.map_err(status)?;
        match stream.message().await.map_err(status)? {
            Some(first) => {
                let BackupResponse { part, bytes_expected, .. } = first.to_owned_message();
                let server = link.server().to_owned();
                Ok(BackupStream { stream, first: Some(part), bytes_expected, server, _calls: calls })
            }
            None => Err(Failed::lost(link.server(), "the backup ended without a part")),
        }
    };
    match tokio::time::timeout_at(until, work).await {
        Ok(begun) => begun,
        Err(_) => Err(Failed::timed_out(link.server(), true, until - began)),
    }
}

impl BackupStream {
    /// About how long the file will be, in bytes, as the server knows.
    pub fn bytes_expected(&self) -> u64 {
        self.bytes_expected
    }

    /// The server that answers (`host:port`).
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The next part of the file; `None` after the last one.
    ///
    /// # Errors
    /// If the server failed or ended the backup, or the connection broke. No other server can go on with it: begin anew.
    pub async fn next_part(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let failed = match tokio::time::timeout(PART_TIMEOUT, self.stream.message()).await {
            Ok(Ok(part)) => return Ok(part.map(|part| part.to_owned_message().part)),
            Ok(Err(e)) => Failed::status(&self.server, &e),
            Err(_) => Failed::timed_out(&self.server, true, PART_TIMEOUT),
        };
        Err(Error::NotApplied(Box::new(Cause { attempts: 1, ..*failed.cause })))
    }
}

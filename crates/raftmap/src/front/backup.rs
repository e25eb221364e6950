//! `Backup`: the parts of a file, sent as the caller takes them.
//!
//! The view that they are read from keeps old data alive. So there is one backup at a time, and one that takes too long, in
//! whole or over one part, is ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use connectrpc::{ConnectError, ServiceStream};
use futures::{Stream, StreamExt};
use raftmap_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant as TokioInstant, timeout, timeout_at};

use super::access::Caller;
use super::arrival::Arrival;
use super::calls::Calls;
use super::{FrontDoorConfig, convert, status};
use crate::api::{Backup, Code, Failure, ReadAndWrite};

/// The largest message, in bytes: callers take messages of a limited size, and a row may be larger.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// Begins a backup; its parts follow as a stream.
pub(super) async fn open<N: ReadAndWrite>(
    calls: &Calls<N>,
    caller: &Caller,
    request: v1::BackupRequest,
    arrival: &Arrival,
) -> Result<ServiceStream<v1::BackupResponse>, Failure> {
    let call = convert::cluster_call(request.request_id, arrival)?;
    let place = Arc::clone(&calls.backups).try_acquire_owned().map_err(|_| {
        let reason = "another backup of this server is under way; ask another server, or later";
        Failure::not_applied(Code::Overloaded, reason).over_limit(1)
    })?;
    let backup = calls.node.on_behalf(&*caller.rights()?).backup(call).await?;
    let bytes_expected = backup.bytes_expected;
    let (sender, receiver) = mpsc::channel(1);
    let config = Arc::clone(&calls.config);
    let caller = caller.clone();
    tokio::spawn(async move {
        let until = TokioInstant::now() + config.backup_time_max;
        // Whoever reads learns of a feed that was ended by its end before the last part.
        let _ended = timeout_at(until, feed(backup, &caller, sender, &config, place)).await;
    });
    Ok(Box::pin(Parts { receiver, bytes_expected, ended: false }))
}

/// What is to be sent next; `None`: that was all.
type Next = Option<Result<Bytes, Failure>>;

/// Hands on parts, as long as the node gives and the caller takes each in time, and may still have it.
async fn feed(
    mut backup: Backup,
    caller: &Caller,
    sender: mpsc::Sender<Next>,
    config: &FrontDoorConfig,
    _place: OwnedSemaphorePermit,
) {
    let stall_timeout = config.backup_stall_timeout;
    while let Ok(next) = timeout(stall_timeout, backup.parts.next()).await {
        let mut part = match caller.check_admin().map(|()| next).unwrap_or_else(|failure| Some(Err(failure)))
        {
            Some(Ok(part)) => part,
            last => {
                let _caller_gone = timeout(stall_timeout, sender.send(last)).await;
                return;
            }
        };
        while !part.is_empty() {
            let message = part.split_to(part.len().min(MESSAGE_BYTES_MAX));
            if !matches!(timeout(stall_timeout, sender.send(Some(Ok(message)))).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// The messages of a backup. One that ends before its last part says so.
struct Parts {
    receiver: mpsc::Receiver<Next>,
    /// Told once.
    bytes_expected: u64,
    ended: bool,
}

impl Stream for Parts {
    type Item = Result<v1::BackupResponse, ConnectError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.receiver.poll_recv(cx)).unwrap_or_else(|| {
            let reason =
                "the backup was ended: it took too long, in whole or from one part to the next; begin anew";
            Some(Err(Failure::not_applied(Code::Deadline, reason)))
        });
        let message = next.map(|part| {
            let bytes_expected = std::mem::take(&mut self.bytes_expected);
            part.map(|part| v1::BackupResponse { part, bytes_expected })
                .map_err(|failure| status::error(&failure))
        });
        self.ended = !matches!(message, Some(Ok(_)));
        Poll::Ready(message)
    }
}

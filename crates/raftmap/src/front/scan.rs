//! `Scan`: pages of one snapshot, sent as the client takes them.
//!
//! A snapshot keeps old data alive, so a client that stops taking pages loses its scan after a while.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use connectrpc::{ConnectError, ServiceStream};
use futures::{Stream, StreamExt};
use raftmap_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use super::access::Caller;
use super::arrival::Arrival;
use super::calls::Calls;
use super::{convert, status};
use crate::api::{Code, Failure, ReadAndWrite, ScanPage, ScanPages};

/// Opens a scan; the pages follow as a stream.
pub(super) async fn open<N: ReadAndWrite>(
    calls: &Calls<N>,
    caller: &Caller,
    request: v1::ScanRequest,
    arrival: &Arrival,
) -> Result<ServiceStream<v1::ScanResponse>, Failure> {
    let config = &calls.config;
    let page_bytes_max = config.scan_page_bytes.min(calls.node.limits().answer_bytes_max);
    let input = convert::scan(request, page_bytes_max, arrival)?;
    let place = Arc::clone(&calls.scans).try_acquire_owned().map_err(|_| {
        Failure::not_applied(Code::Overloaded, "this server runs as many scans as it may at once")
            .over_limit(config.scans_max as u64)
    })?;
    let request_id = input.call.request_id.clone();
    let range = input.scan.clone();
    let pages = calls.node.on_behalf(&*caller.rights()?).scan(input).await?;
    let (sender, receiver) = mpsc::channel(1);
    let caller = caller.clone();
    let allowed = move || caller.rights()?.check_scan(&range);
    tokio::spawn(feed(pages, allowed, sender, config.scan_stall_timeout, place));
    Ok(Box::pin(Pages { receiver, request_id, ended: false }))
}

/// Hands on pages, as long as the node gives and the client takes each in time, and may still have it.
async fn feed(
    mut pages: ScanPages,
    allowed: impl Fn() -> Result<(), Failure>,
    sender: mpsc::Sender<Result<ScanPage, Failure>>,
    stall_timeout: Duration,
    _place: OwnedSemaphorePermit,
) {
    while let Ok(Some(page)) = timeout(stall_timeout, pages.next()).await {
        let page = allowed().and(page);
        if !matches!(timeout(stall_timeout, sender.send(page)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The messages of a scan. One that ends before its last page says so.
struct Pages {
    receiver: mpsc::Receiver<Result<ScanPage, Failure>>,
    request_id: String,
    ended: bool,
}

impl Stream for Pages {
    type Item = Result<v1::ScanResponse, ConnectError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let page = std::task::ready!(self.receiver.poll_recv(cx)).unwrap_or_else(|| {
            let reason = "the scan took too long between two pages and was ended: scan on from the last key";
            Err(Failure::not_applied(Code::ScanLost, reason))
        });
        self.ended = page.as_ref().map_or(true, |page| page.last);
        let message = page.map(|page| convert::scan_response(self.request_id.clone(), page));
        Poll::Ready(Some(message.map_err(|failure| status::error(&failure))))
    }
}

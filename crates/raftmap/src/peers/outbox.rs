//! What waits to be sent to one peer over one connection.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use raftmap_replica::{PeerBatch, PeerMessage};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::wire::message_bytes;

/// A queue from the replica, which never waits, to the writer of a connection. Batches that wait together leave together.
///
/// A batch for which there is no room is dropped: consensus makes up for lost messages, and a queue that never says no
/// would only make them late. An empty queue takes any batch, so that none is too large to be sent at all; its memory is
/// bounded by the limits and one batch.
#[derive(Debug)]
pub(super) struct Outbox {
    limits: OutboxLimits,
    queue: Mutex<Queue>,
    filled: Notify,
    refused: CancellationToken,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutboxLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// The newest batch without its messages: what it says of the sender; `None` if nothing is new.
    header: Option<PeerBatch>,
    messages: VecDeque<(PeerMessage, usize)>,
    bytes: usize,
    end: Option<End>,
}

/// How the stream is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// At once, and the other side is told why.
    Refused(Refusal),
    /// After what waits.
    Stopped,
}

/// What is to be sent next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Messages; more may be waiting.
    Batch(PeerBatch),
    /// Why the other side may not take part; nothing follows.
    Refusal(Refusal),
    /// Nothing any more.
    End,
}

impl Outbox {
    pub(super) fn new(limits: OutboxLimits) -> Self {
        Self { limits, queue: Mutex::default(), filled: Notify::new(), refused: CancellationToken::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it holds this lock")
    }

    /// Takes the batch, or drops it if the queue is full or about to end. Says whether it was taken.
    pub(super) fn push(&self, batch: PeerBatch) -> bool {
        let sized = |message| {
            let bytes = message_bytes(&message);
            (message, bytes)
        };
        let mut header = batch;
        let messages: Vec<_> = std::mem::take(&mut header.messages).into_iter().map(sized).collect();
        let bytes: usize = messages.iter().map(|message| message.1).sum();
        let mut queue = self.queue();
        let full = queue.messages.len() + messages.len() > self.limits.messages
            || queue.bytes + bytes > self.limits.bytes;
        if queue.end.is_some() || (full && !queue.messages.is_empty()) {
            return false;
        }
        queue.header = Some(header);
        queue.messages.extend(messages);
        queue.bytes += bytes;
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// The next messages, as many as make up `bytes` or one that is larger. Waits for some. For one reader.
    pub(super) async fn next(&self, bytes: usize) -> Outgoing {
        loop {
            if let Some(outgoing) = self.queue().take(bytes) {
                return outgoing;
            }
            self.filled.notified().await;
        }
    }

    /// Ends the stream with a refusal, and forgets what waits.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.queue().end = Some(End::Refused(refusal));
        self.refused.cancel();
        self.filled.notify_one();
    }

    /// Waits for a refusal, and says why.
    pub(super) async fn refused(&self) -> Refusal {
        self.refused.cancelled().await;
        match &self.queue().end {
            Some(End::Refused(refusal)) => refusal.clone(),
            _ => unreachable!("a refusal is never taken back"),
        }
    }

    /// Ends the stream when what waits is sent.
    pub(super) fn stop(&self) {
        self.queue().end.get_or_insert(End::Stopped);
        self.filled.notify_one();
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.queue().bytes
    }
}

impl Queue {
    fn take(&mut self, bytes_max: usize) -> Option<Outgoing> {
        if let Some(End::Refused(refusal)) = &self.end {
            return Some(Outgoing::Refusal(refusal.clone()));
        }
        let Some(header) = &self.header else {
            return self.end.is_some().then_some(Outgoing::End);
        };
        let header = header.clone();
        let mut messages = Vec::new();
        let mut bytes = 0;
        while let Some((message, size)) = self.messages.pop_front() {
            if !messages.is_empty() && bytes + size > bytes_max {
                self.messages.push_front((message, size));
                break;
            }
            bytes += size;
            messages.push(message);
        }
        self.bytes -= bytes;
        if self.messages.is_empty() {
            self.header = None;
        }
        Some(Outgoing::Batch(PeerBatch { messages, ..header }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raftmap_raft::LogIndex;
    use raftmap_replica::Forward;

    use super::*;

    fn forward(sequence: u64, size: usize) -> PeerMessage {
        PeerMessage::Forward(Forward { sequence, timeout_ms: 0, command: vec![0; size].into() })
    }

    fn batch(clock_ms: u64, messages: Vec<PeerMessage>) -> PeerBatch {
        PeerBatch { clock_ms, applied: LogIndex(clock_ms), messages, ..PeerBatch::default() }
    }

    fn outbox(messages: usize, bytes: usize) -> Outbox {
        Outbox::new(OutboxLimits { messages, bytes })
    }

    #[tokio::test]
    async fn batches_that_wait_together_leave_together_in_order_with_the_newest_header() {
        let outbox = outbox(100, 1 << 20);
        assert!(outbox.push(batch(1, vec![forward(1, 10), forward(2, 10)])));
        assert!(outbox.push(batch(2, vec![forward(3, 10)])));
        let merged = batch(2, vec![forward(1, 10), forward(2, 10), forward(3, 10)]);
        assert_eq!(outbox.next(1 << 20).await, Outgoing::Batch(merged));
        assert_eq!(outbox.bytes(), 0);
    }

    #[tokio::test]
    async fn a_frame_ends_at_its_size_and_a_larger_message_travels_alone() {
        let outbox = outbox(100, 1 << 20);
        let messages = vec![forward(1, 100), forward(2, 100), forward(3, 5000), forward(4, 100)];
        assert!(outbox.push(batch(1, messages)));
        for expected in
            [vec![forward(1, 100), forward(2, 100)], vec![forward(3, 5000)], vec![forward(4, 100)]]
        {
            assert_eq!(outbox.next(500).await, Outgoing::Batch(batch(1, expected)));
        }
        outbox.stop();
        assert_eq!(outbox.next(500).await, Outgoing::End);
    }

    #[test]
    fn a_full_queue_drops_the_batch_and_an_empty_one_takes_any() {
        let by_bytes = outbox(100, 1000);
        assert!(by_bytes.push(batch(1, vec![forward(1, 5000)])), "it is empty");
        assert!(!by_bytes.push(batch(2, vec![forward(2, 1)])), "it is over its bytes");
        let by_count = outbox(2, 1 << 20);
        assert!(by_count.push(batch(1, vec![forward(1, 1)])));
        assert!(!by_count.push(batch(2, vec![forward(2, 1), forward(3, 1)])), "three messages are too many");
        assert!(by_count.push(batch(3, vec![forward(4, 1)])));
    }

    #[tokio::test]
    async fn a_batch_without_messages_tells_of_its_sender() {
        let outbox = outbox(1, 1);
        assert!(outbox.push(batch(5, Vec::new())));
        assert_eq!(outbox.next(10).await, Outgoing::Batch(batch(5, Vec::new())));
    }

    #[tokio::test]
    async fn a_refusal_overtakes_what_waits_and_a_stop_does_not() {
        let stopped = outbox(10, 1 << 20);
        assert!(stopped.push(batch(1, vec![forward(1, 1)])));
        stopped.stop();
        assert!(!stopped.push(batch(2, vec![forward(2, 1)])), "it is about to end");
        assert_eq!(stopped.next(10).await, Outgoing::Batch(batch(1, vec![forward(1, 1)])));
        assert_eq!(stopped.next(10).await, Outgoing::End);

        let refused = outbox(10, 1 << 20);
        assert!(refused.push(batch(1, vec![forward(1, 1)])));
        refused.stop();
        let refusal = Refusal::from("wiped".to_owned());
        refused.refuse(refusal.clone());
        assert_eq!(refused.next(10).await, Outgoing::Refusal(refusal));
    }

    #[tokio::test]
    async fn the_reader_is_woken_by_what_comes() {
        let outbox = std::sync::Arc::new(outbox(10, 1 << 20));
        let reader = tokio::spawn({
            let outbox = std::sync::Arc::clone(&outbox);
            async move { outbox.next(10).await }
        });
        tokio::task::yield_now().await;
        let message = PeerMessage::Forward(Forward { sequence: 1, timeout_ms: 0, command: Bytes::new() });
        assert!(outbox.push(batch(1, vec![message.clone()])));
        assert_eq!(reader.await.unwrap(), Outgoing::Batch(batch(1, vec![message])));
    }
}

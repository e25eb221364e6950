//! One HTTP/2 connection between two servers: set up, watched, and brought to its end.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, client, server};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::PeerLimits;
use super::watched::{Seen, Watched};

/// Bytes that a peer may send before they are read. Not adaptive: a window that grows with the delay is memory that the
/// peer decides on. There is one stream, so the connection needs no more.
const WINDOW_BYTES: u32 = 1 << 20;

/// Bytes that wait in HTTP/2 for the socket.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// No frame that a server sends is shorter: envelope, group, clock, digest.
pub(super) const FRAME_BYTES_MIN: usize = 32;

/// `h2` closes a connection on which too many small frames stay unread; it counts for each what is missing to this.
const SMALL_FRAME_BYTES: usize = 256;

/// While the replica is busy, its peers' frames stay unread: a whole window of the shortest ones must not end the
/// connection.
const SMALL_FRAMES_BUDGET: usize = WINDOW_BYTES as usize / FRAME_BYTES_MIN * SMALL_FRAME_BYTES;

const HEAD_BYTES_MAX: u32 = 4096;

/// How long the other side may take to read why it is refused, and to close its side.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// A call that came in on an accepted connection.
pub(super) type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A connection, kept going by a task of its own. Dropping it closes the socket at once.
#[derive(Debug)]
pub(super) struct Connection {
    driver: AbortOnDropHandle<Result<(), Lost>>,
    finish: CancellationToken,
}

/// Why a connection is no more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// Nothing came for too long, though it was asked for.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// The socket, TLS or HTTP/2 failed.
    #[error("{0}")]
    Broken(String),
}

impl Connection {
    /// Starts HTTP/2 on a connection that this server dialed.
    pub(super) async fn of_dialed<IO>(
        io: IO,
        limits: &PeerLimits,
    ) -> Result<(Self, client::SendRequest<Bytes>), h2::Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        let (requests, mut connection) = client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .max_header_list_size(HEAD_BYTES_MAX)
            .enable_push(false)
            .handshake(Watched { io, seen: Arc::clone(&seen) })
            .await?;
        let pings = connection.ping_pong().expect("the pings of a new connection were not taken yet");
        let driver = drive(
            connection,
            watch(pings, Arc::clone(&seen), limits.ping_interval, limits.pings_missed_max),
            seen,
        );
        Ok((Self::spawn(driver, CancellationToken::new()), requests))
    }

    /// Starts HTTP/2 on a connection that this server accepted. Its first call is received; further ones are refused.
    pub(super) async fn of_accepted<IO>(
        io: IO,
        limits: &PeerLimits,
    ) -> Result<(Self, mpsc::Receiver<Call>), Lost>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let seen = Arc::new(Seen::default());
        let mut connection = server::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .data_frame_budget(SMALL_FRAMES_BUDGET)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_concurrent_streams(1)
            .handshake(Watched { io, seen: Arc::clone(&seen) })
            .await
            .map_err(|error| seen.lost(&error))?;
        let pings = connection.ping_pong().expect("the pings of a new connection were not taken yet");
        let (calls, first_call) = mpsc::channel(1);
        let finish = CancellationToken::new();
        let served = serve(connection, calls, finish.clone());
        let driver = drive(
            served,
            watch(pings, Arc::clone(&seen), limits.ping_interval, limits.pings_missed_max),
            seen,
        );
        Ok((Self::spawn(driver, finish), first_call))
    }

    fn spawn(
        driver: impl Future<Output = Result<(), Lost>> + Send + 'static,
        finish: CancellationToken,
    ) -> Self {
        Self { driver: AbortOnDropHandle::new(tokio::spawn(driver)), finish }
    }

    /// Lets the other side read what was sent, and close, within this time; then closes.
    pub(super) async fn finish(self, within: Duration) {
        self.finish.cancel();
        let _ = timeout(within, self.driver).await;
    }

    /// Why it broke, if it did: more than a broken stream knows.
    pub(super) async fn lost(self) -> Option<Lost> {
        // Streams hear of it before the driver has ended.
        match timeout(LINGER, self.driver).await {
            Ok(Ok(Err(lost))) => Some(lost),
            _ => None,
        }
    }
}

async fn drive(
    connection: impl Future<Output = Result<(), h2::Error>>,
    silence: impl Future<Output = Duration>,
    seen: Arc<Seen>,
) -> Result<(), Lost> {
    tokio::select! {
        result = connection => result.map_err(|error| seen.lost(&error)),
        silence = silence => Err(Lost::Silent(silence)),
    }
}

async fn serve<IO>(
    mut connection: server::Connection<IO, Bytes>,
    calls: mpsc::Sender<Call>,
    finish: CancellationToken,
) -> Result<(), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut finishing = false;
    loop {
        let call = tokio::select! {
            call = connection.accept() => call,
            () = finish.cancelled(), if !finishing => {
                connection.graceful_shutdown();
                finishing = true;
                continue;
            }
        };
        let Some(call) = call else { return Ok(()) };
        if let Err(TrySendError::Full(call) | TrySendError::Closed(call)) = calls.try_send(call?) {
            let (_, mut respond) = call;
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    }
}

/// Asks the other side for a sign of life when nothing came for a while. Ends when nothing at all came for too long: a peer
/// that is busy sending, or slow to take what is sent to it, is not silent.
async fn watch(mut pings: PingPong, seen: Arc<Seen>, every: Duration, misses_max: u32) -> Duration {
    let mut looks = interval(every);
    // Who was stopped for a while itself has not listened, and starts again.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut misses) = (seen.bytes(), 0);
    loop {
        looks.tick().await;
        let now = seen.bytes();
        if now != before {
            (before, misses) = (now, 0);
            continue;
        }
        misses += 1;
        if misses > misses_max {
            return every * misses_max;
        }
        // Takes the last answer, if one came, so that the next question can be asked.
        poll_fn(|context| Poll::Ready(pings.poll_pong(context).is_ready())).await;
        // One that is still under way is the question.
        let _ = pings.send_ping(Ping::opaque());
    }
}

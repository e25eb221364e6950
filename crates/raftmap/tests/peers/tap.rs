//! A cable that counts, holds, spoils and cuts what comes back over it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use crate::servers::listener;

/// Passes connections on.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    plan: watch::Sender<Plan>,
    counts: Arc<Counts>,
}

/// What happens to the bytes that come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Where connections lead.
    pub(crate) to: SocketAddr,
    /// A connection is cut behind this many.
    pub(crate) cut_at: Option<u64>,
    /// In this many connections from now on, a bit is flipped in the byte at this place.
    pub(crate) flip: Option<(u64, u64)>,
    /// No more than this many pass, of all connections together.
    pub(crate) hold_at: Option<u64>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Tap {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let (listener, address) = listener().await;
        let (plan, changes) = watch::channel(Plan { to, cut_at: None, flip: None, hold_at: None });
        let counts = Arc::<Counts>::default();
        let counting = Arc::clone(&counts);
        tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { return };
                let number = counting.connections.fetch_add(1, Ordering::SeqCst);
                let to = changes.borrow().to;
                let Ok(far) = TcpStream::connect(to).await else { continue };
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(forth(near_read, far_write));
                let counts = Arc::clone(&counting);
                tokio::spawn(back(far_read, near_write, number, changes.clone(), counts));
            }
        });
        Self { address, plan, counts }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Plan)) {
        self.plan.send_modify(change);
    }

    pub(crate) fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Bytes that came back.
    pub(crate) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::SeqCst)
    }
}

async fn forth(mut near: OwnedReadHalf, mut far: OwnedWriteHalf) {
    let _ = copy(&mut near, &mut far).await;
    // What comes when the far end is gone must not reset the connection: what was sent last is to be read.
    let _ = copy(&mut near, &mut sink()).await;
}

async fn back(
    mut far: OwnedReadHalf,
    mut near: OwnedWriteHalf,
    number: u64,
    mut changes: watch::Receiver<Plan>,
    counts: Arc<Counts>,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let plan = *changes.borrow_and_update();
        let left = plan.cut_at.map_or(u64::MAX, |at| at.saturating_sub(passed));
        if left == 0 {
            return;
        }
        let held = plan.hold_at.map_or(u64::MAX, |at| at.saturating_sub(counts.bytes.load(Ordering::SeqCst)));
        let room = usize::try_from(left.min(held)).unwrap_or(usize::MAX).min(buffer.len());
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            read = far.read(&mut buffer[..room]), if room > 0 => match read {
                Ok(bytes) if bytes > 0 => {
                    if let Some((connections, at)) = plan.flip
                        && number < connections
                        && let Some(at) = at.checked_sub(passed).filter(|at| *at < bytes as u64)
                    {
                        buffer[usize::try_from(at).unwrap()] ^= 1;
                    }
                    passed += bytes as u64;
                    counts.bytes.fetch_add(bytes as u64, Ordering::SeqCst);
                    if near.write_all(&buffer[..bytes]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}

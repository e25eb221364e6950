//! A cable between two servers that can be cut, or go dead.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use crate::servers::listener;

/// Passes connections on to `to`.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    /// Connections with a lower number are closed.
    cut: u64,
    /// Connections with a lower number stay open, and nothing passes.
    dead: u64,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let (listener, address) = listener().await;
        let (state, changes) = watch::channel(State { cut: 0, dead: 0 });
        tokio::spawn(async move {
            for number in 0.. {
                let Ok((from, _)) = listener.accept().await else { return };
                let Ok(to) = TcpStream::connect(to).await else { continue };
                let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
                tokio::spawn(pass(from_read, to_write, number, changes.clone()));
                tokio::spawn(pass(to_read, from_write, number, changes.clone()));
            }
        });
        Self { address, state }
    }

    /// Closes the connections that there are, up to `number` in the order in which they came.
    pub(crate) fn cut(&self, number: u64) {
        self.state.send_modify(|state| state.cut = number);
    }

    /// Lets nothing pass on the connections that there are, up to `number` in the order in which they came.
    pub(crate) fn kill(&self, number: u64) {
        self.state.send_modify(|state| state.dead = number);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    mut changes: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let State { cut, dead } = *changes.borrow_and_update();
        if number < cut {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer), if number >= dead => match read {
                Ok(bytes) if bytes > 0 => if to.write_all(&buffer[..bytes]).await.is_err() { return },
                _ => return,
            },
        }
    }
}

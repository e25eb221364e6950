//! What ends a server in good order.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::super::exit::Failure;

/// What ends a server in good order.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    stdin_ended: Arc<Notify>,
}

impl Stop {
    pub(super) fn listen(with_stdin: bool) -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::Failed(format!("no signals: {error}")));
        let stdin_ended = Arc::new(Notify::new());
        if with_stdin {
            let ended = Arc::clone(&stdin_ended);
            let wait = move || {
                // What comes is of no interest; an error is an end, too.
                let _end = io::copy(&mut io::stdin().lock(), &mut io::sink());
                ended.notify_one();
            };
            // A thread that nobody joins: a read of standard input cannot be called off.
            std::thread::Builder::new()
                .name("raftmap-stdin".to_owned())
                .spawn(wait)
                .map_err(|error| Failure::Failed(format!("no thread: {error}")))?;
        }
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            stdin_ended,
        })
    }

    pub(super) async fn wait(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = self.stdin_ended.notified() => "standard input ended",
        }
    }
}

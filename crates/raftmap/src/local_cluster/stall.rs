//! A disk that does not answer, for a while, as far as a server can tell: the thread that writes its log stands still.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// As [`crate::runtime`] names it.
const LOG_THREAD: &str = "raftmap-log";

/// A log thread that is held, by `ptrace`: of a child of this process, which takes no privilege. It goes on when this is dropped.
#[derive(Debug)]
pub(super) struct Stall {
    /// Dropped to let it go.
    hold: Option<Sender<Infallible>>,
    holder: Option<JoinHandle<()>>,
}

impl Stall {
    /// Holds the log thread of a server. When this returns it stands still.
    pub(super) fn begin(server: u32) -> io::Result<Self> {
        let log_thread = thread_of(server, LOG_THREAD)?;
        let (told, is_held) = mpsc::channel();
        let (hold, held) = mpsc::channel::<Infallible>();
        // Only the thread that took hold of another one may let it go.
        let holder = Builder::new().name("stall".to_owned()).spawn(move || {
            let stopped = stop(log_thread);
            let is_held = stopped.is_ok();
            if told.send(stopped).is_ok() && is_held {
                // Nothing is ever sent: the sender is dropped.
                let _let_go = held.recv();
            }
            // One that was killed meanwhile is gone with its process.
            let _gone = ptrace::detach(log_thread, None);
        })?;
        let stall = Self { hold: Some(hold), holder: Some(holder) };
        is_held.recv().map_err(io::Error::other)??;
        Ok(stall)
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.hold = None;
        if let Some(holder) = self.holder.take() {
            // One that panicked has told so.
            let _panicked = holder.join();
        }
    }
}

fn stop(thread: Pid) -> Result<(), Errno> {
    ptrace::seize(thread, Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL)).map(drop)
}

fn thread_of(process: u32, name: &str) -> io::Result<Pid> {
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let entry = entry?;
        // A thread may end while they are listed.
        let is_it = fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        if let (true, Some(id)) = (is_it, entry.file_name().to_str().and_then(|id| id.parse().ok())) {
            return Ok(Pid::from_raw(id));
        }
    }
    Err(io::Error::other(format!("it has no thread {name} (yet)")))
}

//! One server as a process of its own.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use raftmap_raft::NodeId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::LocalClusterError;
use super::stall::Stall;

/// How long to wait for what must happen: generous, as nothing is measured by it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// How much of a server's log an error quotes.
const QUOTED_LINES: usize = 5;

/// A `raftmap serve` that this program has started. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct ServerProcess {
    id: NodeId,
    child: Child,
    log: PathBuf,
    stall: Option<Stall>,
}

impl ServerProcess {
    /// Starts `command` with its output appended to `log`. Terminals and their Ctrl-C do not reach it, and it ends with
    /// this program, whatever ends that: its standard input is a pipe that nothing else holds.
    pub(super) fn spawn(id: NodeId, mut command: Command, log: &Path) -> Result<Self, LocalClusterError> {
        let open = || -> io::Result<(File, File)> {
            let file = OpenOptions::new().create(true).append(true).open(log)?;
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().map_err(LocalClusterError::io("open", log))?;
        command.stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0);
        let program = PathBuf::from(command.get_program());
        let child = command.spawn().map_err(LocalClusterError::io("start", &program))?;
        Ok(Self { id, child, log: log.to_owned(), stall: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs; a paused one does.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `ready` is there.
    pub(super) async fn wait_ready(&mut self, ready: &Path) -> Result<(), LocalClusterError> {
        let began = Instant::now();
        while !ready.exists() {
            if let Some(status) = self.exit_status()? {
                return Err(LocalClusterError::Ended { id: self.id, status, last_lines: self.last_lines() });
            }
            self.still(began, "ready")?;
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until it has ended.
    pub(super) async fn wait_exit(&mut self) -> Result<ExitStatus, LocalClusterError> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.exit_status()? {
                return Ok(status);
            }
            self.still(began, "at its end")?;
            sleep(POLL).await;
        }
    }

    /// Kills it with SIGKILL and waits until it is gone, so that its files and ports are free.
    pub(super) fn kill(&mut self) -> Result<(), LocalClusterError> {
        let killed = self.child.kill();
        // It is dead; a thread that is held would keep it from being gone.
        self.let_go();
        killed.and_then(|()| self.child.wait()).map_err(self.failed("kill"))?;
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), LocalClusterError> {
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|error| self.failed("send a signal to")(error.into()))
    }

    /// Has its disk answer nothing more, until [`Self::let_go`].
    pub(super) fn stall_disk(&mut self) -> Result<(), LocalClusterError> {
        if self.stall.is_none() {
            self.stall = Some(Stall::begin(self.pid()).map_err(self.failed("hold the log thread of"))?);
        }
        Ok(())
    }

    /// Has its disk answer again.
    pub(super) fn let_go(&mut self) {
        self.stall = None;
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>, LocalClusterError> {
        let status = self.child.try_wait();
        status.map_err(self.failed("wait for"))
    }

    fn still(&self, began: Instant, awaited: &'static str) -> Result<(), LocalClusterError> {
        if began.elapsed() < PATIENCE {
            return Ok(());
        }
        Err(LocalClusterError::TimedOut { id: self.id, awaited, last_lines: self.last_lines() })
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> LocalClusterError + use<> {
        let path = PathBuf::from(format!("server {}", self.id));
        move |source| LocalClusterError::Io { operation, path, source }
    }

    fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // What is gone already cannot be killed, and that is all that can fail.
        let _gone = self.kill();
    }
}

/// What the environment says to a server or a client is not said to this one.
pub(super) fn forget_settings(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("RAFTMAP_")) {
        command.env_remove(name);
    }
}

/// The command that serves a data directory.
pub(super) fn serve_command<'a>(
    program: &Path,
    arguments: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Command {
    let mut command = Command::new(program);
    forget_settings(&mut command);
    command.arg("serve").arg("--stop-with-stdin");
    for (flag, value) in arguments {
        command.arg(flag).arg(value);
    }
    command
}

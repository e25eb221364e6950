//! The binary, run as users run it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use raftmap::local_cluster::{LocalCluster, LocalPlan};
use raftmap_raft::NodeId;
use tempfile::TempDir;

/// The binary, without what the environment of the tests might tell it.
pub(crate) fn raftmap() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftmap"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RAFTMAP_") {
            command.env_remove(name);
        }
    }
    command
}

/// How a command has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    fn new(output: Output) -> Self {
        let err = String::from_utf8(output.stderr).unwrap();
        Self { code: output.status.code(), out: output.stdout, err }
    }

    /// What it printed, of a command that did what it was asked.
    pub(crate) fn text(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        String::from_utf8(self.out).unwrap()
    }

    /// What it printed, as JSON.
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// What it said, of a command that ended with `code`.
    #[track_caller]
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.err
    }
}

/// Runs `command` to its end, with nothing on its standard input.
pub(crate) fn run(command: &mut Command) -> Ended {
    Ended::new(command.stdin(Stdio::null()).output().unwrap())
}

/// Runs `command` to its end, with `input` on its standard input.
pub(crate) fn run_with(command: &mut Command, input: &[u8]) -> Ended {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    Ended::new(child.wait_with_output().unwrap())
}

/// A cluster of one server, with certificates.
pub(crate) struct OneServer {
    pub(crate) cluster: LocalCluster,
    pub(crate) folder: TempDir,
}

pub(crate) const SERVER: NodeId = NodeId(1);

impl OneServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for `serve`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut plan = LocalPlan::new(env!("CARGO_BIN_EXE_raftmap"), folder.path().join("c"), 1).unwrap();
        plan.serve_arguments.extend(arguments.iter().map(Into::into));
        let mut cluster = plan.found().unwrap();
        runtime.block_on(cluster.start_all()).unwrap();
        Self { cluster, folder }
    }

    /// A command with the server's address and a client's certificate in its environment.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = raftmap();
        command.args(arguments);
        command.env("RAFTMAP_ENDPOINTS", self.cluster.endpoints().join(","));
        command.env("RAFTMAP_CERTS", self.cluster.certs_dir());
        command
    }

    /// Runs a command of words without spaces.
    pub(crate) fn run(&self, line: &str) -> Ended {
        run(&mut self.command(line.split_whitespace()))
    }

    /// A file in the test's folder.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> std::path::PathBuf {
        write(self.folder.path(), name, content)
    }
}

/// A file in a folder.
pub(crate) fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

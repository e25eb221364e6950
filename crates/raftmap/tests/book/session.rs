//! One bash, in a folder of its own, for the commands of a page.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// Longer than any command of a page takes: the demo, half a minute on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// What no command prints, before its exit code.
const MARK: &str = "\u{1e}exit ";

/// What a command came to.
pub(crate) struct Came {
    pub(crate) output: String,
    pub(crate) code: i32,
}

/// One bash. Dropped, it ends with everything that was started in it.
pub(crate) struct Session {
    bash: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    folder: TempDir,
    commands: usize,
}

impl Session {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["page", "commands"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc"]).current_dir(folder.path().join("page"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFTMAP_") {
                bash.env_remove(name);
            }
        }
        let built = Path::new(env!("CARGO_BIN_EXE_raftmap")).parent().unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([built.to_owned()].into_iter().chain(std::env::split_paths(&path)));
        // Other tests run at the same time: what takes long is to be waited for.
        bash.env("PATH", path.unwrap()).env("LC_ALL", "C.UTF-8").env("RAFTMAP_TIMEOUT_MS", "50000");
        bash.stdin(Stdio::piped()).stdout(writer.try_clone().unwrap()).stderr(writer);
        // A group of its own: who ends it ends all that the page has started, and nothing else.
        let mut bash = bash.process_group(0).spawn().unwrap();
        let mut input = bash.stdin.take().unwrap();
        // So that it ends its group also when this process is ended from outside: its input ends then.
        input.write_all(b"trap 'kill -KILL 0' EXIT\n").unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { bash, input, output, folder, commands: 0 }
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// What happened instead of its end.
    pub(crate) fn run(&mut self, command: &str) -> Result<Came, String> {
        self.commands += 1;
        let file = self.commands_folder().join(self.commands.to_string());
        fs::write(&file, format!("{command}\n")).unwrap();
        let line = format!(". {} </dev/null; printf '\\n{MARK}%d\\n' $?\n", file.display());
        self.input.write_all(line.as_bytes()).map_err(|error| format!("the shell is gone: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes);
            let end = text.split_once(&format!("\n{MARK}"));
            // What bash tells of jobs that were killed may come behind it.
            if let Some((output, code)) =
                end.and_then(|(output, rest)| Some((output, rest.split_once('\n')?.0)))
            {
                let code = code.parse().map_err(|_| format!("no exit code: {code:?}"))?;
                return Ok(Came { output: self.without_notices(output), code });
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(more) => bytes.extend(more),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("it has not ended after {PATIENCE:?}; so far: {text}"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("the shell ended: {text}")),
            }
        }
    }

    fn commands_folder(&self) -> PathBuf {
        self.folder.path().join("commands")
    }

    /// What a command printed, but for what the shell itself says of background processes that were killed.
    fn without_notices(&self, output: &str) -> String {
        let folder = self.commands_folder().display().to_string();
        let is_notice = |line: &str| {
            let of_shell = line.starts_with("bash: line ") || line.starts_with(&folder);
            of_shell && (line.contains(" Killed ") || line.contains(" Terminated "))
        };
        output.lines().filter(|line| !is_notice(line)).map(|line| format!("{line}\n")).collect()
    }

    /// The last lines of the logs that lie in the page's folder, at any depth of one.
    pub(crate) fn logs(&self) -> String {
        let mut folders = vec![self.folder.path().join("page")];
        let mut text = String::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    let log = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
                    let lines: Vec<&str> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(3)..].join("\n");
                    text.push_str(&format!("{}:\n{last}\n", path.display()));
                }
            }
        }
        text
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // There may be nobody left.
        let _gone = kill_process_group(Pid::from_child(&self.bash), Signal::KILL);
        let _status = self.bash.wait();
    }
}

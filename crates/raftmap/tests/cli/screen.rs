//! A program on a terminal of its own, driven through a pseudo-terminal.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use pty_process::Size;
use pty_process::blocking::{Command, Pty};

use crate::support::{wait_exit, wait_until};

/// So many that no event of a test leaves the screen.
const ROWS: u16 = 90;
const COLUMNS: u16 = 130;

/// A program on a terminal of its own.
pub(crate) struct Screen {
    pub(crate) child: Child,
    pty: Arc<Pty>,
    terminal: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Screen {
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, String)]) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(ROWS, COLUMNS)).unwrap();
        let mut command =
            Command::new(env!("CARGO_BIN_EXE_raftmap")).args(arguments).env("TERM", "xterm-256color");
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RAFTMAP_"))
        {
            command = command.env_remove(name);
        }
        for (name, value) in environment {
            command = command.env(name, value);
        }
        let child = command.spawn(pts).unwrap();
        let size = |lines| NonZeroU16::new(lines).unwrap();
        let terminal = Arc::new(Mutex::new(vt100::Parser::new(size(ROWS), size(COLUMNS), 0)));
        let pty = Arc::new(pty);
        let (from, to) = (Arc::clone(&pty), Arc::clone(&terminal));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails once nobody has the other end any more.
            while let Ok(count @ 1..) = (&*from).read(&mut bytes) {
                to.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..count]);
            }
        });
        Self { child, pty, terminal, reader: Some(reader) }
    }

    pub(crate) fn text(&self) -> String {
        self.terminal.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, part: &str) {
        self.wait(part, |text| text.contains(part));
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut text = String::new();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(what, || {
                text = self.text();
                is_so(&text)
            });
        }));
        assert!(seen.is_ok(), "{what} was not seen:\n{text}");
    }

    pub(crate) fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the program has ended, and gives its exit code and what is left on the terminal.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = wait_exit(&mut self.child).code();
        self.reader.take().unwrap().join().unwrap();
        let terminal = self.terminal.lock().unwrap_or_else(PoisonError::into_inner);
        let screen = terminal.screen();
        assert!(!screen.alternate_screen() && !screen.hide_cursor(), "the terminal is not as it was before");
        (code, screen.contents())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // What has ended cannot be killed.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

//! The audit log: who was refused, and who changed the cluster. One line of JSON each, in a file of its own.
//!
//! | field | what it says |
//! |---|---|
//! | `time` | when, in UTC (RFC 3339) |
//! | `event` | `refused`: somebody may not do, or be, what a request asked for or showed; `admin`: the cluster was to be changed, or a backup taken; `lost`: lines around this one are missing |
//! | `caller` | who, by certificate or token, and from where |
//! | `call`, `request_id` | what was asked, and how its caller names it |
//! | `about` | `admin` only: which server |
//! | `code`, `reason` | of a failure |
//! | `done` | `admin` only: whether it was done; of a backup: begun |
//! | `count` | `lost` only: how many |
//!
//! It never holds up a server: lines wait for a thread that writes them, and if too many wait, or the disk takes none, they are
//! counted as lost; refusals first, so that nobody hides behind them what he does as an admin. What waits when a server ends at once is
//! lost without a count. A file that was moved away is made anew, so that programs that rotate logs need tell nobody.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use metrics::Counter;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::error;

/// Lines that may wait.
const LINES_MAX: usize = 1024;

/// Of these, refusals.
const REFUSALS_MAX: usize = 768;

/// Where it is written to, if anywhere.
#[derive(Clone, Debug, Default)]
pub struct Audit(Option<Arc<Lines>>);

#[derive(Debug)]
struct Lines {
    sender: SyncSender<String>,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
    lost: Arc<Lost>,
}

/// Lines that are in no file, and not yet said to be.
#[derive(Debug)]
struct Lost {
    count: AtomicU64,
    counter: Counter,
}

/// What is told.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Who asked.
    pub caller: &'a str,
    /// What for.
    pub call: &'a str,
    /// How the caller names it; empty: not at all.
    pub request_id: &'a str,
    /// What it concerns; empty: the call says it.
    pub about: &'a str,
    /// The code of the failure and its reason; `None`: it was done.
    pub failure: Option<(&'a str, &'a str)>,
}

impl Audit {
    /// None.
    pub fn none() -> Self {
        Self(None)
    }

    /// Into `path`, behind what is there.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread that writes it cannot be started.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let (sender, lines) = sync_channel(LINES_MAX);
        let counter = metrics::counter!("raftmap_audit_lost_total");
        let lost = Arc::new(Lost { count: AtomicU64::new(0), counter });
        let waiting = Arc::new(AtomicUsize::new(0));
        let writer = Writer {
            path: path.to_owned(),
            file,
            waiting: Arc::clone(&waiting),
            lost: Arc::clone(&lost),
            failing: false,
        };
        thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&lines))?;
        Ok(Self(Some(Arc::new(Lines { sender, waiting, lost }))))
    }

    /// Somebody may not do what was asked.
    pub fn refused(&self, record: Record<'_>) {
        self.record("refused", record, None);
    }

    /// Somebody has asked to change the cluster, or for all of the map.
    pub fn admin(&self, record: Record<'_>) {
        self.record("admin", record, Some(record.failure.is_none()));
    }

    fn record(&self, event: &str, record: Record<'_>, done: Option<bool>) {
        let Some(lines) = &self.0 else { return };
        let Record { caller, call, request_id, about, failure } = record;
        let mut line = json!({ "time": now(), "event": event, "caller": caller, "call": call, "request_id": request_id });
        if let Some(done) = done {
            line["done"] = json!(done);
        }
        if !about.is_empty() {
            line["about"] = json!(about);
        }
        if let Some((code, reason)) = failure {
            line["code"] = json!(code);
            line["reason"] = json!(reason);
        }
        let limit = if done.is_some() { LINES_MAX } else { REFUSALS_MAX };
        if !lines.send(format!("{line}\n"), limit) {
            lines.lost.add();
        }
    }
}

impl Lines {
    /// Whether there was room for a line, if so many may wait.
    fn send(&self, line: String, limit: usize) -> bool {
        let counted = |waiting| (waiting < limit).then_some(waiting + 1);
        let room = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted).is_ok();
        room && self.sender.try_send(line).is_ok()
    }
}

impl Lost {
    fn add(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.counter.increment(1);
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    waiting: Arc<AtomicUsize>,
    lost: Arc<Lost>,
    /// The last line was not written, or not whole.
    failing: bool,
}

impl Writer {
    /// Writes what comes until nobody can send any more.
    fn run(mut self, lines: &Receiver<String>) {
        while let Ok(line) = lines.recv() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let written = self.write(&line);
            if written.is_err() {
                self.lost.add();
            }
            // Said once, and again if it worked in between: a full disk would fill the log, too.
            if let Err(reason) = &written
                && !self.failing
            {
                error!(file = %self.path.display(), %reason, "the audit log cannot be written");
            }
            self.failing = written.is_err();
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.was_moved() {
            self.file = open(&self.path)?;
            self.failing = false;
        }
        if self.failing {
            // Behind a part of a line, if there is one.
            self.file.write_all(b"\n")?;
        }
        let lost = self.lost.count.load(Ordering::Relaxed);
        if lost > 0 {
            let note = json!({ "time": now(), "event": "lost", "count": lost });
            self.file.write_all(format!("{note}\n").as_bytes())?;
            self.lost.count.fetch_sub(lost, Ordering::Relaxed);
        }
        self.file.write_all(line.as_bytes())
    }

    fn was_moved(&self) -> bool {
        let (Ok(open), Ok(there)) = (self.file.metadata(), fs::metadata(&self.path)) else { return true };
        (open.dev(), open.ino()) != (there.dev(), there.ino())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn now() -> String {
    // It cannot fail before the year 10,000.
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::Value;

    use super::*;

    fn lines(path: &Path, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.ends_with('\n') && text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            assert!(Instant::now() < deadline, "{text}");
            thread::yield_now();
        }
    }

    const RECORD: Record<'_> = Record {
        caller: "user/ann at 1.2.3.4:5",
        call: "Backup",
        request_id: "r\n1",
        about: "",
        failure: None,
    };

    #[test]
    fn each_line_says_who_wanted_what_and_whether_it_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let audit = Audit::to_file(&path).unwrap();
        audit.admin(RECORD);
        audit.refused(Record { failure: Some(("DENIED", "no")), ..RECORD });
        let written = lines(&path, 2);
        assert_eq!((&written[0]["event"], &written[0]["done"]), (&json!("admin"), &json!(true)));
        assert_eq!(written[0]["caller"], "user/ann at 1.2.3.4:5");
        assert_eq!(written[0]["request_id"], "r\n1");
        assert_eq!((&written[1]["event"], &written[1]["code"]), (&json!("refused"), &json!("DENIED")));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit"), folder.path().join("audit.1"));
        fs::write(&path, "{\"event\":\"before\"}\n").unwrap();
        let audit = Audit::to_file(&path).unwrap();
        audit.admin(RECORD);
        assert_eq!(lines(&path, 2)[0]["event"], "before");
        fs::rename(&path, &moved).unwrap();
        audit.admin(RECORD);
        assert_eq!(lines(&path, 1).len(), 1);
        assert_eq!(lines(&moved, 2).len(), 2);
    }

    #[test]
    fn what_was_lost_is_counted_where_it_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("audit"), folder.path().join("aside"));
        let audit = Audit::to_file(&path).unwrap();
        // In the place of the file stands what cannot be opened as one.
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        audit.admin(RECORD);
        let lost = &audit.0.as_ref().unwrap().lost;
        let deadline = Instant::now() + Duration::from_secs(60);
        while lost.count.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        fs::remove_dir(&path).unwrap();
        audit.admin(RECORD);
        let written = lines(&path, 2);
        assert_eq!((&written[0]["event"], &written[0]["count"]), (&json!("lost"), &json!(1)));
    }
}

//! What is made of files, and made anew when they change: certificates, users.
//!
//! Files are looked at every [`LOOK_EVERY`]. What they say takes effect once two looks in a row find them the same, so that one
//! which is being written is left alone; as a whole; and only if it is sound. Until then what there was stays in force, a warning says
//! why, and they are read again with each look: it may be no fault of theirs, but of who owns them or of what else is open.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often files are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What `load` makes of `files` now, and whenever they have changed, until nobody holds the receiver any more. `what` names it
/// in the log. Needs a tokio runtime.
///
/// # Errors
/// Those of `load` when it is called first. Later ones are logged.
pub(crate) fn of_files<T, E>(
    what: &'static str,
    files: Vec<PathBuf>,
    load: impl Fn() -> Result<T, E> + Send + 'static,
) -> Result<watch::Receiver<T>, E>
where
    T: Send + Sync + 'static,
    E: Display + 'static,
{
    // Looked at before they are read: what changes in between is read again.
    let stamps = look(&files);
    let (sender, receiver) = watch::channel(load()?);
    let watched = Watched { files, seen: stamps.clone(), loaded: stamps, refused: None, load };
    tokio::spawn(renew(what, watched, sender));
    Ok(receiver)
}

struct Watched<L> {
    files: Vec<PathBuf>,
    /// At the last look.
    seen: Vec<Stamp>,
    /// Before they were read last.
    loaded: Vec<Stamp>,
    /// Why that was of no use, if it was.
    refused: Option<String>,
    load: L,
}

impl<L> Watched<L> {
    /// What has become of the files, if there is something new about them.
    fn look<T, E: Display>(&mut self) -> Option<Result<T, String>>
    where
        L: Fn() -> Result<T, E>,
    {
        let stamps = look(&self.files);
        let settled = stamps == self.seen;
        self.seen = stamps;
        if !settled || (self.seen == self.loaded && self.refused.is_none()) {
            return None;
        }
        self.loaded = self.seen.clone();
        let before = self.refused.take();
        let loaded = (self.load)().map_err(|error| error.to_string());
        self.refused = loaded.as_ref().err().cloned();
        // Said once.
        if loaded.is_err() && self.refused == before { None } else { Some(loaded) }
    }
}

async fn renew<T, E, L>(what: &'static str, mut watched: Watched<L>, sender: watch::Sender<T>)
where
    T: Send + Sync + 'static,
    E: Display + 'static,
    L: Fn() -> Result<T, E> + Send + 'static,
{
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = sender.closed() => return,
        }
        // A file system that hangs holds up a thread that nothing else needs.
        let looked = spawn_blocking(move || {
            let news = watched.look();
            (watched, news)
        });
        // It fails only if `load` panics, which ends the process, or the runtime ends.
        let Ok((back, news)) = looked.await else { return };
        watched = back;
        match news {
            None => {}
            Some(Ok(value)) => {
                metrics::counter!("raftmap_files_renewed_total", "what" => what).increment(1);
                info!(what, "files have changed, and were read anew");
                sender.send_replace(value);
            }
            Some(Err(reason)) => {
                metrics::counter!("raftmap_files_refused_total", "what" => what).increment(1);
                warn!(what, reason, "files have changed and are of no use: what there was stays in force");
            }
        }
    }
}

/// What changes about a file when its content does, or who may read it: also if another one is put in its place, or a symbolic
/// link turned.
type Stamp = Option<[i128; 7]>;

fn look(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
        Some([
            file.dev().into(),
            file.ino().into(),
            file.len().into(),
            modified.0.into(),
            modified.1.into(),
            changed.0.into(),
            changed.1.into(),
        ])
    };
    files.iter().map(|path| stamp(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(receiver: &mut watch::Receiver<String>, wanted: &str) {
        let seen = receiver.wait_for(|value| value == wanted);
        tokio::time::timeout(Duration::from_secs(60), seen).await.expect("in time").expect("still watched");
    }

    #[tokio::test]
    async fn what_changes_is_read_anew_and_what_is_broken_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let (tries, tried) = std::sync::mpsc::channel();
        let load = {
            let path = path.clone();
            move || {
                let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
                let _ = tries.send(text.clone());
                if text == "broken" { Err("it is broken".to_owned()) } else { Ok(text) }
            }
        };
        let mut receiver = of_files("test", vec![path.clone()], load).unwrap();
        assert_eq!(*receiver.borrow(), "one");

        fs::write(&path, "broken").unwrap();
        let tried =
            spawn_blocking(move || while tried.recv_timeout(Duration::from_secs(60)).unwrap() != "broken" {});
        tried.await.unwrap();
        assert_eq!(*receiver.borrow(), "one");

        // As deployments do it: another file in its place.
        let other = folder.path().join("other");
        fs::write(&other, "sound!").unwrap();
        fs::rename(&other, &path).unwrap();
        until(&mut receiver, "sound!").await;
        fs::write(&other, "sound?").unwrap();
        fs::rename(&other, &path).unwrap();
        until(&mut receiver, "sound?").await;
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone_and_one_of_no_use_is_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let (files, stamps) = (vec![path.clone()], look(std::slice::from_ref(&path)));
        let usable = std::sync::atomic::AtomicBool::new(false);
        let load = || {
            let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            if usable.load(std::sync::atomic::Ordering::Relaxed) {
                Ok(text)
            } else {
                Err("not now".to_owned())
            }
        };
        let mut watched = Watched { files, seen: stamps.clone(), loaded: stamps, refused: None, load };
        assert_eq!(watched.look(), None);
        fs::write(&path, "").unwrap();
        assert_eq!(watched.look(), None, "it may be half of what is to come");
        fs::write(&path, "twice").unwrap();
        assert_eq!(watched.look(), None);
        assert_eq!(watched.look(), Some(Err("not now".to_owned())));
        assert_eq!(watched.look(), None, "that was said");
        usable.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(watched.look(), Some(Ok("twice".to_owned())), "nothing about the file has changed");
        assert_eq!(watched.look(), None);
    }

    #[tokio::test]
    async fn what_is_unsound_at_the_start_is_an_error() {
        let load = || Err::<String, _>("no such thing");
        assert_eq!(of_files("test", Vec::new(), load).unwrap_err(), "no such thing");
    }
}

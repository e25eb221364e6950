//! What is made of files, and made anew when they change: certificates, users.
//!
//! Files are looked at every [`LOOK_EVERY`]. What they say takes effect only as a whole and only if it is sound: until then,
//! and if one is half written or broken, what there was stays, and a warning says why.

use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often files are looked at. What changed takes effect after this long, and what it takes to read it.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

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
    tokio::spawn(renew(what, Watched { files, stamps, load }, sender));
    Ok(receiver)
}

struct Watched<L> {
    files: Vec<PathBuf>,
    stamps: Vec<Stamp>,
    load: L,
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
            let stamps = look(&watched.files);
            let news =
                (stamps != watched.stamps).then(|| (watched.load)().map_err(|error| error.to_string()));
            watched.stamps = stamps;
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

/// What changes about a file when its content does: also if another one is put in its place, or a symbolic link turned.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn look(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
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
    }

    #[tokio::test]
    async fn what_is_unsound_at_the_start_is_an_error() {
        let load = || Err::<String, _>("no such thing");
        assert_eq!(of_files("test", Vec::new(), load).unwrap_err(), "no such thing");
    }
}

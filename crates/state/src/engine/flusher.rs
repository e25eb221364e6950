//! A thread that puts sealed layers into tables, oldest first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::EngineError;
use super::recent::{Layer, Recent};

/// How many sealed layers may wait for the disk; commits wait then.
const SEALED_MAX: usize = 2;

/// The thread, as long as this lives.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    recent: Arc<Recent>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    sealed: u64,
    flushed: u64,
    closing: bool,
    /// Why nothing more is flushed.
    failed: Option<Arc<EngineError>>,
}

impl Flusher {
    /// Starts a thread that writes the layers of `recent` with `write`.
    ///
    /// # Errors
    /// If there can be no thread.
    pub(super) fn start(
        recent: Arc<Recent>,
        mut write: impl FnMut(&Layer) -> Result<(), EngineError> + Send + 'static,
    ) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared { recent, progress: Mutex::default(), changed: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("raftmap-flush".to_owned())
            .spawn(move || of_thread.run(&mut write))
            .map_err(|error| EngineError::new("start a thread", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Seals the newest layer, and has it written. To be called between two commits.
    pub(super) fn seal(&self) {
        let mut progress = self.shared.progress();
        if self.shared.recent.seal() {
            progress.sealed += 1;
            self.shared.changed.notify_all();
        }
    }

    /// Waits while too many layers wait for the disk.
    ///
    /// # Errors
    /// If one could not be written.
    pub(super) fn wait_for_room(&self) -> Result<(), EngineError> {
        self.wait(|progress| progress.sealed - progress.flushed < SEALED_MAX as u64)
    }

    /// Waits until all that is sealed now is in tables.
    ///
    /// # Errors
    /// If it could not be written.
    pub(super) fn wait_for_all(&self) -> Result<(), EngineError> {
        let sealed = self.shared.progress().sealed;
        self.wait(|progress| progress.flushed >= sealed)
    }

    /// # Errors
    /// If a layer could not be written.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        self.shared.progress().check()
    }

    fn wait(&self, until: impl Fn(&Progress) -> bool) -> Result<(), EngineError> {
        let progress = self.shared.progress();
        let waits = |progress: &mut Progress| progress.failed.is_none() && !until(progress);
        let waited = self.shared.changed.wait_while(progress, waits);
        waited.unwrap_or_else(PoisonError::into_inner).check()
    }
}

impl Progress {
    fn check(&self) -> Result<(), EngineError> {
        match &self.failed {
            Some(failed) => Err(EngineError::new("write tables", Arc::clone(failed))),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes layers until it is to end. Whoever waits for it would wait for ever if it ended otherwise and did not say so.
    fn run(&self, write: &mut dyn FnMut(&Layer) -> Result<(), EngineError>) {
        let panicked = || Err(EngineError::new("write tables", "the thread that writes them panicked"));
        let ended =
            catch_unwind(AssertUnwindSafe(|| self.write_layers(write))).unwrap_or_else(|_| panicked());
        self.progress().failed = ended.err().map(Arc::new);
        self.changed.notify_all();
    }

    fn write_layers(
        &self,
        write: &mut dyn FnMut(&Layer) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        loop {
            let waits = |progress: &mut Progress| !progress.closing && progress.sealed == progress.flushed;
            let progress = self.changed.wait_while(self.progress(), waits);
            if progress.unwrap_or_else(PoisonError::into_inner).closing {
                return Ok(());
            }
            if let Some(layer) = self.recent.oldest_sealed() {
                write(&layer)?;
                self.recent.remove_oldest_sealed();
                self.progress().flushed += 1;
                self.changed.notify_all();
            }
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.progress().closing = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // If it panicked it said so.
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    fn with_a_row() -> Arc<Recent> {
        let recent = Arc::new(Recent::default());
        recent.commit(&[(Bytes::from_static(b"k"), None)]);
        recent
    }

    #[test]
    fn who_waits_for_a_flush_hears_of_its_end_whatever_it_is() {
        for panics in [false, true] {
            let recent = with_a_row();
            let write = move |_: &Layer| match panics {
                true => panic!("as planned"),
                false => Err(EngineError::new("write", "no disk")),
            };
            let flusher = Arc::new(Flusher::start(Arc::clone(&recent), write).expect("a thread"));
            flusher.seal();
            let (tell, told) = std::sync::mpsc::channel();
            let waits = Arc::clone(&flusher);
            std::thread::spawn(move || tell.send(waits.wait_for_all().is_err()));
            assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true));
            assert!(flusher.wait_for_room().is_err() && flusher.check().is_err(), "for good");
            assert!(recent.oldest_sealed().is_some(), "nothing is lost in memory");
        }
    }

    #[test]
    fn commits_wait_while_the_disk_is_behind() {
        let recent = with_a_row();
        let (go, may_write) = std::sync::mpsc::channel();
        let write = move |_: &Layer| may_write.recv().map_err(|error| EngineError::new("wait", error));
        let flusher = Flusher::start(Arc::clone(&recent), write).expect("a thread");
        flusher.seal();
        flusher.wait_for_room().expect("there is room for one more");
        recent.commit(&[(Bytes::from_static(b"k"), None)]);
        flusher.seal();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| flusher.wait_for_room());
            go.send(()).expect("it writes");
            waits.join().expect("no panic").expect("one was written");
        });
        go.send(()).expect("it writes");
        flusher.wait_for_all().expect("both were written");
        assert!(recent.oldest_sealed().is_none());
    }
}

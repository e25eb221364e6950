//! Two threads: one puts sealed layers into tables, oldest first; one merges tables, so that reads have few to look into.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::EngineError;
use super::recent::{Layer, Recent};

/// How many sealed layers may wait for the disk; commits wait then.
const SEALED_MAX: usize = 2;
/// With so many runs of tables, layers wait until some are merged.
const RUNS_MAX: usize = 16;
/// More than so many cannot be: whoever merges does not do it. See [`super::tables`] for what would happen at 256.
const RUNS_LIMIT: usize = 128;

/// Where layers go.
pub(super) trait Store: Clone + Send + 'static {
    /// Adds the rows of a layer in one step, durably, as a run of tables.
    fn add(&self, layer: &Layer) -> Result<(), EngineError>;

    /// Merges some tables; whether there were any to merge.
    fn merge_some(&self) -> Result<bool, EngineError>;

    /// How many runs of tables there are that nothing merged yet.
    fn runs(&self) -> usize;
}

/// The threads, as long as this lives.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
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
    /// Runs of tables, as far as the threads know.
    runs: usize,
    /// Whether tables may want to be merged.
    to_merge: bool,
    closing: bool,
    /// Why nothing more is flushed, or merged.
    failed: Option<Arc<EngineError>>,
}

impl Flusher {
    /// Starts threads that put the layers of `recent` into `store`.
    ///
    /// # Errors
    /// If there can be no threads.
    pub(super) fn start(recent: Arc<Recent>, store: impl Store) -> Result<Self, EngineError> {
        // An earlier life may have left something.
        let progress = Progress { runs: store.runs(), to_merge: true, ..Progress::default() };
        let shared = Arc::new(Shared { recent, progress: Mutex::new(progress), changed: Condvar::new() });
        let mut this = Self { shared, threads: Vec::new() };
        let of_merges = store.clone();
        this.spawn("raftmap-flush", move |shared| shared.write_layers(&store))?;
        this.spawn("raftmap-merge", move |shared| shared.merge_tables(&of_merges))?;
        Ok(this)
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce(&Shared) -> Result<(), EngineError> + Send + 'static,
    ) -> Result<(), EngineError> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let panicked = |_| Err(EngineError::new("write tables", "the thread that writes them panicked"));
            // Whoever waits for it would wait for ever if it ended and did not say so.
            if let Err(error) = catch_unwind(AssertUnwindSafe(|| run(&shared))).unwrap_or_else(panicked) {
                shared.change(|progress| progress.failed = Some(Arc::new(error)));
            }
        });
        self.threads.push(thread.map_err(|error| EngineError::new("start a thread", error))?);
        Ok(())
    }

    /// Seals the newest layer, and has it written. To be called between two commits.
    pub(super) fn seal(&self) {
        self.shared.change(|progress| progress.sealed += u64::from(self.shared.recent.seal()));
    }

    /// Waits while too many layers wait for the disk.
    ///
    /// # Errors
    /// If one could not be written.
    pub(super) fn wait_for_room(&self) -> Result<(), EngineError> {
        self.shared.wait_for(|progress| progress.sealed - progress.flushed < SEALED_MAX as u64).check()
    }

    /// Waits until all that is sealed now is in tables.
    ///
    /// # Errors
    /// If it could not be written.
    pub(super) fn wait_for_all(&self) -> Result<(), EngineError> {
        let sealed = self.shared.progress().sealed;
        self.shared.wait_for(|progress| progress.flushed >= sealed).check()
    }

    /// # Errors
    /// If a layer could not be written, or tables not be merged.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        self.shared.progress().check()
    }
}

impl Progress {
    fn check(&self) -> Result<(), EngineError> {
        match &self.failed {
            Some(failed) => Err(EngineError::new("write tables", Arc::clone(failed))),
            None => Ok(()),
        }
    }

    /// Whether one more run is not too many. If there is nothing to merge, waiting would not help.
    fn has_room_for_a_run(&self) -> bool {
        self.runs < RUNS_MAX || !self.to_merge
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }

    /// Waits until that is so, or never will be.
    fn wait_for(&self, until: impl Fn(&Progress) -> bool) -> MutexGuard<'_, Progress> {
        let waits =
            |progress: &mut Progress| progress.failed.is_none() && !progress.closing && !until(progress);
        self.changed.wait_while(self.progress(), waits).unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes layers until it is to end.
    fn write_layers(&self, store: &impl Store) -> Result<(), EngineError> {
        loop {
            let ready =
                |progress: &Progress| progress.sealed > progress.flushed && progress.has_room_for_a_run();
            let progress = self.wait_for(ready);
            if progress.closing || progress.failed.is_some() {
                return Ok(());
            }
            drop(progress);
            let layer = self.recent.oldest_sealed().expect("what is sealed and not flushed is there");
            store.add(&layer)?;
            self.recent.remove_oldest_sealed();
            let runs = store.runs();
            if runs > RUNS_LIMIT {
                return Err(EngineError::new(
                    "write tables",
                    format!("{runs} runs of tables are not merged"),
                ));
            }
            self.change(|progress| {
                progress.flushed += 1;
                progress.runs = runs;
                progress.to_merge = true;
            });
        }
    }

    /// Merges tables until it is to end.
    fn merge_tables(&self, store: &impl Store) -> Result<(), EngineError> {
        loop {
            let mut progress = self.wait_for(|progress| progress.to_merge);
            if progress.closing || progress.failed.is_some() {
                return Ok(());
            }
            let flushed = progress.flushed;
            progress.runs = store.runs();
            drop(progress);
            self.changed.notify_all();
            if !store.merge_some()? {
                // Unless more came meanwhile.
                self.change(|progress| progress.to_merge = progress.flushed > flushed);
            }
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.change(|progress| progress.closing = true);
        for thread in self.threads.drain(..) {
            // If it panicked it said so.
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);
    /// What must not happen is waited for so long: a slow machine may miss it, and none sees it where it is not.
    const A_MOMENT: Duration = Duration::from_millis(300);

    fn with_a_row() -> Arc<Recent> {
        let recent = Arc::new(Recent::default());
        recent.commit(&[(Bytes::from_static(b"k"), None)]);
        recent
    }

    /// What the threads of a [`Planned`] store do is what the test says.
    #[derive(Clone)]
    struct Planned {
        add: fn(&Self) -> Result<(), EngineError>,
        merge: fn(&Self) -> Result<bool, EngineError>,
        runs: Arc<Mutex<usize>>,
        may: Arc<Mutex<Receiver<()>>>,
    }

    impl Planned {
        fn new(
            add: fn(&Self) -> Result<(), EngineError>,
            merge: fn(&Self) -> Result<bool, EngineError>,
        ) -> (Self, Sender<()>) {
            let (go, may) = channel();
            (Self { add, merge, runs: Arc::default(), may: Arc::new(Mutex::new(may)) }, go)
        }

        fn wait(&self) -> Result<(), EngineError> {
            self.may.lock().unwrap().recv().map_err(|error| EngineError::new("wait", error))
        }

        fn runs_by(&self, more: isize) -> Result<(), EngineError> {
            let mut runs = self.runs.lock().unwrap();
            *runs = runs.checked_add_signed(more).unwrap();
            Ok(())
        }
    }

    impl Store for Planned {
        fn add(&self, _: &Layer) -> Result<(), EngineError> {
            (self.add)(self)
        }

        fn merge_some(&self) -> Result<bool, EngineError> {
            (self.merge)(self)
        }

        fn runs(&self) -> usize {
            *self.runs.lock().unwrap()
        }
    }

    fn nothing_to_merge(_: &Planned) -> Result<bool, EngineError> {
        Ok(false)
    }

    #[test]
    fn who_waits_for_a_flush_hears_of_its_end_whatever_it_is() {
        let fails = |_: &Planned| Err(EngineError::new("write", "no disk"));
        let panics = |_: &Planned| panic!("as planned");
        for add in [fails as fn(&Planned) -> _, panics] {
            let recent = with_a_row();
            let (store, _go) = Planned::new(add, nothing_to_merge);
            let flusher = Arc::new(Flusher::start(Arc::clone(&recent), store).expect("threads"));
            flusher.seal();
            let (tell, told) = channel();
            let waits = Arc::clone(&flusher);
            std::thread::spawn(move || tell.send(waits.wait_for_all().is_err()));
            assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
            assert!(flusher.wait_for_room().is_err() && flusher.check().is_err(), "for good");
            assert!(recent.oldest_sealed().is_some(), "nothing is lost in memory");
        }
    }

    #[test]
    fn commits_wait_while_the_disk_is_behind() {
        let recent = with_a_row();
        let (store, go) = Planned::new(Planned::wait, nothing_to_merge);
        let flusher = Flusher::start(Arc::clone(&recent), store).expect("threads");
        // Dropped before the flusher, whose threads wait for it.
        let go = go;
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

    #[test]
    fn a_failed_merge_is_told_although_nothing_waits_for_it() {
        let (store, _go) = Planned::new(|_| Ok(()), |_| Err(EngineError::new("merge", "no disk")));
        let flusher = Arc::new(Flusher::start(with_a_row(), store).expect("threads"));
        let (tell, told) = channel();
        let waits = Arc::clone(&flusher);
        std::thread::spawn(move || {
            let failed = waits.shared.wait_for(|_| false).failed.is_some();
            tell.send(failed)
        });
        assert_eq!(told.recv_timeout(PATIENCE), Ok(true));
        assert!(flusher.check().is_err() && flusher.wait_for_all().is_err());
    }

    /// Each layer adds a run, and each merge takes one away.
    #[test]
    fn layers_wait_while_too_many_runs_are_not_merged() {
        let merge = |store: &Planned| {
            store.wait()?;
            store.runs_by(-1)?;
            Ok(true)
        };
        let (store, go) = Planned::new(|store| store.runs_by(1), merge);
        let recent = Arc::new(Recent::default());
        let (tell, told) = channel();
        let flusher = Arc::new(Flusher::start(Arc::clone(&recent), store.clone()).expect("threads"));
        // Dropped before the flusher, whose threads wait for it.
        let go = go;
        let seals = Arc::clone(&flusher);
        std::thread::spawn(move || {
            for _ in 0..RUNS_MAX + 3 {
                recent.commit(&[(Bytes::from_static(b"k"), None)]);
                seals.seal();
                seals.wait_for_all().expect("written in time");
                tell.send(()).expect("the test goes on");
            }
        });
        for _ in 0..RUNS_MAX {
            told.recv_timeout(PATIENCE).expect("there is room");
        }
        for _ in 0..3 {
            assert!(told.recv_timeout(A_MOMENT).is_err(), "the next one waits");
            assert_eq!(store.runs(), RUNS_MAX);
            go.send(()).expect("it merges");
            told.recv_timeout(PATIENCE).expect("there is room again");
        }
    }
}

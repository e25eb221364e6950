//! One budget of memory for everything that the front door holds for its clients: bodies of requests while they run, and
//! answers until they are sent. Each connection and stream has its own limits; this one holds over all of them.
//!
//! Counted are keys, values and bodies as they came; what decoding adds around them is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::api::{Code, Failure};

/// The budget of a front door.
pub(super) struct Budget {
    limit: usize,
    held: AtomicUsize,
}

/// What one request or stream holds of the budget. It goes back when this is dropped.
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicUsize::new(0) })
    }

    pub(super) fn share(self: &Arc<Self>) -> Arc<Share> {
        Arc::new(Share { budget: Arc::clone(self), bytes: AtomicUsize::new(0) })
    }
}

impl Share {
    /// Holds `bytes` more.
    ///
    /// # Errors
    /// If the budget does not have them.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), Failure> {
        let limit = self.budget.limit;
        let within = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
        if self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            let reason = "this server holds as many bytes for its clients as it may";
            return Err(Failure::not_applied(Code::Overloaded, reason).over_limit(limit as u64));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back `bytes` of those held.
    pub(super) fn shrink(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back() {
        let budget = Budget::new(10);
        let (first, second) = (budget.share(), budget.share());
        assert_eq!(first.grow(6), Ok(()));
        let refused = second.grow(5).unwrap_err();
        assert_eq!((refused.code, refused.limit), (Code::Overloaded, Some(10)));
        assert!(second.grow(usize::MAX).is_err());
        first.shrink(1);
        assert_eq!(second.grow(5), Ok(()));
        drop((first, second));
        assert_eq!(budget.share().grow(10), Ok(()));
    }
}

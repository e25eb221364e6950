//! The calls and returns that are not yet in the order, as Lowe's list: taking an operation out and putting it back is a
//! matter of a few links.

use crate::program::{OpId, Program};

/// A place in the list.
type Node = usize;

const HEAD: Node = 0;

/// By the number of an operation in its component.
#[derive(Clone, Copy)]
enum Entry {
    Head,
    Call(usize),
    Return(usize),
}

/// Calls and returns of operations with an answer, by time; at one time, calls come first.
pub(crate) struct Entries {
    entries: Vec<Entry>,
    next: Vec<Node>,
    previous: Vec<Node>,
    calls: Vec<Node>,
    returns: Vec<Node>,
}

impl Entries {
    pub(crate) fn new(program: &Program, ops: &[OpId]) -> Self {
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * ops.len());
        for (number, id) in ops.iter().enumerate() {
            let op = program.op(*id);
            events.push((op.call, false, number));
            events.push((op.end, true, number));
        }
        events.sort_unstable();
        let length = events.len() + 1;
        let mut entries = vec![Entry::Head];
        let mut list = Self {
            entries: Vec::new(),
            next: (1..=length).map(|next| next % length).collect(),
            previous: (0..length).map(|node| (node + length - 1) % length).collect(),
            calls: vec![HEAD; ops.len()],
            returns: vec![HEAD; ops.len()],
        };
        for (node, (_, is_return, number)) in (1..).zip(events) {
            let (place, entry) = if is_return {
                (&mut list.returns, Entry::Return(number))
            } else {
                (&mut list.calls, Entry::Call(number))
            };
            place[number] = node;
            entries.push(entry);
        }
        list.entries = entries;
        list
    }

    /// The operations that may come next: those called before anything that is left has returned.
    pub(crate) fn open(&self) -> impl Iterator<Item = usize> {
        let mut node = self.next[HEAD];
        std::iter::from_fn(move || match self.entries[node] {
            Entry::Call(number) => {
                node = self.next[node];
                Some(number)
            }
            _ => None,
        })
    }

    /// The operation that returns first of those that are left; `None`: nothing is left.
    pub(crate) fn first_return(&self) -> Option<usize> {
        let mut node = self.next[HEAD];
        while node != HEAD {
            if let Entry::Return(number) = self.entries[node] {
                return Some(number);
            }
            node = self.next[node];
        }
        None
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next[HEAD] == HEAD
    }

    /// Takes an operation out.
    pub(crate) fn lift(&mut self, number: usize) {
        for node in [self.calls[number], self.returns[number]] {
            self.next[self.previous[node]] = self.next[node];
            self.previous[self.next[node]] = self.previous[node];
        }
    }

    /// Puts back the operation that was taken out last.
    pub(crate) fn unlift(&mut self, number: usize) {
        for node in [self.returns[number], self.calls[number]] {
            self.next[self.previous[node]] = node;
            self.previous[self.next[node]] = node;
        }
    }
}

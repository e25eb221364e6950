//! What somebody may do, by what keys begin with.

use std::fmt;

use bytes::Bytes;
use raftmap_state::{Condition, Delete, Get, Operation, Put, Scan, Txn};

use crate::api::{Code, Failure};

/// What somebody may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    read: Prefixes,
    write: Prefixes,
    admin: bool,
}

/// What keys may begin with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Sorted, and none of them the beginning of another one.
    prefixes: Vec<Bytes>,
}

impl Rights {
    /// Reads, writes, and whether the cluster may be changed.
    pub(super) fn new(read: Prefixes, write: Prefixes, admin: bool) -> Self {
        Self { read, write, admin }
    }

    /// None at all.
    pub fn none() -> Self {
        Self::new(Prefixes::default(), Prefixes::default(), false)
    }

    /// All of the map, and nothing of the cluster.
    pub fn all_keys() -> Self {
        Self::new(Prefixes::all(), Prefixes::all(), false)
    }

    /// Everything.
    pub fn everything() -> Self {
        Self { admin: true, ..Self::all_keys() }
    }

    /// What these and `others` allow.
    pub(super) fn and(&self, others: &Self) -> Self {
        let both = |a: &Prefixes, b: &Prefixes| a.prefixes.iter().chain(&b.prefixes).cloned().collect();
        Self::new(
            both(&self.read, &others.read),
            both(&self.write, &others.write),
            self.admin || others.admin,
        )
    }

    /// The keys that may be read.
    pub fn read(&self) -> &Prefixes {
        &self.read
    }

    /// The keys that may be written.
    pub fn write(&self) -> &Prefixes {
        &self.write
    }

    /// Whether the cluster may be changed, and all of the map taken as a backup.
    pub fn admin(&self) -> bool {
        self.admin
    }

    /// Whether these keys may be read.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn check_get(&self, get: &Get) -> Result<(), Failure> {
        get.keys.iter().try_for_each(|key| self.check_read(key))
    }

    /// Whether this range may be read: all of it must begin with one prefix.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn check_scan(&self, scan: &Scan) -> Result<(), Failure> {
        if self.read.cover(&scan.start, &scan.end) {
            return Ok(());
        }
        let reason = format!("the range is not within what this user may read: {}", self.read);
        Err(Failure::not_applied(Code::Denied, reason))
    }

    /// Whether anything may be written at all: what goes into the log, a session or a transaction that only reads, is a write to
    /// all servers.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn check_any_write(&self) -> Result<(), Failure> {
        if self.write.is_empty() {
            return Err(Failure::not_applied(Code::Denied, "this user may write nothing"));
        }
        Ok(())
    }

    /// Whether these keys may be set. What tells of earlier values takes the right to read, too.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn check_put(&self, put: &Put) -> Result<(), Failure> {
        put.entries.iter().try_for_each(|entry| self.check_change(&entry.key, put.return_previous))
    }

    /// Whether these keys may be removed, as [`Self::check_put`]. How many there were is told to everyone who may remove them.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn check_delete(&self, delete: &Delete) -> Result<(), Failure> {
        delete.keys.iter().try_for_each(|key| self.check_change(key, delete.return_previous))
    }

    /// Whether this transaction may run, whichever branch it would take. It depends on what it names, and tells of it: that
    /// takes the right to read of all keys in it.
    ///
    /// # Errors
    /// The failure to answer with.
    pub fn check_txn(&self, txn: &Txn) -> Result<(), Failure> {
        self.check_any_write()?;
        txn.conditions.iter().try_for_each(|Condition { key, .. }| self.check_read(key))?;
        txn.then.iter().chain(&txn.otherwise).try_for_each(|operation| match operation {
            Operation::Put(entry) => self.check_change(&entry.key, true),
            Operation::Delete(key) => self.check_change(key, true),
            Operation::Get(key) => self.check_read(key),
        })
    }

    fn check_change(&self, key: &Bytes, tells_previous: bool) -> Result<(), Failure> {
        if !self.write.contains(key) {
            return Err(denied("write", key, &self.write));
        }
        if tells_previous { self.check_read(key) } else { Ok(()) }
    }

    fn check_read(&self, key: &Bytes) -> Result<(), Failure> {
        if self.read.contains(key) { Ok(()) } else { Err(denied("read", key, &self.read)) }
    }
}

fn denied(what: &str, key: &[u8], allowed: &Prefixes) -> Failure {
    let reason = format!("this user may not {what} {}: what it may {what} is {allowed}", Quoted(key));
    Failure::not_applied(Code::Denied, reason)
}

impl Prefixes {
    /// All keys.
    pub fn all() -> Self {
        Self { prefixes: vec![Bytes::new()] }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// Whether `key` begins with one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        // Whatever lies between a prefix and a key that begins with it begins with it, too, and none of these does.
        let behind = self.prefixes.partition_point(|prefix| prefix.as_ref() <= key);
        behind > 0 && key.starts_with(&self.prefixes[behind - 1])
    }

    /// Whether all that can lie from `start` up to, and without, `end` begins with one and the same of them. An empty `end` is the end
    /// of the map.
    pub fn cover(&self, start: &[u8], end: &[u8]) -> bool {
        let covers = |prefix: &[u8]| match successor(prefix) {
            None => true,
            Some(successor) => !end.is_empty() && end <= successor.as_slice(),
        };
        self.prefixes.iter().any(|prefix| start.starts_with(prefix) && covers(prefix))
    }
}

/// The first key behind all that begin with `prefix`; `None`: nothing is behind them.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Some(successor)
}

impl FromIterator<Bytes> for Prefixes {
    fn from_iter<I: IntoIterator<Item = Bytes>>(prefixes: I) -> Self {
        let mut sorted: Vec<Bytes> = prefixes.into_iter().collect();
        sorted.sort();
        // One that another one begins with stands behind it.
        sorted.dedup_by(|later, earlier| later.starts_with(earlier));
        Self { prefixes: sorted }
    }
}

/// For people: a few of them.
impl fmt::Display for Prefixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 8;
        match self.prefixes.as_slice() {
            [] => return f.write_str("nothing"),
            [prefix] if prefix.is_empty() => return f.write_str("every key"),
            _ => f.write_str("keys that begin with ")?,
        }
        for (place, prefix) in self.prefixes.iter().take(SHOWN_MAX).enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{}", Quoted(prefix))?;
        }
        let more = self.prefixes.len().saturating_sub(SHOWN_MAX);
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}

/// A key as it may stand in a reason: in quotes, what is no text escaped, and not longer than a line.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BYTES_MAX: usize = 64;
        let shown = &self.0[..self.0.len().min(BYTES_MAX)];
        let dots = if shown.len() < self.0.len() { "..." } else { "" };
        write!(f, "\"{}\"{dots}", shown.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raftmap_state::{Expected, PutEntry};

    use super::*;

    fn prefixes(all: &[&[u8]]) -> Prefixes {
        all.iter().map(|prefix| Bytes::copy_from_slice(prefix)).collect()
    }

    fn shop() -> Rights {
        Rights::new(prefixes(&[b"orders/", b"prices/"]), prefixes(&[b"orders/", b"inbox/"]), false)
    }

    fn key(key: &'static str) -> Bytes {
        Bytes::from_static(key.as_bytes())
    }

    fn put(name: &'static str, return_previous: bool) -> Put {
        let entry = PutEntry { key: key(name), ..PutEntry::default() };
        Put { entries: vec![entry], return_previous }
    }

    #[test]
    fn a_key_is_allowed_by_what_it_begins_with() {
        let get = |name| shop().check_get(&Get { keys: vec![key("orders/1"), key(name)] });
        assert_eq!(get("prices/1"), Ok(()));
        let failure = get("stock/7").unwrap_err();
        assert_eq!(failure.code, Code::Denied);
        assert_eq!(
            failure.reason,
            "this user may not read \"stock/7\": what it may read is keys that begin with \"orders/\", \"prices/\""
        );
        assert!(get("orders").is_err());
        assert!(Rights::none().check_get(&Get { keys: vec![key("a")] }).is_err());
    }

    #[test]
    fn what_tells_of_earlier_values_takes_the_right_to_read() {
        let rights = shop();
        assert_eq!(rights.check_put(&put("inbox/1", false)), Ok(()));
        assert!(rights.check_put(&put("inbox/1", true)).is_err());
        assert_eq!(rights.check_put(&put("orders/1", true)), Ok(()));
        assert!(rights.check_put(&put("prices/1", false)).is_err());
        let delete =
            |name, return_previous| rights.check_delete(&Delete { keys: vec![key(name)], return_previous });
        assert_eq!(delete("inbox/1", false), Ok(()));
        assert!(delete("inbox/1", true).is_err());
        assert!(delete("prices/1", false).is_err());
    }

    #[test]
    fn each_part_of_a_transaction_counts_whichever_branch_would_run() {
        let rights = shop();
        let entry = |name| Operation::Put(PutEntry { key: key(name), ..PutEntry::default() });
        let fine = Txn {
            conditions: vec![Condition { key: key("prices/1"), expected: Expected::Exists(true) }],
            then: vec![entry("orders/1")],
            otherwise: vec![Operation::Get(key("prices/1"))],
        };
        assert_eq!(rights.check_txn(&fine), Ok(()));
        let condition = Condition { key: key("stock/1"), expected: Expected::Exists(true) };
        let forbidden = [
            Txn { conditions: vec![condition], ..fine.clone() },
            Txn { then: vec![entry("prices/1")], ..fine.clone() },
            // It would tell what stood there.
            Txn { then: vec![entry("inbox/1")], ..fine.clone() },
            Txn { otherwise: vec![Operation::Delete(key("prices/1"))], ..fine.clone() },
            Txn { otherwise: vec![Operation::Get(key("stock/1"))], ..fine },
        ];
        for each in forbidden {
            assert!(rights.check_txn(&each).is_err(), "{each:?}");
        }
    }

    #[test]
    fn who_may_only_read_puts_nothing_into_the_log() {
        let reader = Rights::new(Prefixes::all(), Prefixes::default(), false);
        let reads = Txn { then: vec![Operation::Get(key("a"))], ..Txn::default() };
        assert!(reader.check_txn(&reads).is_err());
        assert!(reader.check_any_write().is_err());
        assert_eq!(Rights::all_keys().check_txn(&reads), Ok(()));
    }

    #[test]
    fn a_range_lies_within_one_prefix() {
        let scan =
            |start, end| shop().check_scan(&Scan { start: key(start), end: key(end), ..Scan::default() });
        assert_eq!(scan("orders/", "orders0"), Ok(()));
        assert_eq!(scan("orders/a", "orders/b"), Ok(()));
        assert!(scan("orders/", "").is_err());
        assert!(scan("", "orders0").is_err());
        assert!(scan("orders", "orders0").is_err());
        assert!(scan("orders/", "orders0a").is_err());
        assert!(scan("orders/", "prices0").is_err());
        let all = |start, end| {
            Rights::all_keys().check_scan(&Scan { start: key(start), end: key(end), ..Scan::default() })
        };
        assert_eq!(all("", ""), Ok(()));
        // Nothing is behind what begins with the last byte.
        assert!(prefixes(&[&[0xff, 0xff]]).cover(&[0xff, 0xff, 1], &[]));
        assert!(!prefixes(&[&[0xff, 0xff]]).cover(&[0xff], &[]));
    }

    fn short() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xfe), Just(0xff)], 0..4)
    }

    proptest! {
        #[test]
        fn they_contain_what_begins_with_one_of_them(all in prop::collection::vec(short(), 0..6), key in short()) {
            let expected = all.iter().any(|prefix| key.starts_with(prefix));
            let made: Prefixes = all.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(made.contains(&key), expected);
        }

        #[test]
        fn what_they_cover_they_contain(
            all in prop::collection::vec(short(), 0..4), start in short(), end in short(), key in short(),
        ) {
            let made: Prefixes = all.into_iter().map(Bytes::from).collect();
            let within = key >= start && (end.is_empty() || key < end);
            if made.cover(&start, &end) && within {
                prop_assert!(made.contains(&key));
            }
        }
    }
}

//! What is checked about a client's request before it is proposed: a pure function, the same for every way in.
//!
//! What passes can be applied; what does not is refused with code, field and limit, and never reaches the log.

use std::collections::HashSet;

use bytes::Bytes;

use crate::answer::FailureCode;
use crate::command::{Body, Command, Introduction};
use crate::request::{Delete, Get, Operation, Put, PutEntry, Scan, SessionTag, Txn, WriteRequest};

/// How large requests may be: flags of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// The longest key, in bytes; at most [`KEY_BYTES_CEILING`].
    pub key_bytes_max: usize,
    /// The longest value, in bytes; at most [`VALUE_BYTES_CEILING`].
    pub value_bytes_max: usize,
    /// All keys and values of one request together, in bytes.
    pub request_bytes_max: usize,
    /// The largest answer, in bytes, as [`crate::limits`] counts it.
    pub answer_bytes_max: u32,
    /// Keys, conditions and operations of one request together.
    pub operations_max: usize,
}

/// No flag allows longer keys than this, in bytes: the engine's keys end at 64 KiB, with the table's prefix inside.
pub const KEY_BYTES_CEILING: usize = 32 << 10;

/// No flag allows larger values than this, in bytes.
pub const VALUE_BYTES_CEILING: usize = 64 << 20;

/// The longest address, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 300;

impl Default for RequestLimits {
    /// 4 KiB keys, 1 MiB values, 4 MiB requests and answers, 10,000 keys or operations.
    fn default() -> Self {
        Self {
            key_bytes_max: 4 << 10,
            value_bytes_max: 1 << 20,
            request_bytes_max: 4 << 20,
            answer_bytes_max: 4 << 20,
            operations_max: 10_000,
        }
    }
}

/// Why a request is refused before it is proposed. `field` is its path in `map.proto`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Nothing to do.
    #[error("{field} is empty: name at least one")]
    Empty {
        /// The list.
        field: &'static str,
    },
    /// A key of no bytes.
    #[error("{field}[{position}]: a key has at least one byte")]
    EmptyKey {
        /// The key's field.
        field: &'static str,
        /// Which one of the list, from 0.
        position: usize,
    },
    /// A key twice in one put or delete.
    #[error("{field}[{position}]: this key is named twice")]
    KeyTwice {
        /// The key's field.
        field: &'static str,
        /// The second place, from 0.
        position: usize,
    },
    /// A variant that is not set, or that this version does not know. Given by who converts from the wire.
    #[error("{field} is not set, or unknown to this version")]
    Unset {
        /// The oneof or enum.
        field: &'static str,
    },
    /// A number that cannot be.
    #[error("{field}: {reason}")]
    Number {
        /// The number's field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No address.
    #[error("{field} is no address: host:port, of at most {ADDRESS_BYTES_MAX} printable ASCII characters")]
    Address {
        /// The address's field.
        field: &'static str,
    },
    /// Larger than allowed.
    #[error("{field} has {actual} {unit}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        field: &'static str,
        /// What it has.
        actual: u64,
        /// What it may have.
        limit: u64,
        /// Bytes, or keys and operations.
        unit: &'static str,
    },
}

impl InvalidRequest {
    /// Its code in `map.proto`.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::TooLarge { .. } => FailureCode::TooLarge,
            _ => FailureCode::Invalid,
        }
    }

    /// The field, for `Failure.field`.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Empty { field }
            | Self::EmptyKey { field, .. }
            | Self::KeyTwice { field, .. }
            | Self::Unset { field }
            | Self::Number { field, .. }
            | Self::Address { field }
            | Self::TooLarge { field, .. } => field,
        }
    }

    /// The limit, for `Failure.limit`.
    pub fn limit(&self) -> Option<u64> {
        match self {
            Self::TooLarge { limit, .. } => Some(*limit),
            _ => None,
        }
    }
}

/// Checks that a command from the log is one that a server may have proposed under any flags. If not, servers are out of
/// step or the log is not what was written: apply stops.
///
/// # Errors
/// The first thing that is wrong with it.
pub(crate) fn check_possible(command: &Command) -> Result<(), InvalidRequest> {
    const ANY_FLAGS: RequestLimits = RequestLimits {
        key_bytes_max: usize::MAX,
        value_bytes_max: usize::MAX,
        request_bytes_max: usize::MAX,
        answer_bytes_max: u32::MAX,
        operations_max: usize::MAX,
    };
    let positive = |field, number: u64| match number {
        0 => Err(InvalidRequest::Number { field, reason: "is 0" }),
        _ => Ok(()),
    };
    match &command.body {
        Body::Write(write) => ANY_FLAGS.check_write(&write.request, write.session.as_ref()),
        Body::OpenSession(limits) => {
            positive("in_flight_max", u64::from(limits.in_flight_max))?;
            positive("sessions_max", u64::from(limits.sessions_max))
        }
        // Levels that are none were not decoded.
        Body::Time | Body::Scan | Body::RaiseLevel(_) => Ok(()),
        Body::RecordMember(member) => positive("node_id", member.node_id.0),
        Body::IntroduceMember(introduction) => check_introduction(introduction),
    }
}

/// Checks what is said of a member.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check_introduction(introduction: &Introduction) -> Result<(), InvalidRequest> {
    let Introduction { node_id, peer_address, client_address, replaces } = introduction;
    if node_id.0 == 0 {
        return Err(InvalidRequest::Number { field: "node_id", reason: "is 0" });
    }
    if *replaces == Some(*node_id) {
        return Err(InvalidRequest::Number { field: "replaces", reason: "is the server itself" });
    }
    for (field, address) in [("peer_address", peer_address), ("client_address", client_address)] {
        let fits = (1..=ADDRESS_BYTES_MAX).contains(&address.len());
        if !fits || !address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') {
            return Err(InvalidRequest::Address { field });
        }
    }
    Ok(())
}

impl RequestLimits {
    /// Checks a change of the map.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_write(
        &self,
        request: &WriteRequest,
        session: Option<&SessionTag>,
    ) -> Result<(), InvalidRequest> {
        match request {
            WriteRequest::Put(put) => self.check_put(put)?,
            WriteRequest::Delete(delete) => self.check_delete(delete)?,
            WriteRequest::Txn(txn) => self.check_txn(txn)?,
        }
        session.map_or(Ok(()), check_session)
    }

    fn check_put(&self, put: &Put) -> Result<(), InvalidRequest> {
        self.count("entries", put.entries.len())?;
        self.distinct("entries.key", put.entries.iter().map(|entry| &entry.key))?;
        let mut total = Total::new(self);
        put.entries
            .iter()
            .enumerate()
            .try_for_each(|(position, entry)| total.entry(["entries.key", "entries.value"], position, entry))
    }

    fn check_delete(&self, delete: &Delete) -> Result<(), InvalidRequest> {
        self.count("keys", delete.keys.len())?;
        self.distinct("keys", &delete.keys)?;
        Total::new(self).keys(&delete.keys)
    }

    fn check_txn(&self, txn: &Txn) -> Result<(), InvalidRequest> {
        let all = txn.conditions.len() + txn.then.len() + txn.otherwise.len();
        self.count("operations", all)?;
        let mut total = Total::new(self);
        for (position, condition) in txn.conditions.iter().enumerate() {
            total.key("conditions.key", position, &condition.key)?;
            if let crate::request::Expected::Value(value) = &condition.expected {
                total.value("conditions.value", value)?;
            }
        }
        for (position, operation) in txn.then.iter().enumerate() {
            total.operation(
                ["then.put.key", "then.put.value", "then.delete", "then.get"],
                position,
                operation,
            )?;
        }
        for (position, operation) in txn.otherwise.iter().enumerate() {
            let fields = ["otherwise.put.key", "otherwise.put.value", "otherwise.delete", "otherwise.get"];
            total.operation(fields, position, operation)?;
        }
        Ok(())
    }

    /// Checks a read of keys.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_get(&self, get: &Get) -> Result<(), InvalidRequest> {
        self.count("keys", get.keys.len())?;
        Total::new(self).keys(&get.keys)
    }

    /// Checks a read of a range. An empty range is no error: it has no entries.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_scan(&self, scan: &Scan) -> Result<(), InvalidRequest> {
        self.size("start", scan.start.len(), self.key_bytes_max)?;
        self.size("end", scan.end.len(), self.key_bytes_max)
    }

    fn count(&self, field: &'static str, count: usize) -> Result<(), InvalidRequest> {
        if count == 0 {
            return Err(InvalidRequest::Empty { field });
        }
        let (actual, limit) = (count as u64, self.operations_max as u64);
        let unit = "keys and operations";
        if actual > limit { Err(InvalidRequest::TooLarge { field, actual, limit, unit }) } else { Ok(()) }
    }

    fn size(&self, field: &'static str, bytes: usize, limit: usize) -> Result<(), InvalidRequest> {
        let (actual, limit) = (bytes as u64, limit as u64);
        if actual > limit {
            Err(InvalidRequest::TooLarge { field, actual, limit, unit: "bytes" })
        } else {
            Ok(())
        }
    }

    fn distinct<'a>(
        &self,
        field: &'static str,
        keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<(), InvalidRequest> {
        let mut seen = HashSet::new();
        // Membership alone is asked; the set's order is not.
        match keys.into_iter().position(|key| !seen.insert(key)) {
            Some(position) => Err(InvalidRequest::KeyTwice { field, position }),
            None => Ok(()),
        }
    }
}

fn check_session(tag: &SessionTag) -> Result<(), InvalidRequest> {
    let wrong = |field, reason| Err(InvalidRequest::Number { field, reason });
    if tag.session_id.0 == 0 {
        return wrong("session.session_id", "0 is not a session; open one");
    }
    if tag.sequence == 0 {
        return wrong("session.sequence", "sequences start at 1");
    }
    if tag.sequence < tag.acknowledged_below {
        return wrong(
            "session.sequence",
            "is below acknowledged_below: its answer would be forgotten already",
        );
    }
    Ok(())
}

/// Adds up the bytes of a request while it is checked.
struct Total<'a> {
    limits: &'a RequestLimits,
    bytes: usize,
}

impl<'a> Total<'a> {
    fn new(limits: &'a RequestLimits) -> Self {
        Self { limits, bytes: 0 }
    }

    fn add(&mut self, bytes: usize) -> Result<(), InvalidRequest> {
        self.bytes += bytes;
        self.limits.size("request", self.bytes, self.limits.request_bytes_max)
    }

    fn key(&mut self, field: &'static str, position: usize, key: &Bytes) -> Result<(), InvalidRequest> {
        if key.is_empty() {
            return Err(InvalidRequest::EmptyKey { field, position });
        }
        self.limits.size(field, key.len(), self.limits.key_bytes_max.min(KEY_BYTES_CEILING))?;
        self.add(key.len())
    }

    fn value(&mut self, field: &'static str, value: &Bytes) -> Result<(), InvalidRequest> {
        self.limits.size(field, value.len(), self.limits.value_bytes_max.min(VALUE_BYTES_CEILING))?;
        self.add(value.len())
    }

    fn keys(&mut self, keys: &[Bytes]) -> Result<(), InvalidRequest> {
        keys.iter().enumerate().try_for_each(|(position, key)| self.key("keys", position, key))
    }

    fn entry(
        &mut self,
        fields: [&'static str; 2],
        position: usize,
        entry: &PutEntry,
    ) -> Result<(), InvalidRequest> {
        let [key, value] = fields;
        self.key(key, position, &entry.key)?;
        self.value(value, &entry.value)
    }

    fn operation(
        &mut self,
        fields: [&'static str; 4],
        position: usize,
        operation: &Operation,
    ) -> Result<(), InvalidRequest> {
        let [put_key, put_value, delete, get] = fields;
        match operation {
            Operation::Put(entry) => self.entry([put_key, put_value], position, entry),
            Operation::Delete(key) => self.key(delete, position, key),
            Operation::Get(key) => self.key(get, position, key),
        }
    }
}

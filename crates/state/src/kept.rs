//! The answers that one session keeps: in memory what decides, in rows all of it.
//!
//! Small answers share rows, one for every [`GROUP`] sequences. A client with many writes under way then changes a row or
//! two with each batch of entries, and one is removed every [`GROUP`] writes; rows of their own would be set and removed
//! for each. What is acknowledged stays in such a row until the row is written or removed: who reads it back skips it.
//! Large answers are rows of their own, so that none is written twice.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::answer::{Answer, Refusal};
use crate::engine::Engine;
use crate::error::StateError;
use crate::format::{DecodeError, Decoder, decode_result, put_bytes, table};
use crate::overlay::Overlay;
use crate::request::SessionId;

/// How many sequences share a row. A constant of the format.
pub(crate) const GROUP: u64 = 32;

/// How long an encoded answer that shares a row may be, in bytes. A constant of the format.
const SMALL_BYTES_MAX: usize = 128;

const LARGE: &str = "row of a large answer";

/// What an answer counts besides its encoding: the hash of its request.
const HASH_BYTES: usize = 16;

/// The answers of one session.
#[derive(Debug, Default)]
pub(crate) struct KeptAnswers {
    answers: BTreeMap<u64, Kept>,
    /// The groups that have a row, by their first sequence, and what a row of each holds if it is written now.
    groups: BTreeMap<u64, GroupRow>,
    bytes: u64,
}

#[derive(Debug)]
struct Kept {
    request_hash: u128,
    bytes: u64,
    /// Its result is in a row of its own.
    large: bool,
}

/// The small answers of one group, encoded: what its row holds if it is written now. A batch of writes writes the row as often
/// as it adds to it.
#[derive(Debug, Default)]
struct GroupRow {
    bytes: Vec<u8>,
    /// In the order of their sequences.
    parts: Vec<Part>,
}

/// Where an answer stands in a [`GroupRow`].
#[derive(Debug)]
struct Part {
    sequence: u64,
    begin: usize,
    result: Range<usize>,
}

impl GroupRow {
    fn add(&mut self, sequence: u64, request_hash: u128, result: &[u8]) {
        let place = self.parts.partition_point(|part| part.sequence < sequence);
        let behind = match self.parts.get(place) {
            Some(next) => self.bytes.split_off(next.begin),
            None => Vec::new(),
        };
        let begin = self.bytes.len();
        self.bytes.put_u8((sequence % GROUP) as u8);
        self.bytes.put_u128_le(request_hash);
        put_bytes(&mut self.bytes, result);
        let end = self.bytes.len();
        self.parts.insert(place, Part { sequence, begin, result: end - result.len()..end });
        if !behind.is_empty() {
            self.bytes.extend_from_slice(&behind);
            let (from, added) = (place + 1, end - begin);
            self.parts[from..].iter_mut().for_each(|later| later.shift(|place| place + added));
        }
    }

    fn forget_below(&mut self, sequence: u64) {
        let gone = self.parts.partition_point(|part| part.sequence < sequence);
        if gone > 0 {
            let end = self.parts.get(gone).map_or(self.bytes.len(), |next| next.begin);
            self.parts.drain(..gone);
            self.bytes.drain(..end);
            self.parts.iter_mut().for_each(|later| later.shift(|place| place - end));
        }
    }

    /// The encoded result of `sequence`, if it is here.
    fn result(&self, sequence: u64) -> Option<&[u8]> {
        let place = self.parts.binary_search_by_key(&sequence, |part| part.sequence).ok()?;
        self.bytes.get(self.parts[place].result.clone())
    }
}

impl Part {
    fn shift(&mut self, to: impl Fn(usize) -> usize) {
        self.begin = to(self.begin);
        self.result = to(self.result.start)..to(self.result.end);
    }
}

impl KeptAnswers {
    /// Takes in a row of a group that was read back. What is below `acknowledged_below` was forgotten.
    pub(crate) fn load_group(
        &mut self,
        first: u64,
        row: Bytes,
        acknowledged_below: u64,
    ) -> Result<(), DecodeError> {
        const WHAT: &str = "row of answers";
        self.groups.entry(first).or_default();
        let mut decoder = Decoder::new(row);
        while !decoder.rest().is_empty() {
            let offset = decoder.u8(WHAT)?;
            if u64::from(offset) >= GROUP || !first.is_multiple_of(GROUP) {
                return Err(DecodeError::Number { what: WHAT });
            }
            let sequence = first + u64::from(offset);
            let request_hash = decoder.u128_le(WHAT)?;
            let result = decoder.bytes(WHAT)?;
            if sequence >= acknowledged_below {
                let bytes = (HASH_BYTES + result.len()) as u64;
                self.groups.entry(first).or_default().add(sequence, request_hash, &result);
                self.add(sequence, Kept { request_hash, bytes, large: false });
            }
        }
        Ok(())
    }

    /// Takes in the row of a large answer that was read back.
    pub(crate) fn load_large(&mut self, sequence: u64, row: Bytes) -> Result<(), DecodeError> {
        let bytes = row.len() as u64;
        let request_hash = Decoder::new(row).u128_le(LARGE)?;
        self.add(sequence, Kept { request_hash, bytes, large: true });
        Ok(())
    }

    fn add(&mut self, sequence: u64, kept: Kept) {
        self.bytes += kept.bytes;
        self.answers.insert(sequence, kept);
    }

    pub(crate) fn len(&self) -> usize {
        self.answers.len()
    }

    /// The hash of the request whose answer is kept under `sequence`.
    pub(crate) fn request_hash(&self, sequence: u64) -> Option<u128> {
        self.answers.get(&sequence).map(|kept| kept.request_hash)
    }

    /// Whether there is room for this result within `limit` bytes. There always is for one answer, however large, or the
    /// session could do nothing at all.
    pub(crate) fn has_room_for(&self, result: &[u8], limit: u64) -> bool {
        self.answers.is_empty() || self.bytes + (HASH_BYTES + result.len()) as u64 <= limit
    }

    /// Keeps an encoded result.
    pub(crate) fn keep<E: Engine>(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        id: SessionId,
        sequence: u64,
        request_hash: u128,
        result: &[u8],
    ) {
        let bytes = (HASH_BYTES + result.len()) as u64;
        if result.len() > SMALL_BYTES_MAX {
            let mut row = BytesMut::with_capacity(HASH_BYTES + result.len());
            row.put_u128_le(request_hash);
            row.put_slice(result);
            overlay.set(table::large_answer_key(id, sequence), row.freeze());
            self.add(sequence, Kept { request_hash, bytes, large: true });
        } else {
            self.add(sequence, Kept { request_hash, bytes, large: false });
            let first = sequence - sequence % GROUP;
            let group = self.groups.entry(first).or_default();
            group.add(sequence, request_hash, result);
            let key = overlay.encode(17, |out| table::put_answers_key(out, id, first));
            let row = overlay.encode(group.bytes.len(), |out| out.put_slice(&group.bytes));
            overlay.set(key, row);
        }
    }

    /// The result that is kept under `sequence`.
    pub(crate) fn result<E: Engine>(
        &self,
        overlay: &Overlay<'_, E>,
        id: SessionId,
        sequence: u64,
    ) -> Result<Result<Answer, Refusal>, StateError> {
        let group = self.groups.get(&(sequence - sequence % GROUP));
        if let Some(result) = group.and_then(|group| group.result(sequence)) {
            return Ok(decode_result(Bytes::copy_from_slice(result))?);
        }
        let row = overlay.get(&table::large_answer_key(id, sequence))?;
        let Some(row) = row else {
            return Err(StateError::Inconsistent("an answer that is kept has no row"));
        };
        let mut decoder = Decoder::new(row);
        decoder.u128_le(LARGE)?;
        Ok(decode_result(decoder.rest().clone())?)
    }

    /// Forgets the answers below a sequence.
    pub(crate) fn forget_below<E: Engine>(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        id: SessionId,
        below: u64,
    ) {
        let still_kept = self.answers.split_off(&below);
        for (sequence, kept) in std::mem::replace(&mut self.answers, still_kept) {
            self.bytes -= kept.bytes;
            if kept.large {
                overlay.remove(table::large_answer_key(id, sequence));
            }
        }
        while let Some(group) = self.groups.first_entry() {
            if group.key() + (GROUP - 1) < below {
                overlay.remove(table::answers_key(id, *group.key()));
                group.remove();
            } else {
                group.into_mut().forget_below(below);
                break;
            }
        }
    }

    /// Removes all rows, and gives their number.
    pub(crate) fn remove_all<E: Engine>(self, overlay: &mut Overlay<'_, E>, id: SessionId) -> usize {
        for first in self.groups.keys() {
            overlay.remove(table::answers_key(id, *first));
        }
        let mut rows = self.groups.len();
        for (sequence, _) in self.answers.iter().filter(|answer| answer.1.large) {
            overlay.remove(table::large_answer_key(id, *sequence));
            rows += 1;
        }
        rows
    }
}

/// Whether a row holds the small answers of the sequences from `first` on, each of which can be read.
pub(crate) fn check_answers_row(first: u64, row: Bytes) -> Result<(), DecodeError> {
    let mut kept = KeptAnswers::default();
    kept.load_group(first, row, 0)?;
    for group in kept.groups.values() {
        for part in &group.parts {
            let _readable = decode_result(Bytes::copy_from_slice(&group.bytes[part.result.clone()]))?;
        }
    }
    Ok(())
}

/// Whether a row holds a large answer that can be read.
pub(crate) fn check_large_answer_row(row: Bytes) -> Result<(), DecodeError> {
    let mut decoder = Decoder::new(row);
    decoder.u128_le(LARGE)?;
    let _readable = decode_result(decoder.rest().clone())?;
    Ok(())
}

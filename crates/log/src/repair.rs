//! Acts on what a start found at the end of the log.
//!
//! A cut never writes over a block: it makes a new file with the blocks that count and puts it in place of the old one.
//! Each step may be the last before a crash; the next start then finds the same, or less to do.
//!
//! A log that has to begin anew, at a base, gets that base as the first record of a new segment behind all others, with the
//! highest sequence number; only then the others are moved aside, the lowest first. Whatever is left of them after a crash,
//! the base in the new segment is the newest one that a start finds, and all that counts.

use raftmap_raft::{Base, HardState, LogIndex};

use crate::base::BaseRecord;
use crate::batch::{self, LogIds, Position, Record};
use crate::block::BLOCK_BYTES;
use crate::disk::aligned::AlignedBuffer;
use crate::disk::{Disk, ReadFrom};
use crate::error::{LogError, OpenError};
use crate::hard_state::HardStateFile;
use crate::identity::Identity;
use crate::index::Index;
use crate::options::LogOptions;
use crate::recovered::{Damage, DamageReason, Repair};
use crate::recovery::Found;
use crate::scan::Ending;
use crate::segment::{SegmentFolder, blocks_of};

/// How many copies of torn tails are kept: the newest ones. Copies of damaged segments are never removed.
const TORN_COPIES_MAX: usize = 16;
const TORN: &str = "torn";
const DAMAGED: &str = "damaged";

/// Cuts what does not count, after a copy of it was kept, and makes sure that what counts is on the disk. `found` says
/// afterwards where the log goes on.
pub(crate) fn repair<D: Disk>(
    folder: &SegmentFolder<D>,
    hard_state: &mut HardStateFile<D>,
    identity: &Identity,
    ids: LogIds,
    options: &LogOptions,
    found: &mut Found,
) -> Result<Repair, OpenError> {
    let (number, place) = (found.next.generation, found.next.place);
    let (repair, rewritten) = match found.ending {
        Ending::Clean => (Repair::Clean, false),
        Ending::Torn(segment, begin) => {
            let aside = cut_torn(folder, segment, begin, found.next.sequence)?;
            let offset = u64::from(begin) * BLOCK_BYTES as u64;
            (Repair::TornTailCut { segment, offset, aside }, segment == number)
        }
        Ending::Damaged(shown, reason) => {
            let damage = damage_of(found, shown, reason);
            flag(hard_state, identity, options, found, &damage)?;
            match found.anew.clone() {
                Some(base) => begin_anew(folder, options, ids, &base, found)?,
                None => cut_damaged(folder, options, found)?,
            }
            (Repair::Damaged(damage), true)
        }
    };
    // Even a mark may be in the page cache only; and what follows it in the chain must not outlive it.
    if found.from == ReadFrom::Cache && place > 0 && !rewritten {
        rewrite(folder, number, place, options.segment_bytes)?;
    }
    remove_unused(folder, options, found)?;
    Ok(repair)
}

/// What the damage is that showed at `shown`, a segment and a place in it.
pub(crate) fn damage_of(found: &Found, shown: Option<(u64, u32)>, reason: DamageReason) -> Damage {
    let (segment, place) = shown.unwrap_or((found.next.generation, found.next.place));
    let first_lost = found.index.last().index.next();
    Damage {
        segment,
        offset: u64::from(place) * BLOCK_BYTES as u64,
        first_lost: found.lowest.map_or(first_lost, |lowest| lowest.min(first_lost)),
        reached: found.reached,
        reason,
    }
}

/// Makes the damaged flag durable, before anything is cut.
fn flag<D: Disk>(
    file: &mut HardStateFile<D>,
    identity: &Identity,
    options: &LogOptions,
    found: &Found,
    damage: &Damage,
) -> Result<(), OpenError> {
    let stored = file.stored();
    if alone(identity, found) {
        if !options.accept_loss {
            return Err(OpenError::SingleNodeDamaged(damage.clone()));
        }
        return Ok(file.write(HardState { damaged: false, ..stored.hard_state }, None)?);
    }
    let last = Some(found.index.last().index).filter(|index| *index > LogIndex(0));
    let reached = stored.reached.max(damage.reached).max(last);
    Ok(file.write(HardState { damaged: true, ..stored.hard_state }, reached)?)
}

/// Whether this node is the whole cluster, as far as it knows.
fn alone(identity: &Identity, found: &Found) -> bool {
    match &found.members {
        Some(membership) => membership.all() == [identity.node()].into(),
        None => identity.founding_members().iter().all(|member| member.node == identity.node()),
    }
}

fn cut_torn<D: Disk>(
    folder: &SegmentFolder<D>,
    number: u64,
    place: u32,
    sequence: u64,
) -> Result<String, LogError> {
    let mut segment = AlignedBuffer::default();
    folder.read(number, &mut segment)?;
    let (kept, cut) = segment.split_at(place as usize * BLOCK_BYTES);
    let used = cut.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let name = format!("{TORN}-{sequence:020}");
    folder.keep_aside(&name, &cut[..used.next_multiple_of(BLOCK_BYTES)])?;
    let copies: Vec<String> = folder.aside()?.into_iter().filter(|name| name.starts_with(TORN)).collect();
    for old in &copies[..copies.len().saturating_sub(TORN_COPIES_MAX)] {
        folder.remove_aside(old)?;
    }
    folder.make(number, segment.len() as u64, kept)?;
    Ok(name)
}

fn cut_damaged<D: Disk>(
    folder: &SegmentFolder<D>,
    options: &LogOptions,
    found: &Found,
) -> Result<(), LogError> {
    let (number, place) = (found.next.generation, found.next.place);
    let taken = folder.aside()?;
    let name = |number| name_aside(&taken, number);
    let numbers = folder.numbers()?;
    if numbers.contains(&number) {
        let mut segment = AlignedBuffer::default();
        folder.read(number, &mut segment)?;
        folder.keep_aside(&name(number), &segment)?;
    }
    rewrite(folder, number, place, options.segment_bytes)?;
    for later in numbers.into_iter().filter(|later| (number + 1..=found.last_used).contains(later)) {
        folder.move_aside(later, &name(later))?;
    }
    Ok(())
}

/// A name for a damaged segment in the folder for what was cut that is not `taken`.
fn name_aside(taken: &[String], number: u64) -> String {
    (1..)
        .map(|nth| format!("{DAMAGED}-{number:012}-{nth}"))
        .find(|name| !taken.contains(name))
        .expect("a folder holds fewer than 2^31 names")
}

/// Lets the log begin anew, without entries, at `base`.
fn begin_anew<D: Disk>(
    folder: &SegmentFolder<D>,
    options: &LogOptions,
    ids: LogIds,
    base: &Base,
    found: &mut Found,
) -> Result<(), LogError> {
    let numbers = folder.numbers()?;
    let number = numbers.last().map_or(1, |last| last + 1);
    let (at, batch, checksum) = beginning_at(ids, options, base, number, found.next.sequence);
    folder.make(number, u64::from(at.segment_blocks) * BLOCK_BYTES as u64, &batch)?;
    let taken = folder.aside()?;
    for old in numbers {
        if old <= found.last_used {
            folder.move_aside(old, &name_aside(&taken, old))?;
        } else {
            folder.remove(old)?;
            folder.sync()?;
        }
    }
    found.index = Index::starting_at(base.position, number);
    let place = blocks_of(batch.len() as u64);
    found.next = Position { place, sequence: at.sequence + 1, previous: checksum, ..at };
    found.marked = false;
    Ok(())
}

/// The batch with which a log begins at `base`, without entries: where it stands, itself, and its checksum.
pub(crate) fn beginning_at(
    ids: LogIds,
    options: &LogOptions,
    base: &Base,
    number: u64,
    sequence: u64,
) -> (Position, AlignedBuffer, u32) {
    let record = [Record::Base(BaseRecord { base, last: base.position.index })];
    let needed = batch::blocks_for(record[0].size_bytes()) * BLOCK_BYTES;
    // The options may have become smaller since the base was written.
    let segment_blocks = blocks_of(options.segment_bytes.max(needed as u64));
    let at = Position { generation: number, place: 0, segment_blocks, sequence, previous: 0 };
    let mut batch = AlignedBuffer::default();
    let checksum = batch::encode(&ids, &at, &record, &mut batch);
    (at, batch, checksum)
}

/// Puts a new file in the place of a segment, with the blocks before `place`.
fn rewrite<D: Disk>(
    folder: &SegmentFolder<D>,
    number: u64,
    place: u32,
    bytes_if_empty: u64,
) -> Result<(), LogError> {
    if place == 0 {
        return folder.make(number, bytes_if_empty, &[]).map(drop);
    }
    let mut segment = AlignedBuffer::default();
    folder.read(number, &mut segment)?;
    folder.make(number, segment.len() as u64, &segment[..place as usize * BLOCK_BYTES]).map(drop)
}

/// Removes segments behind the one in use that hold nothing and cannot be the next one, for an entry may be too large
/// for a segment of another size.
fn remove_unused<D: Disk>(
    folder: &SegmentFolder<D>,
    options: &LogOptions,
    found: &Found,
) -> Result<(), LogError> {
    let number = found.next.generation;
    let mut removed = false;
    for later in folder.numbers()?.into_iter().filter(|later| *later > number) {
        if later > number + 1 || folder.open(later)?.bytes() != options.segment_bytes {
            folder.remove(later)?;
            removed = true;
        }
    }
    if removed {
        folder.sync()?;
    }
    Ok(())
}

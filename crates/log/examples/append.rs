//! How long an append takes on this disk: `cargo run --release -p raftmap-log --example append -- DIR [COUNT]`.
//!
//! Each append is one entry of 128 bytes, and one `fdatasync`. Segments are prepared on a thread of their own, as the
//! server does.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmap_log::{FoundingMember, Identity, Log, LogOptions, RealDisk};
use raftmap_raft::{Entry, HardState, LogIndex, NodeId, Payload, Term, Write, WriteId};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("give a folder that does not exist yet")?;
    let count = arguments.next().map_or(Ok(20_000), |count| count.parse())?;
    for entries_in_one in [1, 64] {
        let dir = format!("{dir}-{entries_in_one}");
        let mut times = append(Path::new(&dir), count, entries_in_one)?;
        let total: Duration = times.iter().sum();
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 1000];
        println!(
            "{entries_in_one:3} entries an append: {:.0} entries/s, median {:?}, 99 % {:?}, 99.9 % {:?}, most {:?}",
            (count * entries_in_one) as f64 / total.as_secs_f64(),
            at(500),
            at(990),
            at(999),
            at(1000)
        );
        let begin = Instant::now();
        let (_, recovered) = Log::open(RealDisk, Path::new(&dir), &LogOptions::default())?;
        println!("    a start reads {} entries in {:?}", recovered.last.index, begin.elapsed());
    }
    Ok(())
}

fn append(dir: &Path, count: usize, entries_in_one: usize) -> Result<Vec<Duration>, Box<dyn Error>> {
    let member = FoundingMember {
        node: NodeId(1),
        peer_address: "127.0.0.1:7001".to_owned(),
        client_address: "127.0.0.1:7000".to_owned(),
    };
    let identity = Identity::new(1, NodeId(1), 1, vec![member])?;
    let options = LogOptions::default();
    Log::init(&RealDisk, dir, &identity, &options)?;
    let (mut log, _) = Log::open(RealDisk, dir, &options)?;
    let hard_state = HardState { term: Term(1), vote: Some(NodeId(1)), damaged: false };
    log.write(&[Write { id: WriteId(1), hard_state: Some(hard_state), ..Write::default() }])?;

    let content = Bytes::from(vec![7; 128]);
    let mut last = LogIndex(0);
    let mut preparing = None;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        if let Some(preparation) = log.prepare()? {
            preparing = Some(std::thread::spawn(|| preparation.run()));
        }
        let entries = (0..entries_in_one)
            .map(|_| {
                last = last.next();
                Entry { term: Term(1), index: last, payload: Payload::Command(content.clone()) }
            })
            .collect();
        let write = Write { id: WriteId(last.0 + 1), entries, ..Write::default() };
        let begin = Instant::now();
        log.write(&[write])?;
        times.push(begin.elapsed());
    }
    if let Some(preparing) = preparing {
        preparing.join().map_err(|_| "the preparing thread panicked")??;
    }
    Ok(times)
}

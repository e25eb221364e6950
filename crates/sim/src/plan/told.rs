//! Faults in words.

use std::fmt;

use super::{Crash, Fault, MembersChange, Target};

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(id) => write!(f, "server {id}"),
            Self::Leader => write!(f, "the leader"),
        }
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.power { "loses power" } else { "is killed" })?;
        if self.mid_write {
            f.write_str(" in the middle of a write")?;
        }
        if self.rot {
            f.write_str(", and its disk rots")?;
        }
        if self.engine_lost {
            f.write_str(", and its state is lost")?;
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { target, how, down } => write!(f, "{target} {how}, for {down} s"),
            Self::CrashAll { how, down } => write!(f, "every server {how}, for {down} s"),
            Self::LogRot { target, scrubbed_after } => {
                write!(f, "the log of {target} rots, and is read again after {scrubbed_after} s")
            }
            Self::LyingWrite { target, blocks: None } => write!(f, "the disk of {target} loses a write"),
            Self::LyingWrite { target, blocks: Some(blocks) } => {
                write!(f, "the disk of {target} misplaces a write by {blocks} blocks")
            }
            Self::DiskError { target, operation, short } => {
                let what = if *short { "ends early" } else { "fails" };
                write!(f, "on the disk of {target} operation {operation} from now {what}")
            }
            Self::SlowDisk { target, by, lasts } => {
                write!(f, "the disk of {target} is slower by {by} s, for {lasts} s")
            }
            Self::FullDisk { target, lasts } => {
                write!(f, "the disk of {target} is nearly full, for {lasts} s")
            }
            Self::Partition { links, lasts } => {
                f.write_str("nothing goes")?;
                for (at, (a, b)) in links.iter().enumerate() {
                    write!(f, "{} {a}→{b}", if at == 0 { "" } else { "," })?;
                }
                write!(f, ", for {lasts} s")
            }
            Self::Disconnect { a, b } => write!(f, "the connection between {a} and {b} breaks"),
            Self::Pause { target, lasts } => write!(f, "{target} is stopped, for {lasts} s"),
            Self::ClockJump { target, by_ms } => write!(f, "the clock of {target} jumps by {by_ms} ms"),
            Self::HandOver { target, to: Some(to) } => write!(f, "{target} is to hand over to server {to}"),
            Self::HandOver { target, to: None } => write!(f, "{target} is to hand over"),
            Self::Misapply { target } => write!(f, "{target} is to apply a put to another effect"),
            Self::Upgrade { server } => {
                write!(f, "the older program of server {server} makes way for the newer")
            }
            Self::Members(MembersChange::Add { replaces: None }) => {
                f.write_str("a server is to become a member")
            }
            Self::Members(MembersChange::Add { replaces: Some(_) }) => {
                f.write_str("a server is to take the place of a voter")
            }
            Self::Members(MembersChange::Remove(_)) => f.write_str("a voter is to go"),
            Self::ClientsCut { target, lasts } => {
                write!(f, "clients and {target} do not hear each other, for {lasts} s")
            }
        }
    }
}

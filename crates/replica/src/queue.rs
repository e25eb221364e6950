//! Requests that were let in and have not been proposed or passed on. Nothing in here has happened yet.

use std::collections::VecDeque;

use raftmap_raft::{Ctx, LogIndex};
use raftmap_state::{Body, Operation, TraceContext, WriteRequest};

/// The queue of a replica: commands and reads apart, since reads need not wait for room in the log.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    commands: VecDeque<QueuedCommand>,
    command_bytes: usize,
    reads: VecDeque<(Ctx, LogIndex)>,
}

/// A command that waits to be proposed.
#[derive(Debug)]
pub(crate) struct QueuedCommand {
    pub(crate) ctx: Ctx,
    pub(crate) body: Body,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) size_bytes: usize,
}

impl Queue {
    pub(crate) fn push_command(&mut self, ctx: Ctx, body: Body, trace: Option<TraceContext>) {
        let size_bytes = size_bytes(&body);
        self.command_bytes += size_bytes;
        self.commands.push_back(QueuedCommand { ctx, body, trace, size_bytes });
    }

    pub(crate) fn pop_command(&mut self) -> Option<QueuedCommand> {
        let command = self.commands.pop_front()?;
        self.command_bytes -= command.size_bytes;
        Some(command)
    }

    pub(crate) fn push_read(&mut self, ctx: Ctx, min_revision: LogIndex) {
        self.reads.push_back((ctx, min_revision));
    }

    pub(crate) fn pop_read(&mut self) -> Option<(Ctx, LogIndex)> {
        self.reads.pop_front()
    }

    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Bytes of keys and values of the commands.
    pub(crate) fn command_bytes(&self) -> usize {
        self.command_bytes
    }

    /// Empties the queue.
    pub(crate) fn drain(&mut self) -> Vec<Ctx> {
        let commands = std::mem::take(self);
        let reads = commands.reads.into_iter().map(|read| read.0);
        commands.commands.into_iter().map(|command| command.ctx).chain(reads).collect()
    }
}

/// What a command counts in the queue: its keys and values, and a share for the rest.
pub(crate) fn size_bytes(body: &Body) -> usize {
    const SHARE: usize = 64;
    let operation = |operation: &Operation| match operation {
        Operation::Put(put) => SHARE + put.key.len() + put.value.len(),
        Operation::Delete(key) | Operation::Get(key) => SHARE + key.len(),
    };
    let Body::Write(write) = body else { return SHARE };
    SHARE
        + match &write.request {
            WriteRequest::Put(put) => put.entries.iter().map(|e| SHARE + e.key.len() + e.value.len()).sum(),
            WriteRequest::Delete(delete) => delete.keys.iter().map(|key| SHARE + key.len()).sum::<usize>(),
            WriteRequest::Txn(txn) => {
                let conditions = txn.conditions.iter().map(|condition| SHARE + condition.key.len());
                conditions.sum::<usize>()
                    + txn.then.iter().chain(&txn.otherwise).map(operation).sum::<usize>()
            }
        }
}

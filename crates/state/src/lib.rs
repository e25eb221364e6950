//! The replicated state machine: what the entries of the log mean.

mod answer;
mod command;
pub mod limits;
mod request;
pub mod validate;

pub use answer::{
    Answer, DeleteAnswer, FailureCode, GetAnswer, OperationResult, Outcome, PutAnswer, Record, Refusal,
    ScanAnswer, SessionOpened, TxnAnswer,
};
pub use command::{Body, Command, Member, SessionLimits, Write};
pub use request::{
    Condition, Delete, Expected, Get, Operation, Put, PutEntry, Scan, SessionId, SessionTag, Txn,
    WriteRequest,
};

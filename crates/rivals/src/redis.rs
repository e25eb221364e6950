//! Redis, by its protocol of version 2 (RESP). The few commands of a load need a few lines; the usual library would bring forty
//! crates with it.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::RivalError;

/// Replicas that must have a write before it counts, and how long they may take, in milliseconds.
const REPLICAS: &[u8] = b"1";
const WAIT_MS: &[u8] = b"10000";

/// A connection to Redis, of one caller.
pub struct Redis {
    server: String,
    stream: BufReader<TcpStream>,
    out: BytesMut,
}

/// What Redis answers.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Status(String),
    Integer(i64),
    /// `None`: there is nothing.
    Bulk(Option<Vec<u8>>),
}

impl Redis {
    /// Connects to a master.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn connect(server: &str) -> Result<Self, RivalError> {
        let failed = |source| RivalError::Connection { server: server.to_owned(), source };
        let stream = TcpStream::connect(server).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { server: server.to_owned(), stream: BufReader::new(stream), out: BytesMut::new() })
    }

    /// Sets `key` to `value`, and waits until a replica has it, too.
    ///
    /// # Errors
    /// If Redis refuses, no replica has it in time, or the connection broke.
    pub async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), RivalError> {
        command(&mut self.out, &[b"SET", key, value]);
        self.send_and_wait().await
    }

    /// Sets several keys, and waits until a replica has them, too.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_many(&mut self, entries: &[(Bytes, Bytes)]) -> Result<(), RivalError> {
        let words: Vec<&[u8]> = std::iter::once(&b"MSET"[..])
            .chain(entries.iter().flat_map(|(key, value)| [key.as_ref(), value.as_ref()]))
            .collect();
        command(&mut self.out, &words);
        self.send_and_wait().await
    }

    async fn send_and_wait(&mut self) -> Result<(), RivalError> {
        command(&mut self.out, &[b"WAIT", REPLICAS, WAIT_MS]);
        self.send().await?;
        // Both are read, whatever the first one says: the next call begins behind them.
        let (set, waited) = (self.reply().await?, self.reply().await?);
        match (set?, waited?) {
            (Reply::Status(ok), Reply::Integer(1..)) if ok == "OK" => Ok(()),
            (Reply::Status(ok), Reply::Integer(_)) if ok == "OK" => {
                Err(RivalError::Redis("no replica has it".to_owned()))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Reads `key`; whether it is there.
    ///
    /// # Errors
    /// If Redis refuses, or the connection broke.
    pub async fn get(&mut self, key: &[u8]) -> Result<bool, RivalError> {
        command(&mut self.out, &[b"GET", key]);
        self.send().await?;
        match self.reply().await?? {
            Reply::Bulk(value) => Ok(value.is_some()),
            other => Err(unexpected(&other)),
        }
    }

    async fn send(&mut self) -> Result<(), RivalError> {
        let sent = self.stream.write_all(&self.out).await;
        self.out.clear();
        sent.map_err(|source| self.broken(source))
    }

    /// One answer, or the error that Redis gives in its stead.
    async fn reply(&mut self) -> Result<Result<Reply, RivalError>, RivalError> {
        match read_reply(&mut self.stream).await {
            Ok(reply) => Ok(reply.map_err(RivalError::Redis)),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn broken(&self, source: io::Error) -> RivalError {
        RivalError::Connection { server: self.server.clone(), source }
    }
}

fn unexpected(answer: &impl std::fmt::Debug) -> RivalError {
    RivalError::Redis(format!("it answered {answer:?}"))
}

/// A command is an array of byte strings.
fn command(out: &mut BytesMut, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

async fn read_reply(stream: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Result<Reply, String>> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no answer of Redis"));
    let line = line.strip_suffix("\r\n").ok_or_else(malformed)?;
    let (kind, rest) = line.split_at_checked(1).ok_or_else(malformed)?;
    Ok(Ok(match kind {
        "+" => Reply::Status(rest.to_owned()),
        "-" => return Ok(Err(rest.to_owned())),
        ":" => Reply::Integer(rest.parse().map_err(|_| malformed())?),
        "$" if rest == "-1" => Reply::Bulk(None),
        "$" => {
            let length: u32 = rest.parse().map_err(|_| malformed())?;
            let mut value = Vec::new();
            stream.take(u64::from(length) + 2).read_to_end(&mut value).await?;
            value.truncate(length as usize);
            Reply::Bulk(Some(value))
        }
        _ => return Err(malformed()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<Result<Reply, String>> {
        read_reply(&mut BufReader::new(bytes)).await
    }

    #[test]
    fn a_command_is_an_array_of_byte_strings() {
        let mut out = BytesMut::new();
        command(&mut out, &[b"SET", b"k", b"a\r\nb"]);
        assert_eq!(&out[..], b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
    }

    #[tokio::test]
    async fn answers_of_each_kind_are_read() {
        assert_eq!(read(b"+OK\r\n").await.unwrap(), Ok(Reply::Status("OK".to_owned())));
        assert_eq!(read(b":-7\r\n").await.unwrap(), Ok(Reply::Integer(-7)));
        assert_eq!(read(b"$-1\r\n").await.unwrap(), Ok(Reply::Bulk(None)));
        assert_eq!(read(b"$4\r\na\r\nb\r\n").await.unwrap(), Ok(Reply::Bulk(Some(b"a\r\nb".to_vec()))));
        assert_eq!(read(b"-READONLY no\r\n").await.unwrap(), Err("READONLY no".to_owned()));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for bytes in [&b""[..], b"+OK", b"\r\n", b"?\r\n", b":x\r\n", b"$x\r\n"] {
            assert!(read(bytes).await.is_err(), "{bytes:?}");
        }
    }
}

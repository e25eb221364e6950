//! Takes the body of a request with one message, within limits.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use raftmap_state::validate::InvalidRequest;

use super::budget::Share;
use crate::api::{Code, Failure};

/// In gRPC, and in the streams of Connect, five bytes precede each message: flags, and its length in four bytes,
/// big-endian.
const PREFIX_BYTES: usize = 5;

/// The body, of at most `bytes_max` bytes of message. `framed`: the message has a prefix, which stays.
///
/// The length that a prefix or a header claims refuses a body early, and is otherwise not trusted: memory is taken, and
/// `share` grows, for what has arrived.
///
/// # Errors
/// If the body is larger, ends before its message does, holds more than that, or breaks off; if the server is full.
pub(super) async fn take(
    mut body: Incoming,
    framed: bool,
    bytes_max: usize,
    share: &Share,
) -> Result<Bytes, Failure> {
    let body_max = if framed { bytes_max + PREFIX_BYTES } else { bytes_max };
    if let Some(announced) = body.size_hint().exact() {
        check_size(announced, body_max as u64, bytes_max)?;
    }
    let mut taken = Taken::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| invalid(format!("the request broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        share.grow(data.len())?;
        taken.add(data);
        check_size(taken.len() as u64, body_max as u64, bytes_max)?;
        if let Some(claimed) = taken.claimed().filter(|_| framed) {
            check_size(claimed, bytes_max as u64, bytes_max)?;
        }
    }
    if framed {
        check_frame(&taken)?;
    }
    Ok(taken.into_bytes())
}

fn check_size(actual: u64, allowed: u64, limit: usize) -> Result<(), Failure> {
    if actual <= allowed {
        return Ok(());
    }
    Err(InvalidRequest::TooLarge { field: "request", actual, limit: limit as u64, unit: "bytes" }.into())
}

fn check_frame(taken: &Taken) -> Result<(), Failure> {
    let Some(claimed) = taken.claimed() else {
        return Err(invalid(format!("the request ends after {} bytes, within its prefix", taken.len())));
    };
    let actual = (taken.len() - PREFIX_BYTES) as u64;
    if actual == claimed {
        return Ok(());
    }
    Err(invalid(format!("the request announces one message of {claimed} bytes, and has {actual}")))
}

fn invalid(reason: String) -> Failure {
    Failure::not_applied(Code::Invalid, reason).in_field("request")
}

/// What has arrived. A body that arrives in one piece is not copied.
#[derive(Default)]
struct Taken {
    first: Bytes,
    all: Option<BytesMut>,
}

impl Taken {
    fn add(&mut self, data: Bytes) {
        match &mut self.all {
            Some(all) => all.extend_from_slice(&data),
            None if self.first.is_empty() => self.first = data,
            None => {
                let mut all = BytesMut::with_capacity(self.first.len() + data.len());
                all.extend_from_slice(&self.first);
                all.extend_from_slice(&data);
                self.all = Some(all);
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        self.all.as_ref().map_or(&self.first[..], |all| &all[..])
    }

    fn len(&self) -> usize {
        self.bytes().len()
    }

    /// The length in the prefix, once that is there.
    fn claimed(&self) -> Option<u64> {
        let (_, length) = self.bytes().first_chunk::<PREFIX_BYTES>()?.split_first_chunk::<1>()?;
        Some(u64::from(u32::from_be_bytes(length.try_into().ok()?)))
    }

    fn into_bytes(self) -> Bytes {
        self.all.map_or(self.first, BytesMut::freeze)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pieces: &[&'static [u8]]) -> Taken {
        let mut taken = Taken::default();
        pieces.iter().for_each(|piece| taken.add(Bytes::from_static(piece)));
        taken
    }

    #[test]
    fn pieces_become_one_body() {
        let taken = taken(&[b"\0\0", b"\0\0\x03ab", b"c"]);
        assert_eq!(taken.claimed(), Some(3));
        assert_eq!(check_frame(&taken), Ok(()));
        assert_eq!(taken.into_bytes(), &b"\0\0\0\0\x03abc"[..]);
    }

    #[test]
    fn a_body_is_exactly_one_message() {
        for body in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab"] {
            let failure = check_frame(&taken(&[body])).unwrap_err();
            assert_eq!((failure.code, failure.field), (Code::Invalid, Some("request")), "{body:?}");
        }
        assert_eq!(check_frame(&taken(&[b"\0\0\0\0\0"])), Ok(()), "an empty message is a message");
    }
}

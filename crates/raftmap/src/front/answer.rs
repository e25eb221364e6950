//! What of an answer is not sent yet.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use connectrpc::ConnectRpcBody;
use hyper::body::{Body, Frame, SizeHint};

use super::budget::Share;

/// The largest piece that a connection gets at once, in bytes. HTTP/2 takes a whole piece over as soon as the peer's
/// window has room for one byte of it; with pieces of this size, nearly all of what a slow peer does not take stays here,
/// where it is counted.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// The body of an answer. It holds its share of the budget until its last piece is taken, or nobody waits for it.
pub(super) struct AnswerBody {
    body: ConnectRpcBody,
    rest: Bytes,
    _share: Arc<Share>,
}

impl AnswerBody {
    pub(super) fn new(body: ConnectRpcBody, share: Arc<Share>) -> Self {
        Self { body, rest: Bytes::new(), _share: share }
    }

    fn next_piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(PIECE_BYTES_MAX);
        Frame::data(self.rest.split_to(bytes))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            let Some(Ok(frame)) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(self.next_piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    /// `connectrpc` does not pass on the size that it knows, without which HTTP/1.1 cannot announce a length.
    fn size_hint(&self) -> SizeHint {
        match &self.body {
            ConnectRpcBody::Full(body) if self.rest.is_empty() => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::super::budget::Budget;
    use super::*;

    #[tokio::test]
    async fn a_large_answer_is_handed_out_in_pieces_and_counted_to_the_last() {
        let budget = Budget::new(1 << 20);
        let share = budget.share();
        share.grow(1 << 20).unwrap();
        let whole = Bytes::from((0..=255).cycle().take(200_000).collect::<Vec<_>>());
        let mut body = AnswerBody::new(ConnectRpcBody::Full(Full::new(whole.clone())), share);
        assert_eq!(body.size_hint().exact(), Some(200_000), "HTTP/1.1 announces its length");
        let mut taken = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES_MAX);
            assert!(budget.share().grow(1).is_err(), "the budget is held");
            taken.extend_from_slice(&piece);
        }
        assert!(taken == whole, "the pieces are the whole");
        drop(body);
        assert!(budget.share().grow(1).is_ok());
    }
}

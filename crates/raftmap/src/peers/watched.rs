//! A socket that remembers what came through it, and what broke it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Lost;

/// A socket under HTTP/2, which tells neither how much arrived nor what TLS had against it.
#[derive(Debug)]
pub(super) struct Watched<IO> {
    pub(super) io: IO,
    pub(super) seen: Arc<Seen>,
}

/// What was seen on a socket.
#[derive(Debug, Default)]
pub(super) struct Seen {
    bytes: AtomicU64,
    error: OnceLock<String>,
}

impl Seen {
    /// Bytes that have arrived.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What ended a connection: the first error of the socket if there was one, else what HTTP/2 says.
    pub(super) fn lost(&self, error: &h2::Error) -> Lost {
        Lost::Broken(self.error.get().cloned().unwrap_or_else(|| error.to_string()))
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            self.error.get_or_init(|| explain(error));
        })
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.io).poll_read(context, buffer));
        let bytes = buffer.filled().len() - before;
        self.seen.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Poll::Ready(self.seen.note(result))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// An error of a socket in the words of an operator: what TLS says, and what it usually means here.
pub(super) fn explain(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls.and_then(meaning) {
        Some(meaning) => format!("{error}: {meaning}"),
        None => error.to_string(),
    }
}

fn meaning(error: &rustls::Error) -> Option<&'static str> {
    Some(match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the other side does not speak TLS; was it started with --insecure?"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "the other side's certificate is of another authority",
        rustls::Error::NoCertificatesPresented => "the other side shows no certificate",
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA | AlertDescription::BadCertificate | AlertDescription::DecryptError,
        ) => "the other side does not trust this server's certificate; are both of the same authority?",
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the other side wants a certificate"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "the other side says that this server's certificate has expired"
        }
        _ => return None,
    })
}

//! A hand-made peer, which says what no server would say.

use std::net::SocketAddr;
use std::sync::Arc;

use buffa::Message;
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client};
use http::Request;
use raftmap_proto::peer;
use raftmap_proto::peer::peer_frame::Frame;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::servers::{CLUSTER_ID, PATIENCE, member};

/// A stream to a server's port for peers.
pub(crate) struct Raw {
    pub(crate) send: SendStream<Bytes>,
    receive: RecvStream,
    buffer: BytesMut,
    _connection: AbortOnDropHandle<()>,
}

impl Raw {
    pub(crate) async fn plaintext(address: SocketAddr) -> Self {
        Self::over("Stream", TcpStream::connect(address).await.unwrap()).await
    }

    pub(crate) async fn tls(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::calling("Stream", address, config).await
    }

    /// A call for a snapshot.
    pub(crate) async fn snapshot(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::calling("Snapshot", address, config).await
    }

    async fn calling(call: &str, address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        Self::over(call, TlsConnector::from(config).connect(name, socket).await.unwrap()).await
    }

    async fn over(call: &str, io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (requests, connection) = client::handshake(io).await.unwrap();
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let request = Request::post(format!("http://peer/raftmap.peer.v1.Peer/{call}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut requests = requests.ready().await.unwrap();
        let (response, send) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        Self { send, receive: response.into_body(), buffer: BytesMut::new(), _connection: connection }
    }

    pub(crate) fn bytes(&mut self, bytes: impl Into<Bytes>) {
        self.send.send_data(bytes.into(), false).unwrap();
    }

    /// Sends a frame, and says how many bytes it has.
    pub(crate) fn frame(&mut self, frame: Frame) -> usize {
        let message = peer::PeerFrame { frame: Some(frame) }.encode_to_vec();
        let mut bytes = BytesMut::new();
        bytes.put_u8(0);
        bytes.put_u32(message.len().try_into().unwrap());
        bytes.put_slice(&message);
        let len = bytes.len();
        self.bytes(bytes);
        len
    }

    /// The next frame; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if self.buffer.len() >= 5 {
                let len = usize::try_from(u32::from_be_bytes(self.buffer[1..5].try_into().unwrap())).unwrap();
                if self.buffer.len() >= 5 + len {
                    let frame = self.buffer.split_to(5 + len).freeze().slice(5..);
                    return Some(peer::PeerFrame::decode(&mut frame.clone()).unwrap().frame.unwrap());
                }
            }
            match timeout(PATIENCE, self.receive.data()).await.expect("an answer in time") {
                Some(Ok(data)) => {
                    self.buffer.extend_from_slice(&data);
                    self.receive.flow_control().release_capacity(data.len()).unwrap();
                }
                _ => return None,
            }
        }
    }

    /// The reason of the refusal that comes next, behind which the stream ends.
    pub(crate) async fn refusal(&mut self) -> String {
        match self.next().await {
            Some(Frame::Refusal(refusal)) => {
                assert_eq!(self.next().await, None, "nothing follows a refusal");
                refusal.reason
            }
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// Says hello, and hears it.
    pub(crate) async fn greet(&mut self, id: u64, peer: u64) {
        self.frame(Frame::Hello(hello(id, peer)));
        let answer = self.next().await;
        assert!(matches!(answer, Some(Frame::Hello(_))), "{answer:?} instead of a hello");
    }
}

/// What server `id` says to server `peer`.
pub(crate) fn hello(id: u64, peer: u64) -> peer::Hello {
    let bytes = |value: u128| Bytes::copy_from_slice(&value.to_le_bytes());
    let group =
        peer::GroupHello { group_id: 1, founding_hash: bytes(member(id).founding_hash), damaged: false };
    peer::Hello {
        protocol: 1,
        version: "0".to_owned(),
        cluster_id: bytes(CLUSTER_ID),
        node_id: id,
        peer_id: peer,
        incarnation: bytes(member(id).incarnation),
        client_address: String::new(),
        peer_address: String::new(),
        groups: vec![group],
        // Of a program without levels.
        level: 0,
    }
}

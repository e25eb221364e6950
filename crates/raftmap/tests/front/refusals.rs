//! What the front door refuses, and that it goes on afterwards.

use bytes::{BufMut, Bytes, BytesMut};
use connectrpc::{ConnectError, Protocol};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use raftmap::front::FrontDoorConfig;
use raftmap::tls::config::{ALPN_H2, ALPN_HTTP1, Credentials};
use raftmap_proto::v1;
use raftmap_proto::v1::failure::{Code, Outcome};
use raftmap_state::validate::RequestLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Certificates, House, bytes, failure, get, json_failure, put, soon, until};

/// Small enough to pass, large enough to be real.
fn small_limits() -> RequestLimits {
    RequestLimits {
        key_bytes_max: 8,
        value_bytes_max: 1 << 10,
        request_bytes_max: 4 << 10,
        answer_bytes_max: 2 << 10,
        operations_max: 16,
    }
}

async fn small_house() -> House {
    House::with(FrontDoorConfig::default(), small_limits()).await
}

fn is(error: &ConnectError, code: Code, field: &str, limit: u64) {
    let failure = failure(error);
    let found = (failure.code.as_known().unwrap(), failure.field.as_str(), failure.limit);
    assert_eq!(found, (code, field, limit), "{failure:?}");
    assert_eq!(failure.outcome.as_known(), Some(Outcome::NOT_APPLIED));
    assert!(!failure.reason.is_empty());
}

/// Item 10: no certificate, or one of another authority, does not get past the handshake.
#[tokio::test]
async fn without_a_certificate_of_the_authority_there_is_no_connection() {
    let house = House::open().await;
    let nobody = house.certificates.without_certificate();
    let reason = refused_handshake(&house, nobody).await;
    assert!(reason.contains("CertificateRequired"), "{reason}");

    let strangers = Certificates::new("ours");
    let files = strangers.files_with_authority("client", house.certificates.folder.path());
    let stranger = Credentials::load(&files).unwrap().dialler().unwrap();
    let reason = refused_handshake(&house, stranger).await;
    assert!(reason.contains("UnknownCA") || reason.contains("DecryptError"), "{reason}");

    soon(house.map().await.get(get(&["a"]))).await.unwrap();
}

/// In TLS 1.3 the client is done before the server has seen its certificate: the alert comes with the first read.
async fn refused_handshake(house: &House, tls: std::sync::Arc<rustls::ClientConfig>) -> String {
    let mut stream = match house.dial_with(tls, &[ALPN_H2]).await {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let mut byte = [0];
    soon(stream.read_exact(&mut byte)).await.unwrap_err().to_string()
}

/// Item 10: who does not speak TLS is refused, with an alert.
#[tokio::test]
async fn plaintext_is_refused() {
    let house = House::open().await;
    let mut socket = tokio::net::TcpStream::connect(house.address()).await.unwrap();
    socket.write_all(b"POST /raftmap.v1.Map/Get HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset = soon(socket.read_to_end(&mut answer)).await;
    const ALERT: u8 = 21;
    assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
    soon(house.map().await.get(get(&["a"]))).await.unwrap();
}

/// Item 10: the right authority, another cluster.
#[tokio::test]
async fn a_certificate_of_another_cluster_is_told_so() {
    let house = House::open().await;
    let strangers = Certificates::signed_by_the_same_authority(&house.certificates, "theirs");
    let tls = strangers.credentials("client").dialler().unwrap();
    let clients = house.clients_with(tls, Protocol::Grpc).await.unwrap();
    let error = soon(clients.map.put(put("a", "1"))).await.unwrap_err();
    assert_eq!(error.code, connectrpc::ErrorCode::PermissionDenied);
    is(&error, Code::DENIED, "", 0);
    let reason = failure(&error).reason;
    assert_eq!(reason, "the certificate is of cluster theirs, this is cluster ours");
}

/// Item 11, by both protocols.
#[tokio::test]
async fn malformed_requests_are_refused_with_code_field_and_limit() {
    let house = small_house().await;
    for protocol in [Protocol::Grpc, Protocol::Connect] {
        let clients = house.clients("client", protocol).await;
        let map = &clients.map;
        let refused = async |request: v1::PutRequest| soon(map.put(request)).await.unwrap_err();
        is(&refused(v1::PutRequest::default()).await, Code::INVALID, "entries", 0);
        is(&refused(put("", "v")).await, Code::INVALID, "entries.key", 0);
        is(&refused(put("123456789", "v")).await, Code::TOO_LARGE, "entries.key", 8);
        is(&refused(put("k", &"v".repeat(1025))).await, Code::TOO_LARGE, "entries.value", 1024);
        let twice = [put("k", "1").entries, put("k", "2").entries].concat();
        let request = v1::PutRequest { entries: twice, ..Default::default() };
        is(&refused(request).await, Code::INVALID, "entries.key", 0);
        let many = (0..17).flat_map(|number| put(&number.to_string(), "v").entries).collect();
        let request = v1::PutRequest { entries: many, ..Default::default() };
        is(&refused(request).await, Code::TOO_LARGE, "entries", 16);
        let request = v1::PutRequest { map: "other".to_owned(), ..put("k", "v") };
        is(&refused(request).await, Code::UNSUPPORTED, "map", 0);
        let request = v1::PutRequest { request_id: "r".repeat(129), ..put("k", "v") };
        is(&refused(request).await, Code::TOO_LARGE, "request_id", 128);

        let session = |session_id, sequence| {
            let tag = v1::SessionTag { session_id, sequence, ..Default::default() };
            v1::PutRequest { session: tag.into(), ..put("k", "v") }
        };
        is(&refused(session(0, 1)).await, Code::INVALID, "session.session_id", 0);
        is(&refused(session(1, 0)).await, Code::INVALID, "session.sequence", 0);
        let unknown = failure(&refused(session(99, 1)).await);
        assert_eq!(unknown.code.as_known(), Some(Code::SESSION_UNKNOWN));

        let unset = v1::TxnRequest { then: vec![v1::Operation::default()], ..Default::default() };
        is(&soon(map.txn(unset)).await.unwrap_err(), Code::INVALID, "then.operation", 0);
        let condition = v1::Condition { key: bytes("k"), expected: None };
        let unset = v1::TxnRequest { conditions: vec![condition], ..Default::default() };
        is(&soon(map.txn(unset)).await.unwrap_err(), Code::INVALID, "conditions.expected", 0);
        let unknown = v1::GetRequest { consistency: 7.into(), ..get(&["k"]) };
        is(&soon(map.get(unknown)).await.unwrap_err(), Code::INVALID, "consistency", 0);
        let scan = v1::ScanRequest { start: bytes("123456789"), ..Default::default() };
        is(&soon(map.scan_page(scan)).await.unwrap_err(), Code::TOO_LARGE, "start", 8);

        let read = soon(map.get(get(&["k"]))).await.unwrap().into_owned();
        assert!(read.results[0].entry.as_option().is_none(), "nothing was written");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_refused() {
    let house = small_house().await;
    let map = house.map().await;
    for key in ["a", "b"] {
        soon(map.put(put(key, &"v".repeat(1000)))).await.unwrap();
    }
    soon(map.get(get(&["a"]))).await.unwrap();
    is(&soon(map.get(get(&["a", "b"]))).await.unwrap_err(), Code::TOO_LARGE, "keys", 2 << 10);

    let reads =
        ["a", "b"].map(|key| v1::Operation { operation: Some(v1::operation::Operation::Get(bytes(key))) });
    let request = v1::TxnRequest { then: reads.to_vec(), ..Default::default() };
    let refused = failure(&soon(map.txn(request)).await.unwrap_err());
    assert_eq!((refused.code.as_known(), refused.limit), (Some(Code::TOO_LARGE), 2 << 10));
    assert_eq!(refused.outcome.as_known(), Some(Outcome::NOT_APPLIED));
}

#[tokio::test]
async fn what_json_cannot_mean_is_invalid() {
    let house = small_house().await;
    for body in [
        r#"{"keys":["YQ=="]"#,
        r#"{"keys":["not base64!"]}"#,
        r#"{"keys":"YQ=="}"#,
        r#"{"keys":["YQ=="],"consistency":"SOMETIMES"}"#,
        r#"{"keys":["YQ=="],"minRevision":-1}"#,
        "",
    ] {
        let (status, error) = house.json("Get", body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}: {error}");
        assert_eq!(json_failure(&error).code.as_known(), Some(Code::INVALID), "{body}");
    }
    let (status, error) = house.json("Get", &format!(r#"{{"requestId":"{}"}}"#, "r".repeat(5000))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let failure = json_failure(&error);
    assert_eq!((failure.code.as_known(), failure.field.as_str()), (Some(Code::TOO_LARGE), "request"));
}

#[tokio::test]
async fn calls_that_there_are_not_are_unsupported() {
    let house = House::open().await;
    let (status, error) = house.json("Increment", "{}").await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(json_failure(&error).code.as_known(), Some(Code::UNSUPPORTED));

    let compressed = Request::post("/raftmap.v1.Map/Get")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("content-encoding", "gzip")
        .body(Full::new(bytes("{}")))
        .unwrap();
    let (status, body) = house.http1(compressed).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    let failure = json_failure(&serde_json::from_slice(&body).unwrap());
    assert_eq!(failure.code.as_known(), Some(Code::UNSUPPORTED));

    let no_query = Request::get("/raftmap.v1.Map/Get")
        .header("host", "localhost")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let (status, body) = house.http1(no_query).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let failure = json_failure(&serde_json::from_slice(&body).unwrap());
    assert_eq!(failure.code.as_known(), Some(Code::INVALID));
}

#[tokio::test]
async fn what_is_no_call_at_all_says_so_with_a_detail() {
    let house = House::open().await;
    let refused = async |request: Request<Full<Bytes>>| {
        let (status, body) = house.http1(request).await;
        (status, json_failure(&serde_json::from_slice(&body).unwrap()))
    };
    let request = |call: &str, media: &str| {
        Request::post(format!("/raftmap.v1.Map/{call}"))
            .header("host", "localhost")
            .header("content-type", media)
    };
    let text = request("Get", "text/plain").body(Full::new(bytes("a"))).unwrap();
    let (status, failure) = refused(text).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(failure.code.as_known(), Some(Code::UNSUPPORTED));

    let mut delete = request("Get", "application/json").body(Full::new(bytes("{}"))).unwrap();
    *delete.method_mut() = http::Method::DELETE;
    let (status, failure) = refused(delete).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(failure.code.as_known(), Some(Code::UNSUPPORTED));

    // A stream that is called as if it were none is refused before its body is there.
    let mut stream = house.dial("client", &[ALPN_HTTP1]).await;
    let head = "POST /raftmap.v1.Map/Pipeline HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}content-length: 100\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 501");
}

/// What a stranger writes comes back in a reason, which travels in the head of an answer: never at length.
#[tokio::test]
async fn a_reason_quotes_no_more_than_a_line() {
    let house = House::open().await;
    let request = v1::PutRequest { map: "m\n".repeat(100_000), ..put("a", "1") };
    let error = soon(house.map().await.put(request)).await.unwrap_err();
    is(&error, Code::UNSUPPORTED, "map", 0);
    assert!(failure(&error).reason.len() < 300, "{}", failure(&error).reason);

    let mut raw = Raw::connect(&house).await;
    let failure = raw.failure(&"x".repeat(4000), framed(0, b"")).await;
    assert_eq!(failure.code.as_known(), Some(Code::UNSUPPORTED));
    assert!(failure.reason.len() < 300, "{}", failure.reason);
}

/// One budget over all connections: requests that run, and answers that are not taken.
#[tokio::test]
async fn what_is_held_for_clients_is_bounded_over_all_connections() {
    let config = FrontDoorConfig { held_bytes_max: 1 << 20, ..Default::default() };
    let house = House::with(config, RequestLimits::default()).await;
    let value = "v".repeat(600_000);
    house.node.hold();
    let first = tokio::spawn({
        let (map, request) = (house.map().await, put("a", &value));
        async move { map.put(request).await.map(|_| ()) }
    });
    until(|| house.node.waiting() == 1).await;
    let map = house.map().await;
    is(&soon(map.put(put("b", &value))).await.unwrap_err(), Code::OVERLOADED, "", 1 << 20);
    house.node.release();
    soon(first).await.unwrap().unwrap();
    soon(map.put(put("b", &value))).await.unwrap();

    let mut raw = Raw::connect(&house).await;
    let read = framed(3, b"\x12\x01a");
    let untaken = raw.send("Get", read.clone()).await;
    assert_eq!(untaken.status(), StatusCode::OK);
    let refused = soon(map.get(get(&["a"]))).await.map(|_| ()).unwrap_err();
    is(&refused, Code::OVERLOADED, "", 1 << 20);
    drop(untaken);
    soon(async {
        while map.get(get(&["a"])).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One connection of HTTP/2 on which gRPC is spoken by hand.
struct Raw(hyper::client::conn::http2::SendRequest<Full<Bytes>>, String);

impl Raw {
    async fn connect(house: &House) -> Self {
        let stream = house.dial("client", &[ALPN_H2]).await;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self(sender, format!("https://{}", house.address()))
    }

    /// Sends `body` to a call. Of the answer it takes no more than fits into the smallest window.
    async fn send(&mut self, call: &str, body: Bytes) -> Response<Incoming> {
        let request = Request::post(format!("{}/raftmap.v1.Map/{call}", self.1))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body))
            .unwrap();
        soon(self.0.send_request(request)).await.unwrap()
    }

    /// Sends `body` to a call, and gives the failure that comes back.
    async fn failure(&mut self, call: &str, body: Bytes) -> v1::Failure {
        let (head, body) = self.send(call, body).await.into_parts();
        assert_eq!(head.status, StatusCode::OK);
        let body = soon(body.collect()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let details = trailers.get("grpc-status-details-bin").or(head.headers.get("grpc-status-details-bin"));
        grpc_failure(details.expect("an error with details").to_str().unwrap())
    }
}

/// `google.rpc.Status`: the first of its details (field 3), an `Any` whose value (field 2) is the failure.
fn grpc_failure(header: &str) -> v1::Failure {
    use base64::Engine as _;
    use buffa::Message as _;
    let status = base64::engine::general_purpose::STANDARD_NO_PAD.decode(header).unwrap();
    let any = field(&status, 3).expect("a detail");
    assert_eq!(field(any, 1).unwrap(), b"type.googleapis.com/raftmap.v1.Failure");
    v1::Failure::decode_from_slice(field(any, 2).unwrap()).unwrap()
}

/// The first length-delimited field `number` of a message.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    let varint = |message: &mut &[u8]| {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = message.split_first()?;
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    while !message.is_empty() {
        let key = varint(&mut message)?;
        if key & 7 == 0 {
            varint(&mut message)?;
            continue;
        }
        let length = usize::try_from(varint(&mut message)?).ok()?;
        let (content, rest) = message.split_at_checked(length)?;
        if key >> 3 == number {
            return Some(content);
        }
        message = rest;
    }
    None
}

fn framed(claimed: u32, content: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(claimed);
    body.extend_from_slice(content);
    body.freeze()
}

/// Item 11: what is not a message. The connection goes on.
#[tokio::test]
async fn broken_framing_is_refused_on_a_connection_that_goes_on() {
    let house = small_house().await;
    let mut raw = Raw::connect(&house).await;
    for call in ["Get", "Scan", "Pipeline"] {
        let huge = raw.failure(call, framed(u32::MAX, b"abc")).await;
        assert_eq!(huge.code.as_known(), Some(Code::TOO_LARGE), "{call}: {huge:?}");
        let truncated_message = raw.failure(call, framed(3, b"\x12\x05a")).await;
        assert_eq!(truncated_message.code.as_known(), Some(Code::INVALID), "{call}: {truncated_message:?}");
    }
    for call in ["Get", "Scan"] {
        let huge = raw.failure(call, framed(u32::MAX, b"abc")).await;
        assert_eq!((huge.field.as_str(), huge.limit), ("request", 4 << 10));
        for body in
            [framed(9, b"\x12\x01a"), framed(1, b"\x12\x01a"), Bytes::from_static(b"\0\0"), Bytes::new()]
        {
            let failure = raw.failure(call, body.clone()).await;
            let found = (failure.code.as_known(), failure.field.as_str());
            assert_eq!(found, (Some(Code::INVALID), "request"), "{call} {body:?}");
        }
        let large = raw.failure(call, framed(5000, &[0; 5000])).await;
        assert_eq!((large.code.as_known(), large.limit), (Some(Code::TOO_LARGE), 4 << 10));
    }
    let map = house.map().await;
    soon(map.put(put("a", "1"))).await.unwrap();
}

/// A body that never ends is cut at the limit, and a body that never comes at the deadline.
#[tokio::test]
async fn a_body_is_cut_at_its_limit_and_at_its_deadline() {
    let house = small_house().await;
    let mut stream = house.dial("client", &[ALPN_HTTP1]).await;
    let head = "POST /raftmap.v1.Map/Get HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    stream.write_all(format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let chunk = [b"400\r\n".as_slice(), &[b' '; 0x400], b"\r\n"].concat();
    let answer = soon(async {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let endless = async { while writer.write_all(&chunk).await.is_ok() {} };
        let mut answer = Vec::new();
        let _reset = tokio::join!(endless, reader.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    });
    let answer = answer.await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

    let mut stream = house.dial("client", &[ALPN_HTTP1]).await;
    let never = format!("{head}connect-timeout-ms: 50\r\ncontent-length: 100\r\n\r\n");
    stream.write_all(never.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
}

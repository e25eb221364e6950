//! Connections: their caps, their deadlines, their end.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::Protocol;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use raftmap::front::FrontDoorConfig;
use raftmap::tls::config::{ALPN_H2, ALPN_HTTP1};
use raftmap_proto::v1::failure::Code;
use raftmap_state::validate::RequestLimits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{House, PATIENCE, bytes, code, get, put, soon, until};

/// Waits until the other end closes, whatever it says before.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let _reset = soon(stream.read_to_end(&mut rest)).await;
}

async fn house(config: FrontDoorConfig) -> House {
    House::with(config, RequestLimits::default()).await
}

/// Never reached by accident: what a test does not shorten lasts longer than its patience.
fn patient() -> FrontDoorConfig {
    FrontDoorConfig {
        handshake_timeout: 10 * PATIENCE,
        head_timeout: 10 * PATIENCE,
        idle_timeout: 10 * PATIENCE,
        drain_timeout: 10 * PATIENCE,
        ..Default::default()
    }
}

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_silent_socket_loses_its_handshake() {
    let house = house(FrontDoorConfig { handshake_timeout: SHORT, ..patient() }).await;
    closed(&mut TcpStream::connect(house.address()).await.unwrap()).await;
}

/// The timer of a connection from `from` to `to`, as the kernel tells it (proc(5), /proc/net/tcp): 2 is that of keepalive.
fn timer(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| words[1] == hex(from) && words[2] == hex(to))?;
    line[5].split(':').next().map(str::to_owned)
}

/// However it is used: nobody else would miss the other end of a watch over HTTP/1.1.
#[tokio::test]
async fn a_connection_is_asked_whether_its_other_end_is_there() {
    let house = house(patient()).await;
    let client = house.dial("client", &[ALPN_HTTP1]).await;
    let address = client.get_ref().0.local_addr().unwrap();
    until(|| timer(house.address(), address).as_deref() == Some("02")).await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed() {
    let house = house(FrontDoorConfig { head_timeout: SHORT, ..patient() }).await;
    for alpn in [ALPN_H2, ALPN_HTTP1] {
        closed(&mut house.dial("client", &[alpn]).await).await;
        let mut halfway = house.dial("client", &[alpn]).await;
        let head: &[u8] = if alpn == ALPN_H2 { b"PRI * HTTP/2.0\r\n" } else { b"POST / HTTP/1.1\r\nho" };
        halfway.write_all(head).await.unwrap();
        closed(&mut halfway).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_used_one_is_not() {
    let house = house(FrontDoorConfig { head_timeout: SHORT, idle_timeout: SHORT, ..patient() }).await;
    let mut idle = house.dial("client", &[ALPN_HTTP1]).await;
    let request = "POST /raftmap.v1.Map/Get HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n";
    idle.write_all(format!("{request}content-type: application/json\r\n\r\n{{}}").as_bytes()).await.unwrap();
    closed(&mut idle).await;

    house.node.hold();
    let stream = house.dial("client", &[ALPN_HTTP1]).await;
    let (mut http1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let waiting = http1.send_request(read());
    let others = async {
        until(|| house.node.waiting() == 1).await;
        // Each is looked at, and closed, as often as the one that waits.
        for _ in 0..4 {
            closed(&mut house.dial("client", &[ALPN_H2]).await).await;
        }
        house.node.release();
    };
    let (answer, ()) = soon(async { tokio::join!(waiting, others) }).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("connection")), (200, None));
}

fn read() -> Request<Full<Bytes>> {
    Request::post("/raftmap.v1.Map/Get")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(bytes(r#"{"keys":["YQ=="]}"#)))
        .unwrap()
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_and_those_within_go_on() {
    let house = house(FrontDoorConfig { connections_max: 2, ..patient() }).await;
    let map = house.map().await;
    soon(map.put(put("a", "1"))).await.unwrap();
    let second = house.dial("client", &[ALPN_H2]).await;
    closed(&mut TcpStream::connect(house.address()).await.unwrap()).await;
    soon(map.put(put("a", "2"))).await.unwrap();

    drop(second);
    soon(async {
        while house
            .clients_with(house.certificates.credentials("client").dialler().unwrap(), Protocol::Grpc)
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn strangers_in_their_handshake_do_not_take_the_place_of_clients() {
    let house = house(FrontDoorConfig { handshakes_max: 1, ..patient() }).await;
    let map = house.map().await;
    let first = TcpStream::connect(house.address()).await.unwrap();
    closed(&mut TcpStream::connect(house.address()).await.unwrap()).await;
    soon(map.put(put("a", "1"))).await.unwrap();
    drop(first);
    soon(async {
        let tls = house.certificates.credentials("client").dialler().unwrap();
        while house.clients_with(tls.clone(), Protocol::Grpc).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_head_that_is_too_long_is_refused() {
    let house = house(FrontDoorConfig { head_bytes_max: 8 << 10, ..patient() }).await;
    let request = |length| {
        let mut request = read();
        request.headers_mut().insert("x-long", "x".repeat(length).parse().unwrap());
        request
    };
    assert_eq!(house.http1(request(1000)).await.0, 200);
    assert_eq!(house.http1(request(20_000)).await.0, 431);

    let stream = house.dial("client", &[ALPN_H2]).await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut long = request(20_000);
    *long.uri_mut() = format!("https://{}/raftmap.v1.Map/Get", house.address()).parse().unwrap();
    let refused = soon(sender.send_request(long)).await;
    assert!(refused.map_or(true, |response| response.status() == 431));
    soon(house.map().await.get(get(&["a"]))).await.unwrap();
}

/// Graceful: what is under way ends, and nothing new begins.
#[tokio::test]
async fn a_door_that_closes_answers_what_is_under_way() {
    let house = house(patient()).await;
    let map = house.map().await;
    soon(map.put(put("a", "1"))).await.unwrap();
    let stream = house.dial("client", &[ALPN_HTTP1]).await;
    let (mut http1, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let idle = house.map().await;
    soon(idle.get(get(&["a"]))).await.unwrap();

    house.node.hold();
    let first = tokio::spawn({
        let map = map.clone();
        async move { map.get(get(&["a"])).await.map(|answer| answer.into_owned()) }
    });
    let second = tokio::spawn(async move {
        let response = http1.send_request(read()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    });
    let node = std::sync::Arc::clone(&house.node);
    until(|| node.waiting() == 2).await;

    let address = house.address();
    let closing = tokio::spawn(house.door.close());
    soon(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(!closing.is_finished());
    node.release();
    assert_eq!(soon(first).await.unwrap().unwrap().results.len(), 1);
    assert!(String::from_utf8_lossy(&soon(second).await.unwrap()).contains("MQ=="));
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn a_door_that_closes_does_not_wait_beyond_its_deadline() {
    let house = house(FrontDoorConfig { drain_timeout: SHORT, ..patient() }).await;
    let map = house.map().await;
    house.node.hold();
    let stuck = tokio::spawn(async move { map.get(get(&["a"])).await.map(|_| ()) });
    let node = std::sync::Arc::clone(&house.node);
    until(|| node.waiting() == 1).await;
    soon(house.door.close()).await;
    soon(stuck).await.unwrap().unwrap_err();
    until(|| node.waiting() == 0).await;
}

#[tokio::test]
async fn a_deadline_ends_what_the_node_does_not_answer() {
    let house = house(FrontDoorConfig { request_timeout: SHORT, ..patient() }).await;
    house.node.hold();
    let late = soon(house.map().await.put(put("a", "1"))).await.unwrap_err();
    assert_eq!(code(&late), Code::DEADLINE);
}

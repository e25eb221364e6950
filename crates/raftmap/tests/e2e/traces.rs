//! Requests that are followed through all servers, by a collector of this test.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use connectrpc::Protocol;
use connectrpc::client::{CallOptions, ClientConfig, Http2Connection, SharedHttp2Connection};
use raftmap::local_cluster::CLIENT;
use raftmap::tls::config::{Credentials, TlsFiles};
use raftmap_proto::v1;
use raftmap_raft::NodeId;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, World, soon, until};

/// The caller's own trace and span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// What came to the collector: which server sent it, and the span.
type Spans = Arc<Mutex<Vec<(String, Value)>>>;

/// Takes what servers send, with all of HTTP/1.1 that they need.
async fn collect(listener: TcpListener, spans: Spans) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(take(stream, Arc::clone(&spans)));
    }
}

async fn take(mut stream: TcpStream, spans: Spans) {
    let mut taken = Vec::new();
    let (head, length) = loop {
        assert!(stream.read_buf(&mut taken).await.unwrap() > 0, "a whole request comes");
        let Some(end) = taken.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(taken[..end].to_vec()).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        break (head.clone(), end + 4 + length.parse::<usize>().unwrap());
    };
    while taken.len() < length {
        assert!(stream.read_buf(&mut taken).await.unwrap() > 0, "a whole body comes");
    }
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let body = head.len() + 4;
    let request: Value = serde_json::from_slice(&taken[body..length]).unwrap();
    let resource = &request["resourceSpans"][0];
    let instance = resource["resource"]["attributes"].as_array().unwrap();
    let named = instance.iter().find(|attribute| attribute["key"] == "service.instance.id").unwrap();
    let server = named["value"]["stringValue"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let new = resource["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    spans.lock().unwrap().extend(new.into_iter().map(|span| (server.clone(), span)));
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(answer.as_bytes()).await.unwrap();
}

struct Collected {
    world: World,
    spans: Spans,
}

impl Collected {
    /// Servers that send the spans of a share of all requests.
    async fn start(ratio: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = format!("http://{}", listener.local_addr().unwrap());
        let spans = Spans::default();
        tokio::spawn(collect(listener, Arc::clone(&spans)));
        let world = World::start_with(&["--traces-to", &to, "--traces-ratio", ratio]).await;
        Self { world, spans }
    }

    /// The spans of a trace.
    fn of(&self, trace: &str) -> Vec<(String, Value)> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|(_, span)| span["traceId"] == trace).cloned().collect()
    }

    async fn map(&self, server: NodeId) -> v1::MapClient<SharedHttp2Connection> {
        let certs = self.world.certs_dir();
        let files = TlsFiles {
            ca: certs.join("ca.pem"),
            certificate: certs.join(format!("{CLIENT}.pem")),
            key: certs.join(format!("{CLIENT}.key")),
        };
        let tls = Credentials::load(&files).unwrap().dialler().unwrap();
        let uri: http::Uri = format!("https://{}", self.world.client_address(server)).parse().unwrap();
        let connection = Http2Connection::connect_tls(uri.clone(), tls).await.unwrap().shared(1);
        let config = ClientConfig::new(uri).with_protocol(Protocol::Grpc).with_default_timeout(PATIENCE);
        v1::MapClient::new(connection, config)
    }

    /// Waits until spans of these names, each of these servers, are there, and no others; gives the id of the first one.
    async fn complete(&self, trace: &str, expected: &[(&str, &[NodeId])]) -> String {
        let wanted: BTreeSet<(String, String)> = expected
            .iter()
            .flat_map(|(name, servers)| servers.iter().map(|id| ((*name).to_owned(), id.to_string())))
            .collect();
        let what = format!("the spans {wanted:?} to come");
        let spans = until(&what, async || {
            let spans = self.of(trace);
            let named = |(server, span): &(String, Value)| {
                (span["name"].as_str().unwrap().to_owned(), server.clone())
            };
            let there: BTreeSet<_> = spans.iter().map(named).collect();
            assert!(there.is_subset(&wanted), "{there:?}");
            (there == wanted).then_some(spans)
        })
        .await;
        assert_eq!(spans.len(), wanted.len(), "each is there once: {spans:#?}");
        let first = spans.iter().map(|of| &of.1).find(|span| span["kind"] == 2).unwrap();
        let id = first["spanId"].as_str().unwrap().to_owned();
        assert_eq!(first["parentSpanId"], SPAN, "it is a part of its caller's span");
        for (_, span) in spans.iter().filter(|(_, span)| span["kind"] != 2) {
            assert_eq!(span["parentSpanId"], id.as_str(), "it is a part of the request: {span:#}");
        }
        id
    }
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn put(request_id: &str) -> v1::PutRequest {
    let entries = vec![v1::PutEntry { key: "a".into(), value: "1".into(), ..v1::PutEntry::default() }];
    v1::PutRequest { request_id: request_id.to_owned(), entries, ..v1::PutRequest::default() }
}

/// Waits until the servers let traces into their logs.
async fn until_level(world: &World) {
    for id in world.ids() {
        world.status_when(id, "at the level of traces", |status| status.feature_level >= 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_followed_through_leader_log_and_followers() {
    let collected = Collected::start("0").await;
    let world = &collected.world;
    until_level(world).await;
    let leader = world.leader().await.unwrap();
    let all = world.ids();

    // At a follower, by its request id.
    let follower = world.others(&[leader])[0];
    let map = collected.map(follower).await;
    let answer = soon("a put", map.put(put(&traceparent("01")))).await.unwrap();
    assert_eq!(answer.into_owned().request_id, traceparent("01"));
    let expected: [(&str, &[NodeId]); 5] = [
        ("Put", &[follower]),
        ("forward", &[follower]),
        ("write log", &all),
        ("replicate", &[leader]),
        ("apply", &all),
    ];
    let first = collected.complete(TRACE, &expected).await;
    let spans = collected.of(TRACE);
    let root = &spans.iter().find(|(_, span)| span["spanId"] == first.as_str()).unwrap().1;
    assert_eq!(root["attributes"][0]["value"]["stringValue"], traceparent("01"));
    let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
    for (_, span) in &spans {
        assert!(time(span, "startTimeUnixNano") <= time(span, "endTimeUnixNano"), "{span:#}");
        assert!(
            time(root, "startTimeUnixNano") <= time(span, "startTimeUnixNano"),
            "one machine, one clock: {span:#}"
        );
    }

    // At the leader, by a header, beside a request id of another kind.
    let other = TRACE.replace('4', "5");
    let map = collected.map(leader).await;
    let options = CallOptions::default().with_header("traceparent", traceparent("01").replace(TRACE, &other));
    soon("a put", map.put_with_options(put("r-1"), options)).await.unwrap();
    let expected: [(&str, &[NodeId]); 5] = [
        ("Put", &[leader]),
        ("queue", &[leader]),
        ("write log", &all),
        ("replicate", &[leader]),
        ("apply", &all),
    ];
    collected.complete(&other, &expected).await;

    // A read, which no log has.
    let read = TRACE.replace('4', "6");
    let get = v1::GetRequest {
        request_id: traceparent("01").replace(TRACE, &read),
        keys: vec!["a".into()],
        ..v1::GetRequest::default()
    };
    soon("a get", map.get(get)).await.unwrap();
    collected.complete(&read, &[("Get", &[leader]), ("confirm read", &[leader])]).await;

    // Who does not ask for it is not followed.
    let quiet = TRACE.replace('4', "7");
    soon("a put", map.put(put(&traceparent("00").replace(TRACE, &quiet)))).await.unwrap();
    soon("a put", map.put(put("r-2"))).await.unwrap();
    let last = TRACE.replace('4', "8");
    soon("a put", map.put(put(&traceparent("01").replace(TRACE, &last)))).await.unwrap();
    collected.complete(&last, &expected).await;
    assert_eq!(collected.of(&quiet), []);
    let traces: BTreeSet<String> = {
        let spans = collected.spans.lock().unwrap();
        spans.iter().map(|(_, span)| span["traceId"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(traces, BTreeSet::from([TRACE.to_owned(), other, read, last]));
}

/// The collector is never there: nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_collector_is_not_there_serve_all_the_same() {
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let to = format!("http://{nowhere}");
    let mut world = World::start_with(&["--traces-to", &to, "--traces-ratio", "1"]).await;
    let leader = world.agree(&world.ids()).await;
    let client = world.client().await.unwrap();
    for n in 0..100 {
        client.put(format!("key-{n}"), "1").await.unwrap();
    }
    world.says(leader, 0, "spans are not taken; requests are served all the same").await;
    world.stop(leader).await.unwrap();
    assert!(client.get("key-99").await.unwrap().is_some());
}

//! Every call, in every protocol.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use connectrpc::client::CallOptions;
use connectrpc::{ErrorCode, Protocol};
use http::{Request, StatusCode};
use http_body_util::Full;
use raftmap::front::{Admission, FrontDoorConfig, Security};
use raftmap::tls::config::ClientAuth;
use raftmap_proto::v1;
use raftmap_state::validate::RequestLimits;

use crate::support::{Certificates, Clients, House, bytes, code, get, put, soon};

#[tokio::test]
async fn every_call_answers_in_grpc() {
    let house = House::open().await;
    let clients = house.clients("client", Protocol::Grpc).await;
    use_every_call(&house, &clients).await;
}

#[tokio::test]
async fn every_call_answers_in_connect() {
    let house = House::open().await;
    let clients = house.clients("operator", Protocol::Connect).await;
    use_every_call(&house, &clients).await;
}

async fn use_every_call(house: &House, clients: &Clients) {
    let map = &clients.map;
    let opened = soon(map.open_session(v1::OpenSessionRequest::default())).await.unwrap().into_owned();
    assert!(opened.session_id > 0 && opened.max_in_flight > 0 && opened.idle_expiry_ms > 0);

    let session = v1::SessionTag { session_id: opened.session_id, sequence: 1, ..Default::default() };
    let request = v1::PutRequest {
        request_id: "put-1".to_owned(),
        session: session.into(),
        return_previous: true,
        ..put("a", "1")
    };
    let first = soon(map.put(request.clone())).await.unwrap().into_owned();
    assert_eq!(first.request_id, "put-1");
    assert!(first.previous[0].entry.as_option().is_none());
    let again = soon(map.put(request)).await.unwrap().into_owned();
    assert_eq!(again, first, "the repeated write gets its first answer");

    let entries = [put("b", "2").entries, put("c", "3").entries].concat();
    soon(map.put(v1::PutRequest { entries, ..Default::default() })).await.unwrap();
    let request = v1::GetRequest { request_id: "get-1".to_owned(), ..get(&["a", "x", "b"]) };
    let read = soon(map.get(request)).await.unwrap().into_owned();
    assert_eq!(read.request_id, "get-1");
    let values: Vec<_> =
        read.results.iter().map(|result| result.entry.as_option().map(|entry| entry.value.clone())).collect();
    assert_eq!(values, [Some(bytes("1")), None, Some(bytes("2"))]);
    assert_eq!(read.results[0].entry.as_option().unwrap().revision, first.revision);

    let request =
        v1::DeleteRequest { keys: vec![bytes("b"), bytes("x")], return_previous: true, ..Default::default() };
    let deleted = soon(map.delete(request)).await.unwrap().into_owned();
    assert_eq!(deleted.deleted, 1);
    assert_eq!(deleted.previous[0].entry.as_option().unwrap().value, bytes("2"));

    let expected = v1::condition::Expected::Revision(first.revision);
    let operation = |operation| v1::Operation { operation: Some(operation) };
    let request = v1::TxnRequest {
        conditions: vec![v1::Condition { key: bytes("a"), expected: Some(expected) }],
        then: vec![
            operation(v1::operation::Operation::Put(put("a", "9").entries.remove(0))),
            operation(v1::operation::Operation::Get(bytes("a"))),
            operation(v1::operation::Operation::Delete(bytes("c"))),
        ],
        ..Default::default()
    };
    let txn = soon(map.txn(request)).await.unwrap().into_owned();
    assert!(txn.succeeded);
    assert_eq!(txn.results[0].previous.as_option().unwrap().value, bytes("1"));
    assert_eq!(txn.results[1].entry.as_option().unwrap().value, bytes("9"));
    assert!(txn.results[2].deleted);

    let page = soon(map.scan_page(v1::ScanRequest::default())).await.unwrap().into_owned();
    assert_eq!(page.entries.len(), 1);
    assert!(page.done && !page.more);
    let mut stream = soon(map.scan(v1::ScanRequest::default())).await.unwrap();
    let message = soon(stream.message()).await.unwrap().unwrap().to_owned_message();
    assert_eq!(message.entries, page.entries);
    assert!(message.done && soon(stream.message()).await.unwrap().is_none());

    let members = soon(clients.cluster.members(v1::MembersRequest { request_id: "m".to_owned() })).await;
    let members = members.unwrap().into_owned();
    assert_eq!((members.request_id.as_str(), members.members.len()), ("m", 1));
    let status = soon(clients.cluster.status(v1::StatusRequest { request_id: "s".to_owned() })).await;
    let status = status.unwrap().into_owned();
    assert_eq!((status.request_id.as_str(), status.answered_by), ("s", 1));

    house.node.hold();
    let options = CallOptions::default().with_timeout(Duration::from_millis(50));
    let late = soon(map.get_with_options(get(&["a"]), options)).await;
    house.node.release();
    assert_eq!(late.unwrap_err().code, ErrorCode::DeadlineExceeded);
}

#[tokio::test]
async fn a_large_scan_comes_in_several_messages_of_one_revision() {
    let house = House::with(
        FrontDoorConfig { scan_page_bytes: 1000, ..Default::default() },
        RequestLimits::default(),
    )
    .await;
    let map = house.map().await;
    for number in 0..40 {
        soon(map.put(put(&format!("{number:02}"), &"v".repeat(100)))).await.unwrap();
    }
    let request = v1::ScanRequest { limit: 30, request_id: "s".to_owned(), ..Default::default() };
    let mut stream = soon(map.scan(request)).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = soon(stream.message()).await.unwrap() {
        messages.push(message.to_owned_message());
        let write_in_between = put(&format!("{:02}x", messages.len()), "late");
        soon(map.put(write_in_between)).await.unwrap();
    }
    assert!(messages.len() > 3, "{} messages", messages.len());
    assert!(
        messages.iter().all(|message| message.revision == messages[0].revision && message.request_id == "s")
    );
    let keys: Vec<_> =
        messages.iter().flat_map(|message| &message.entries).map(|entry| entry.key.clone()).collect();
    assert_eq!(keys, (0..30).map(|number| bytes(&format!("{number:02}"))).collect::<Vec<_>>());
    let (last, before) = messages.split_last().unwrap();
    assert!(before.iter().all(|message| !message.done));
    assert!(last.done && last.more, "ten entries remain beyond the limit");
}

#[tokio::test]
async fn a_scan_whose_pages_are_not_taken_lets_its_snapshot_go() {
    let config = FrontDoorConfig {
        scans_max: 1,
        scan_page_bytes: 1 << 20,
        scan_stall_timeout: Duration::from_millis(50),
        ..Default::default()
    };
    let house = House::with(config, RequestLimits::default()).await;
    let map = house.map().await;
    for number in 0..24 {
        soon(map.put(put(&format!("{number:02}"), &"v".repeat(1 << 19)))).await.unwrap();
    }
    let mut stalled = soon(map.scan(v1::ScanRequest::default())).await.unwrap();
    soon(stalled.message()).await.unwrap().unwrap();

    let other = house.map().await;
    let ended = soon(async {
        loop {
            let first = match other.scan(v1::ScanRequest { limit: 1, ..Default::default() }).await {
                Ok(mut stream) => stream.message().await,
                Err(error) => Err(error),
            };
            match first {
                Ok(message) => return message.expect("the scan has a page").to_owned_message(),
                Err(error) => assert_eq!(code(&error), v1::failure::Code::OVERLOADED),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(ended.await.entries.len(), 1);

    let cut = soon(async {
        loop {
            match stalled.message().await {
                Ok(Some(message)) => assert!(!message.to_owned_message().done),
                Ok(None) => panic!("the scan did not reach its end"),
                Err(error) => return error,
            }
        }
    });
    assert_eq!(code(&cut.await), v1::failure::Code::SCAN_LOST);
}

#[tokio::test]
async fn json_over_http1_reads_and_writes() {
    let house = House::open().await;
    let (status, answer) = house.json("Put", r#"{"entries":[{"key":"YQ==","value":"MQ=="}]}"#).await;
    assert_eq!((status, &answer["revision"]), (StatusCode::OK, &"1".into()), "{answer}");
    let (status, answer) = house.json("Get", r#"{"requestId":"r","keys":["YQ==","Yg=="]}"#).await;
    assert_eq!((status, &answer["requestId"]), (StatusCode::OK, &"r".into()));
    assert_eq!(answer["results"][0]["entry"]["value"], "MQ==");
    assert!(answer["results"][1].get("entry").is_none(), "{answer}");
}

#[tokio::test]
async fn a_get_of_http_reads() {
    let house = House::open().await;
    house.json("Put", r#"{"entries":[{"key":"YQ==","value":"MQ=="}]}"#).await;
    let query = "connect=v1&encoding=json&message=%7B%22keys%22%3A%5B%22YQ%3D%3D%22%5D%7D";
    let request = Request::get(format!("/raftmap.v1.Map/Get?{query}"))
        .header("host", "localhost")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let (status, body) = house.http1(request).await;
    assert_eq!(status, StatusCode::OK);
    assert!(String::from_utf8_lossy(&body).contains("MQ=="));
}

/// As the README shows it. Skipped where there is no curl.
#[tokio::test]
async fn curl_reads_by_json() {
    let house = House::open().await;
    house.json("Put", r#"{"entries":[{"key":"YQ==","value":"MQ=="}]}"#).await;
    let certificates = &house.certificates;
    let curl = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--cacert"])
        .arg(certificates.path("ca.pem"))
        .arg("--cert")
        .arg(certificates.path("client.pem"))
        .arg("--key")
        .arg(certificates.path("client.key"))
        .args(["--json", r#"{"keys":["YQ=="]}"#])
        .arg(format!("https://{}/raftmap.v1.Map/Get", house.address()))
        .stdin(Stdio::null())
        .output();
    let output = match soon(curl).await {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => panic!("{error}"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["results"][0]["entry"]["value"], "MQ==");
}

/// `--client-auth none`: TLS still, and whoever reaches the port is a client.
#[tokio::test]
async fn a_door_that_asks_for_no_certificates_serves_everyone() {
    let certificates = Certificates::new("ours");
    let tls = certificates.credentials("node-1").front_door(ClientAuth::None).unwrap();
    let (config, limits) = (FrontDoorConfig::default(), RequestLimits::default());
    let house = House::custom(config, limits, certificates, Security::Tls(tls), Admission::Everyone).await;
    let clients = house.clients_with(house.certificates.without_certificate(), Protocol::Grpc).await.unwrap();
    soon(clients.map.put(put("a", "1"))).await.unwrap();
}

/// `--insecure`: both kinds of HTTP on one port, told apart by their first bytes.
#[tokio::test]
async fn a_plaintext_door_speaks_both_kinds_of_http() {
    let (config, limits) = (FrontDoorConfig::default(), RequestLimits::default());
    let certificates = Certificates::new("ours");
    let house = House::custom(config, limits, certificates, Security::Plaintext, Admission::Everyone).await;
    let uri: http::Uri = format!("http://{}", house.address()).parse().unwrap();
    let connection = connectrpc::client::Http2Connection::connect_plaintext(uri.clone()).await.unwrap();
    let config = connectrpc::client::ClientConfig::new(uri).with_protocol(Protocol::Grpc);
    let map = v1::MapClient::new(connection.shared(8), config);
    soon(map.put(put("a", "1"))).await.unwrap();

    let stream = tokio::net::TcpStream::connect(house.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/raftmap.v1.Map/Get")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(bytes(r#"{"keys":["YQ=="]}"#)))
        .unwrap();
    assert_eq!(soon(sender.send_request(request)).await.unwrap().status(), StatusCode::OK);
}

//! Users: who may do what, on connections and streams that stand, too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use connectrpc::Protocol;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use raftmap::front::{Admission, FrontDoorConfig, Security};
use raftmap::state::validate::RequestLimits;
use raftmap::tls::config::{ALPN_H2, ALPN_HTTP1, ClientAuth};
use raftmap::users::{Token, Users};
use raftmap_proto::v1;
use raftmap_proto::v1::failure::Code;
use tokio::sync::watch;

use crate::support::{Certificates, House, bytes, cluster, code, get, put, soon};

/// A house whose clients are users.
async fn with_users(text: &str, client_auth: ClientAuth) -> (House, watch::Sender<Arc<Users>>) {
    with_users_and(FrontDoorConfig::default(), text, client_auth).await
}

async fn with_users_and(
    config: FrontDoorConfig,
    text: &str,
    client_auth: ClientAuth,
) -> (House, watch::Sender<Arc<Users>>) {
    let certificates = Certificates::new("ours");
    let tls = certificates.credentials("node-1").front_door(client_auth).unwrap();
    let (sender, users) = watch::channel(Arc::new(Users::parse(text).unwrap()));
    let admission = Admission::Users { cluster: Some(cluster()), users };
    let limits = RequestLimits::default();
    (House::custom(config, limits, certificates, Security::Tls(tls), admission).await, sender)
}

#[tokio::test]
async fn a_browser_shows_its_token_with_each_request() {
    let token = Token::generate("ann").unwrap();
    let text =
        format!("[roles.r]\nread = [\"a/\"]\n[users.ann]\nroles = [\"r\"]\ntokens = [\"{}\"]", token.hash());
    let (house, users) = with_users(&text, ClientAuth::Optional).await;
    let ask = |key: &str, token: Option<&str>| {
        let mut request = Request::post("/raftmap.v1.Map/Get")
            .header("host", "localhost")
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = serde_json::to_string(&get(&[key])).unwrap();
        request.body(Full::new(bytes(&body))).unwrap()
    };
    // The connection shows the certificate of a client who is no user; the token is what counts.
    assert_eq!(house.http1(ask("a/1", Some(token.secret_text()))).await.0, StatusCode::OK);
    assert_eq!(house.http1(ask("b/1", Some(token.secret_text()))).await.0, StatusCode::FORBIDDEN);
    assert_eq!(house.http1(ask("a/1", None)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(house.http1(ask("a/1", Some("raftmap~ann~x"))).await.0, StatusCode::UNAUTHORIZED);
    users.send_replace(Arc::default());
    assert_eq!(house.http1(ask("a/1", Some(token.secret_text()))).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_stream_asks_for_each_message_what_its_user_may() {
    let text = "[roles.r]\nread = [\"\"]\nwrite = [\"\"]\n[users.client]\nroles = [\"r\"]";
    let (house, users) = with_users(text, ClientAuth::Required).await;
    let map = house.clients("client", Protocol::Grpc).await.map;
    let mut stream = map.pipeline().await.unwrap();
    let request = |tag| {
        let put = v1::tagged_request::Request::Put(put("k", "v"));
        let tagged = v1::TaggedRequest { tag, request: Some(put), ..Default::default() };
        v1::PipelineRequest { requests: vec![tagged] }
    };
    let mut answered = async |tag| {
        stream.send(request(tag)).await.unwrap();
        let message = soon(stream.message()).await.unwrap().unwrap().to_owned_message();
        let response = message.responses.into_iter().next().unwrap();
        assert_eq!(response.tag, tag);
        response.response.unwrap()
    };
    assert!(matches!(answered(1).await, v1::tagged_response::Response::Put(_)));
    users.send_replace(Arc::new(Users::parse("[users.client]\nroles = []").unwrap()));
    let v1::tagged_response::Response::Failure(failure) = answered(2).await else { panic!("it may not") };
    assert_eq!(failure.code.as_known(), Some(Code::DENIED));
    users.send_replace(Arc::default());
    let v1::tagged_response::Response::Failure(failure) = answered(3).await else { panic!("it may not") };
    assert_eq!(failure.code.as_known(), Some(Code::DENIED));
    let error = map.get(get(&["k"])).await.unwrap_err();
    assert_eq!(code(&error), Code::DENIED);
}

#[tokio::test]
async fn a_scan_that_runs_ends_when_its_user_may_not_read_any_more() {
    let all = "[roles.r]\nread = [\"\"]\nwrite = [\"\"]\n[users.client]\nroles = [\"r\"]";
    let config = FrontDoorConfig { scan_page_bytes: 1 << 10, ..FrontDoorConfig::default() };
    let (house, users) = with_users_and(config, all, ClientAuth::Required).await;
    let map = house.map().await;
    for number in 0..50 {
        soon(map.put(put(&format!("k{number}"), &"v".repeat(1 << 10)))).await.unwrap();
    }
    let mut pages = soon(map.scan(v1::ScanRequest::default())).await.unwrap();
    assert!(soon(pages.message()).await.unwrap().is_some());
    users.send_replace(Arc::new(Users::parse("[users.client]\nroles = []").unwrap()));
    let error = loop {
        match soon(pages.message()).await {
            Ok(page) => assert!(page.is_some(), "it came to its end"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&error), Code::DENIED);
}

#[tokio::test]
async fn who_may_write_nothing_opens_no_session() {
    let text = "[roles.r]\nread = [\"\"]\n[users.client]\nroles = [\"r\"]";
    let (house, _users) = with_users(text, ClientAuth::Required).await;
    for holder in ["client", "node-1"] {
        let map = house.clients(holder, Protocol::Grpc).await.map;
        let error = soon(map.open_session(v1::OpenSessionRequest::default())).await.unwrap_err();
        assert_eq!(code(&error), Code::DENIED, "{holder}");
    }
    soon(house.map().await.get(get(&["a"]))).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_guesses_tokens_is_cut_off() {
    let (house, _users) = with_users("[users.ann]\nroles = []", ClientAuth::Optional).await;
    let stream = house.dial_with(house.certificates.without_certificate(), &[ALPN_HTTP1]).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut tries = 0;
    loop {
        let guess = format!("Bearer {}", Token::generate("ann").unwrap().secret_text());
        let request = Request::post("/raftmap.v1.Map/Get")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("authorization", guess)
            .body(Full::new(bytes("{}")))
            .unwrap();
        let Ok(response) = soon(sender.send_request(request)).await else { break };
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        soon(response.into_body().collect()).await.unwrap();
        tries += 1;
        assert!(tries < 100, "it may guess on and on");
    }
    assert!(tries >= 7, "{tries}");
}

#[tokio::test]
async fn one_address_takes_no_more_places_than_it_may() {
    let config = FrontDoorConfig { connections_per_address_max: 2, ..FrontDoorConfig::default() };
    let house = House::with(config, RequestLimits::default()).await;
    let (first, _second) = (house.map().await, house.map().await);
    soon(first.get(get(&["a"]))).await.unwrap();
    let dialler = || house.certificates.credentials("client").dialler().unwrap();
    assert!(house.dial_with(dialler(), &[ALPN_H2]).await.is_err());
    soon(first.get(get(&["a"]))).await.unwrap();
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(60);
    while house.dial_with(dialler(), &[ALPN_H2]).await.is_err() {
        assert!(Instant::now() < deadline, "a place that is free is given to nobody");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! The console, and what browsers may ask for.

use std::sync::Arc;

use bytes::Bytes;
use connectrpc::Protocol;
use http::{Request, StatusCode};
use http_body_util::Full;
use raftmap::front::{Admission, FrontDoorConfig, Security};
use raftmap::state::validate::RequestLimits;
use raftmap::tls::config::ClientAuth;
use raftmap::users::{Token, Users};
use raftmap_proto::v1;
use raftmap_proto::v1::failure::Code;
use tokio::sync::watch;

use crate::support::{Certificates, House, bytes, cluster, code, get, json_failure, put, soon};

#[tokio::test]
async fn whoever_gets_in_is_shown_the_page() {
    let house = House::open().await;
    let page =
        |path: &str| Request::get(path).header("host", "localhost").body(Full::new(Bytes::new())).unwrap();
    let (status, body) = house.http1(page("/console/")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.to_ascii_lowercase().starts_with(b"<!doctype html>"));
    assert_eq!(house.http1(page("/")).await.0, StatusCode::SEE_OTHER);
    assert_eq!(house.http1(page("/console/nothing")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_page_of_another_website_makes_no_calls() {
    let house = House::open().await;
    let call = |site: &str| {
        Request::post("/raftmap.v1.Map/Put")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header("sec-fetch-site", site)
            .body(Full::new(bytes(r#"{"entries":[{"key":"aw==","value":"dg=="}]}"#)))
            .unwrap()
    };
    let (status, body) = house.http1(call("cross-site")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let failure = json_failure(&serde_json::from_slice(&body).unwrap());
    assert_eq!(failure.code.as_known(), Some(Code::DENIED));
    assert_eq!(house.http1(call("same-origin")).await.0, StatusCode::OK);
}

/// A house whose clients are users.
async fn with_users(text: &str, client_auth: ClientAuth) -> (House, watch::Sender<Arc<Users>>) {
    let certificates = Certificates::new("ours");
    let tls = certificates.credentials("node-1").front_door(client_auth).unwrap();
    let (sender, users) = watch::channel(Arc::new(Users::parse(text).unwrap()));
    let admission = Admission::Users { cluster: Some(cluster()), users };
    let (config, limits) = (FrontDoorConfig::default(), RequestLimits::default());
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

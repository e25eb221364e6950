//! The console, and what browsers may ask for.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use raftmap_proto::v1::failure::Code;

use crate::support::{House, bytes, json_failure};

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

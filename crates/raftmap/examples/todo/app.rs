//! The website: one page, and what its script asks for.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page |
//! | `GET /items` | the items as JSON, in the order in which they were added |
//! | `PUT /items/ID` with a text | adds an item; the browser chose the id, so that asking again adds nothing twice |
//! | `POST /items/ID/done`, `.../open` | changes it, if it is as the revision in `?revision=` says |
//! | `DELETE /items/ID` | removes it |
//!
//! An answer of 200 means that the change is on disk on a majority of the servers. 503 means that it may have been made, or may not:
//! all requests may be repeated, and the page repeats them until it knows.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use raftmap_client::{Client, Error, Expected, Swap};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const PAGE: &str = include_str!("page.html");
const PREFIX: &str = "todo/";
const TEXT_BYTES_MAX: usize = 4096;
const ID_BYTES_MAX: usize = 64;

/// Serves the list until the listener fails.
pub(crate) async fn serve(listener: TcpListener, client: Client) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let client = client.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let client = client.clone();
                async move { Ok::<_, Infallible>(answer(&client, request).await) }
            });
            // A browser that goes away in the middle of a request is none of our business.
            let _gone = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn answer(client: &Client, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path: Vec<&str> = head.uri.path().trim_start_matches('/').split('/').collect();
    let revision = head.uri.query().and_then(|query| query.strip_prefix("revision=")?.parse().ok());
    let answered = match (&head.method, &path[..]) {
        (&Method::GET, [""]) => return response(StatusCode::OK, "text/html; charset=utf-8", PAGE.into()),
        (&Method::GET, ["items"]) => items(client).await,
        (&Method::PUT, ["items", id]) if is_id(id) => match text(body).await {
            Some(text) => add(client, id, &text).await,
            None => return refuse(StatusCode::BAD_REQUEST, "an item is a text of 1 to 4096 bytes"),
        },
        (&Method::POST, ["items", id, state @ ("done" | "open")]) if is_id(id) => match revision {
            Some(revision) => change(client, id, revision, *state == "done").await,
            None => return refuse(StatusCode::BAD_REQUEST, "which revision? ?revision=N"),
        },
        (&Method::DELETE, ["items", id]) if is_id(id) => client.delete(key(id)).await.map(|_| Ok(json!({}))),
        _ => return refuse(StatusCode::NOT_FOUND, "there is no such thing"),
    };
    match answered {
        Ok(Ok(value)) => response(StatusCode::OK, "application/json", value.to_string().into()),
        Ok(Err(conflict)) => refuse(StatusCode::CONFLICT, conflict),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// What was asked, or why the item is not as it was thought to be; or the cluster gave no answer.
type Answered = Result<Result<Value, &'static str>, Error>;

async fn items(client: &Client) -> Answered {
    let mut pages = client.scan().prefix(PREFIX).await?;
    let mut items = Vec::new();
    while let Some(page) = pages.next_page().await? {
        for entry in page.entries {
            let Ok(Value::Object(mut item)) = serde_json::from_slice(&entry.value) else { continue };
            let id = String::from_utf8_lossy(&entry.key[PREFIX.len()..]).into_owned();
            item.insert("id".to_owned(), id.into());
            item.insert("revision".to_owned(), entry.revision.into());
            items.push(Value::Object(item));
        }
    }
    items.sort_by_key(|item| item["added_ms"].as_u64());
    Ok(Ok(items.into()))
}

async fn add(client: &Client, id: &str, text: &str) -> Answered {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let item = json!({ "text": text, "done": false, "added_ms": u64::try_from(now.as_millis()).unwrap_or(u64::MAX) });
    match client.compare_and_swap(key(id), Expected::Absent, item.to_string()).await? {
        Swap::Done { revision } => Ok(Ok(json!({ "revision": revision }))),
        // It was added by the same request, whose answer did not arrive.
        Swap::Refused { current: Some(entry) } if text_of(&entry.value).as_deref() == Some(text) => {
            Ok(Ok(json!({ "revision": entry.revision })))
        }
        Swap::Refused { .. } => Ok(Err("there is another item of that id")),
    }
}

async fn change(client: &Client, id: &str, revision: u64, done: bool) -> Answered {
    let Some(entry) = client.get(key(id)).await? else { return Ok(Err("the item was removed")) };
    let Ok(mut item) = serde_json::from_slice::<Value>(&entry.value) else {
        return Ok(Err("this is no item"));
    };
    // Asked again, because the answer did not arrive.
    if entry.revision != revision && item["done"] == done {
        return Ok(Ok(json!({ "revision": entry.revision })));
    }
    item["done"] = done.into();
    match client.compare_and_swap(key(id), Expected::Revision(revision), item.to_string()).await? {
        Swap::Done { revision } => Ok(Ok(json!({ "revision": revision }))),
        Swap::Refused { .. } => Ok(Err("somebody else has changed the item")),
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn text_of(value: &[u8]) -> Option<String> {
    let item: Value = serde_json::from_slice(value).ok()?;
    item["text"].as_str().map(str::to_owned)
}

async fn text(body: Incoming) -> Option<String> {
    let bytes = Limited::new(body, TEXT_BYTES_MAX).collect().await.ok()?.to_bytes();
    let text = String::from_utf8(bytes.into()).ok()?;
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn refuse(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    response(status, "application/json", json!({ "error": reason }).to_string().into())
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

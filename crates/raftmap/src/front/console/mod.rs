//! The console: a web page by which people look at a cluster and at its keys. Each server serves it, from its own program.
//!
//! The page is static files, the same for everyone, and tells nothing by itself: what it shows it asks for by the calls that
//! everybody makes (Connect, with JSON), and may do what its user may. Nothing of it comes from another place, and a browser is
//! told to take nothing from elsewhere.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Body as _;

use crate::api::{Code, Failure};

/// Where the page is.
const HOME: &str = "/console/";

/// What a browser may load, and who may show the page in a frame: itself alone, and nobody.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A file of the page: its name, and what is in it.
type File = (&'static str, &'static [u8]);

macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_bytes!(concat!("page/", $name)).as_slice())),*] };
}

const FILES: &[File] = &files![
    "base.css",
    "bytes.js",
    "call.js",
    "cluster-view.js",
    "cluster.js",
    "conflict.js",
    "dom.js",
    "editor.js",
    "entry-view.js",
    "events-view.js",
    "events.js",
    "explain.js",
    "failure.js",
    "fields.js",
    "format.js",
    "graph.js",
    "icon.svg",
    "index.html",
    "json.js",
    "keyboard.js",
    "keys-view.js",
    "main.js",
    "map.js",
    "route.js",
    "series.js",
    "sign-in.js",
    "theme.js",
    "views.css",
    "watch.js",
    "write.js",
];

/// The answer to a request for the console, or for the root, from which it leads there. `None`: it is for something else.
pub(super) fn answer(request: &Parts) -> Option<Response<Full<Bytes>>> {
    let mut response = page(request)?;
    if request.method == Method::HEAD {
        let length = response.body().size_hint().exact().unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Full::default();
    }
    Some(response)
}

fn page(request: &Parts) -> Option<Response<Full<Bytes>>> {
    let path = request.uri.path();
    let name = match path {
        "/" | "/console" => None,
        _ => Some(path.strip_prefix(HOME)?),
    };
    if request.method != Method::GET && request.method != Method::HEAD {
        return Some(plain(StatusCode::METHOD_NOT_ALLOWED, "The console is read: GET or HEAD.\n"));
    }
    let Some(name) = name else {
        let mut response = plain(StatusCode::SEE_OTHER, "The console is at /console/.\n");
        response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(HOME));
        return Some(response);
    };
    let name = if name.is_empty() { "index.html" } else { name };
    let found = FILES.iter().find(|(file, _)| *file == name);
    Some(found.map_or_else(
        || plain(StatusCode::NOT_FOUND, "There is no such file in the console: it begins at /console/.\n"),
        |(name, bytes)| response(StatusCode::OK, media_type(name), Bytes::from_static(bytes)),
    ))
}

/// Refuses what another website has a browser ask for, in the name of whoever sits before it: his certificate would go along.
/// Programs do not say where a request comes from.
///
/// # Errors
/// The failure to answer with.
pub(super) fn check_site(request: &Parts) -> Result<(), Failure> {
    let mut sites = request.headers.get_all("sec-fetch-site").iter().map(HeaderValue::as_bytes);
    if sites.all(|site| matches!(site, b"same-origin" | b"none")) {
        return Ok(());
    }
    Err(Failure::not_applied(Code::Denied, "calls from the pages of other websites are not answered"))
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn response(status: StatusCode, media_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use http::Request;

    use super::*;

    fn ask(method: Method, path: &str) -> Option<Response<Full<Bytes>>> {
        let (parts, ()) = Request::builder().method(method).uri(path).body(()).unwrap().into_parts();
        answer(&parts)
    }

    #[test]
    fn every_file_of_the_page_is_served_and_no_other() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/front/console/page");
        let there: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let served: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(there, served);
        for name in served {
            let response = ask(Method::GET, &format!("/console/{name}")).unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{name}");
            assert_ne!(response.headers()[header::CONTENT_TYPE], "application/octet-stream", "{name}");
            assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        }
        for path in ["/console/../gate.rs", "/console/page/index.html", "/console//index.html"] {
            assert_eq!(ask(Method::GET, path).unwrap().status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn the_root_leads_to_it_and_calls_do_not() {
        for path in ["/", "/console"] {
            assert_eq!(ask(Method::GET, path).unwrap().headers()[header::LOCATION], "/console/");
        }
        assert_eq!(ask(Method::POST, "/console/").unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(ask(Method::POST, "/raftmap.v1.Map/Get").is_none());
        let (whole, head) = (ask(Method::GET, "/console/").unwrap(), ask(Method::HEAD, "/console/").unwrap());
        assert_eq!(head.body().size_hint().exact(), Some(0));
        let length = whole.body().size_hint().exact().unwrap().to_string();
        assert_eq!(head.headers()[header::CONTENT_LENGTH], length);
    }

    #[test]
    fn other_websites_make_no_calls() {
        let from = |site: Option<&str>| {
            let mut request = Request::post("/raftmap.v1.Map/Put");
            if let Some(site) = site {
                request = request.header("sec-fetch-site", site);
            }
            check_site(&request.body(()).unwrap().into_parts().0).is_ok()
        };
        assert!(from(None) && from(Some("same-origin")) && from(Some("none")));
        assert!(!from(Some("cross-site")) && !from(Some("same-site")) && !from(Some("")));
    }
}

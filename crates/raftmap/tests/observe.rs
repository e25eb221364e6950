//! The port for operators: metrics of a real front door, health and readiness.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raftmap::observe::http::{Observation, Readiness};
use raftmap::observe::metrics::{METRICS, Metric};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn ask(observation: &Observation, request: &str) -> String {
    let ask = async {
        let mut stream = TcpStream::connect(observation.address()).await.unwrap();
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(Duration::from_secs(60), ask).await.expect("an answer comes")
}

#[tokio::test]
async fn metrics_health_and_readiness_are_told() {
    let handle = raftmap::observe::metrics::init().unwrap();
    assert!(raftmap::observe::metrics::init().is_err(), "once a process");
    let ready = Arc::new(AtomicBool::new(false));
    let readiness: Readiness = Arc::new({
        let ready = Arc::clone(&ready);
        move || if ready.load(Ordering::Relaxed) { Ok(()) } else { Err("no leader is known".to_owned()) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let observation = Observation::open(listener, handle, readiness).unwrap();

    assert!(ask(&observation, "GET /healthz").await.starts_with("HTTP/1.1 200"));
    let not_ready = ask(&observation, "GET /readyz").await;
    assert!(not_ready.starts_with("HTTP/1.1 503") && not_ready.contains("no leader is known"), "{not_ready}");
    ready.store(true, Ordering::Relaxed);
    assert!(ask(&observation, "GET /readyz").await.starts_with("HTTP/1.1 200"));

    metrics::counter!("raftmap_requests_answered_total", "call" => "Get").increment(2);
    metrics::histogram!("raftmap_request_seconds", "call" => "Get").record(0.002);
    let told = ask(&observation, "GET /metrics").await;
    assert!(told.contains("raftmap_requests_answered_total{call=\"Get\"} 2"), "{told}");
    assert!(told.contains("raftmap_request_seconds_bucket{call=\"Get\",le=\"0.0025\"} 1"), "{told}");
    assert!(told.contains("# HELP raftmap_request_seconds "), "{told}");

    assert!(ask(&observation, "POST /metrics").await.starts_with("HTTP/1.1 405"));
    assert!(ask(&observation, "GET /").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn the_port_closes_with_its_owner() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder().handle();
    let observation = Observation::open(listener, handle, Arc::new(|| Ok(()))).unwrap();
    let address = observation.address();
    drop(observation);
    tokio::time::timeout(Duration::from_secs(60), async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the port closes");
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
    let metrics = words.filter(|word| word.starts_with("raftmap_"));
    metrics.map(|name| name.trim_end_matches("_bucket")).collect()
}

#[test]
fn every_metric_is_described_documented_and_there_is_no_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let all: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(all.len(), METRICS.len());

    let docs = read("docs/metrics.md");
    for Metric { name, kind, labels, help } in METRICS {
        let (kind, labels) = (
            format!("{kind:?}").to_lowercase(),
            labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", "),
        );
        let row = format!("| `{name}` | {kind} | {labels} | {help} |");
        assert!(docs.contains(&row), "docs/metrics.md lacks this line:\n{row}");
    }
    assert_eq!(names(&docs), all);
    let dashboard = read("deploy/grafana.json");
    let unknown: Vec<_> = names(&dashboard).into_iter().filter(|name| !all.contains(name)).collect();
    assert!(unknown.is_empty(), "the dashboard asks for {unknown:?}");

    let mut used = BTreeSet::new();
    let mut folders = vec![root.join("crates/raftmap/src"), root.join("crates/client/src")];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("observe/metrics.rs") {
                let source = std::fs::read_to_string(path).unwrap();
                let literals = source.split('"').filter(|literal| names(literal).contains(literal));
                used.extend(literals.map(str::to_owned));
            }
        }
    }
    assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), all);
}

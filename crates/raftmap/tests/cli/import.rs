//! `raftmap import`.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{OneServer, raftmap, run};

/// Keys of the large file. Each stands in it three times, with three values, in three different orders.
const KEYS: usize = 12_000;

/// The large file, and what it says. Each round has other values for the same keys.
fn large_file(round: usize) -> (String, BTreeMap<String, String>) {
    let mut text = String::new();
    let mut expected = BTreeMap::new();
    for (pass, stride) in [1, 7, 11].into_iter().enumerate() {
        for place in 0..KEYS {
            let key = format!("key-{:05}", place * stride % KEYS);
            let value = format!("round {round}, pass {pass}, place {place}");
            text.push_str(&format!("{key}\t{value}\n"));
            expected.insert(key, value);
        }
    }
    (text, expected)
}

fn content(one: &OneServer) -> BTreeMap<String, String> {
    let text = one.run("scan").text();
    text.lines().map(|line| line.split_once('\t').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

#[test]
fn the_last_line_of_a_key_wins() {
    let one = OneServer::start();
    let file = one.file("prices.tsv", "apple\t3\npear\t4\n\napple\t5\r\n");
    let text = run(one.command(["import"]).arg(&file)).text();
    assert!(text.starts_with("imported 2 keys from 3 lines, of which 1 were replaced"), "{text}");
    let expected = BTreeMap::from([("apple".into(), "5".into()), ("pear".into(), "4".into())]);
    assert_eq!(content(&one), expected);
    // In one request, which the earlier line of a key is not part of: it could arrive last.
    let revision = |key: &str| one.run(&format!("get {key} --json")).json()["revision"].clone();
    assert_eq!(revision("apple"), revision("pear"));

    let file = one.file("lines", r#"{"key":"apple","value":"6"}"#);
    let counts = run(one.command(["import", "--format", "jsonl", "--json"]).arg(&file)).json();
    assert_eq!((&counts["lines"], &counts["keys"]), (&1.into(), &1.into()));
    assert_eq!(one.run("get apple").text(), "6");
}

#[test]
fn a_malformed_line_is_named_before_anything_is_written() {
    let one = OneServer::start();
    let file = one.file("prices.tsv", "apple\t3\npear 4\n");
    let error = run(one.command(["import"]).arg(&file)).failure(2);
    assert!(error.contains("prices.tsv, line 2: no tab"), "{error}");
    assert!(error.contains("Nothing was written"), "{error}");
    assert!(content(&one).is_empty());
}

#[test]
fn a_line_that_the_servers_refuse_is_named() {
    let one = OneServer::start_with(&["--value-bytes-max", "10"]);
    let file = one.file("prices.tsv", "apple\t3\npear\t12345678901\nplum\t4\n");
    let error = run(one.command(["import"]).arg(&file)).failure(2);
    assert!(error.contains("line 2: not applied") && error.contains("TOO_LARGE"), "{error}");
    assert!(error.contains("run the import again"), "{error}");
}

#[test]
fn what_cannot_be_read_twice_is_refused() {
    let error = run(raftmap().args(["import", "/dev/null"])).failure(2);
    assert!(error.contains("must be a regular file"), "{error}");
    let error = run(raftmap().args(["import", "no-such-file"])).failure(1);
    assert!(error.contains("cannot read no-such-file"), "{error}");
}

/// Item 12 of the end-to-end list: killed at any moment and run again, the map holds exactly the file's content.
#[test]
fn an_import_that_was_killed_and_run_again_gives_exactly_the_file() {
    const ROUNDS: usize = 10;
    let one = OneServer::start();
    let (text, _) = large_file(0);
    let file = one.file("large.tsv", &text);
    let began = Instant::now();
    run(one.command(["import"]).arg(&file)).text();
    let mut whole = began.elapsed();

    let mut cut_short = 0;
    for round in 1..=ROUNDS {
        let (text, expected) = large_file(round);
        let file = one.file("large.tsv", &text);
        let mut import = one.command(["import"]);
        let mut import = import.arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(fastrand::f64()).max(Duration::from_millis(1)));
        import.kill().unwrap();
        if import.wait().unwrap().success() {
            // This one was faster than those before: the machine has less to do.
            whole /= 2;
        } else {
            cut_short += 1;
        }

        run(one.command(["import"]).arg(&file)).text();
        assert!(content(&one) == expected, "round {round}");
    }
    assert!(cut_short > 0, "all {ROUNDS} imports ended before they were killed");
}

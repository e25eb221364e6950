//! `raftmap import`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use raftmap::node;

use crate::support::{OneServer, SERVER, raftmap, run, wait_until};

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

fn progress_of(file: &Path) -> PathBuf {
    file.with_extension("tsv.progress")
}

fn start(one: &OneServer, file: &Path) -> Child {
    let mut import = one.command(["import", "--in-flight", "1"]);
    import.arg(file).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// An import of a file that was killed when it had noted, for the first time, how far it had come.
fn break_off(one: &OneServer, file: &Path) {
    let progress = progress_of(file);
    let has_mark = || fs::read_to_string(&progress).is_ok_and(|text| text.lines().count() > 1);
    for _ in 0..20 {
        let mut import = start(one, file);
        let mut has_ended = false;
        wait_until("it has come somewhere", || {
            has_ended = import.try_wait().unwrap().is_some();
            has_ended || has_mark()
        });
        let _ended = import.kill();
        import.wait().unwrap();
        if has_mark() {
            return;
        }
        assert!(has_ended, "it ended without a mark, and is not through");
    }
    panic!("all imports were through before they were killed");
}

/// Whoever runs it again, and however often it is killed, it goes on; what was written is not written again.
#[test]
fn an_import_that_was_killed_goes_on_where_it_was() {
    let one = OneServer::start();
    let (text, expected) = large_file(0);
    let file = one.file("large.tsv", &text);
    break_off(&one, &file);
    assert_eq!(fs::metadata(progress_of(&file)).unwrap().permissions().mode() & 0o777, 0o600);
    let before: BTreeMap<String, u64> = revisions(&one);

    let ended = run(one.command(["import", "--json"]).arg(&file));
    assert!(ended.err.contains("where an earlier import stopped: skips "), "{}", ended.err);
    let counts = ended.json();
    let (skipped, written) = (counts["skipped"].as_u64().unwrap(), counts["written"].as_u64().unwrap());
    assert!(skipped > 0 && written > 0 && skipped + written == KEYS as u64, "{counts}");
    assert!(content(&one) == expected, "not what the file says");
    let after = revisions(&one);
    let kept = before.iter().filter(|(key, revision)| after[*key] == **revision).count() as u64;
    // What was acknowledged behind the mark is written once more.
    assert!(kept >= skipped, "{kept} keys are as they were, {skipped} were skipped");
    assert!(!progress_of(&file).exists());

    let text = run(one.command(["import"]).arg(&file)).text();
    assert!(text.starts_with("imported 12000 keys") && !text.contains("skipped"), "{text}");
}

fn revisions(one: &OneServer) -> BTreeMap<String, u64> {
    let text = one.run("scan --json --keys-only").text();
    let entries = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    entries
        .map(|entry| (entry["key"].as_str().unwrap().to_owned(), entry["revision"].as_u64().unwrap()))
        .collect()
}

#[test]
fn a_file_that_has_changed_or_means_something_else_is_not_gone_on_with() {
    let one = OneServer::start();
    let (text, _) = large_file(0);
    let file = one.file("large.tsv", &text);
    break_off(&one, &file);
    let before = content(&one);
    let (changed, expected) = large_file(1);
    one.file("large.tsv", &changed);
    let error = run(one.command(["import"]).arg(&file)).failure(2);
    for part in ["large.tsv.progress", "the file has changed since", "--restart", "Nothing was written"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(content(&one), before);

    one.file("large.tsv", &text);
    let error = run(one.command(["import"]).arg(&file).args(["--progress"]).arg(&file)).failure(2);
    assert!(error.contains("is no progress of an import"), "{error}");
    assert!(fs::read_to_string(&file).unwrap() == text, "the file itself was written to");

    one.file("large.tsv", &changed);
    let text = run(one.command(["import", "--restart"]).arg(&file)).text();
    assert!(text.starts_with("imported 12000 keys"), "{text}");
    assert!(content(&one) == expected, "not what the file says");
}

#[test]
fn another_cluster_is_not_gone_on_with_nor_one_that_has_lost_what_was_written() {
    let mut one = OneServer::start();
    let (text, expected) = large_file(0);
    let file = one.file("large.tsv", &text);
    break_off(&one, &file);

    let other = OneServer::start();
    let error = run(other.command(["import"]).arg(&file)).failure(2);
    assert!(error.contains("into another cluster broke off") && error.contains("--restart"), "{error}");
    assert!(content(&other).is_empty());

    // Of the same name, with the same members, founded anew.
    one.cluster.kill(SERVER).unwrap();
    let data = one.cluster.data_dir(SERVER);
    fs::remove_dir_all(&data).unwrap();
    let plan = one.cluster.plan();
    node::init(&data, &plan.cluster, SERVER, plan.founding_members()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(one.cluster.start_all()).unwrap();
    let error = run(one.command(["import"]).arg(&file)).failure(2);
    assert!(error.contains("is not in the map as it wrote it") && error.contains("--restart"), "{error}");
    assert!(content(&one).is_empty());
    run(one.command(["import", "--restart"]).arg(&file)).text();
    assert!(content(&one) == expected, "not what the file says");
}

#[test]
fn two_imports_of_one_file_do_not_run_at_once() {
    let one = OneServer::start();
    let file = one.file("prices.tsv", "apple\t3\n");
    let progress = fs::File::create(progress_of(&file)).unwrap();
    progress.lock().unwrap();
    let error = run(one.command(["import"]).arg(&file)).failure(1);
    assert!(error.contains("another import of the file runs"), "{error}");
    drop(progress);
    run(one.command(["import"]).arg(&file)).text();
    assert!(!progress_of(&file).exists());
}

#[test]
fn an_import_that_a_line_ended_begins_anew_with_the_corrected_file() {
    let one = OneServer::start_with(&["--value-bytes-max", "10"]);
    let short: String = (0..200).map(|n| format!("key-{n:03}\t{n}\n")).collect();
    let file = one.file("prices.tsv", format!("{short}pear\t12345678901\n"));
    run(one.command(["import", "--in-flight", "1"]).arg(&file)).failure(2);
    assert!(!progress_of(&file).exists());
    one.file("prices.tsv", format!("{short}pear\t1234567890\n"));
    run(one.command(["import"]).arg(&file)).text();
    assert_eq!(content(&one).len(), 201);
}

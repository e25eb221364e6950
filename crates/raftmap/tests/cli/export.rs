//! `raftmap export`, and the way back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{OneServer, run, wait_until};

fn export(one: &OneServer, arguments: &[&str], out: &Path) -> serde_json::Value {
    run(one.command(["export", "--json", "--out"]).arg(out).args(arguments)).json()
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("map")).collect()
}

#[test]
fn what_is_exported_and_imported_elsewhere_is_exported_again_byte_for_byte() {
    let one = OneServer::start();
    let lines: String = (0..500).map(|n| format!("key-{n:03}\tvalue {n} \\ \"ö\"\n")).collect();
    let file = one.file("lines.tsv", lines);
    run(one.command(["import"]).arg(&file)).text();
    run(&mut one.command(["put", "empty", ""])).text();
    one.run("put --hex ff00 0a0d00ff").text();
    let large: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1 << 20).collect();
    for name in ["large-1", "large-2", "large-3"] {
        let file = one.file(name, &large);
        run(one.command(["put", name, "--file"]).arg(&file)).text();
    }

    let first = one.folder.path().join("map.jsonl");
    let told = export(&one, &[], &first);
    let content = fs::read(&first).unwrap();
    assert_eq!((&told["keys"], &told["bytes"]), (&505.into(), &content.len().into()));
    assert_eq!(told["revision"], one.run("get large-3 --json").json()["revision"], "the last write");
    assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);

    let other = OneServer::start();
    other.run("put key-000 other").text();
    run(other.command(["import"]).arg(&first)).text();
    let second = other.folder.path().join("map.jsonl");
    export(&other, &[], &second);
    assert!(fs::read(&second).unwrap() == content, "the second export differs");
    let got = run(&mut other.command(["get", "large-2"]));
    assert!(got.out == large);

    let ended = other.run("export");
    assert!(ended.out == content, "standard output has the same");
    assert!(ended.err.starts_with("revision ") && ended.err.contains(", 505 keys, "), "{}", ended.err);
}

#[test]
fn a_range_is_exported_in_the_form_that_the_name_says_or_that_was_asked_for() {
    let one = OneServer::start();
    for line in ["put a 1", "put user:1 ann", "put user:2 ben", "put z 9"] {
        one.run(line).text();
    }
    let users = "{\"key\":\"user:1\",\"value\":\"ann\"}\n{\"key\":\"user:2\",\"value\":\"ben\"}\n";
    assert_eq!(one.run("export user:").text(), users);
    assert_eq!(one.run("export --start a --end user:2 --format tsv").text(), "a\t1\nuser:1\tann\n");
    assert_eq!(one.run("export --hex 7a").text(), "{\"key_hex\":\"7a\",\"value_hex\":\"39\"}\n");
    assert_eq!(one.run("export nothing").text(), "");

    let file = one.folder.path().join("map.tsv");
    export(&one, &["z"], &file);
    assert_eq!(fs::read_to_string(&file).unwrap(), "z\t9\n");
    let error = run(one.command(["export", "--out"]).arg(&file)).failure(1);
    assert!(error.contains("is there already; --force replaces it"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "z\t9\n");
    export(&one, &["--force", "user:"], &file);
    assert_eq!(fs::read_to_string(&file).unwrap(), "user:1\tann\nuser:2\tben\n");
}

#[test]
fn an_entry_that_the_form_cannot_say_ends_the_export_without_a_file() {
    let one = OneServer::start();
    one.run("put before 1").text();
    run(&mut one.command(["put", "poem", "two\nlines"])).text();
    let out = one.folder.path().join("map.tsv");
    let error = run(one.command(["export", "--out"]).arg(&out)).failure(2);
    assert!(error.contains("key poem: its value has a line end") && error.contains("jsonl"), "{error}");
    assert_eq!(names(one.folder.path()), [""; 0]);
}

#[test]
fn what_expires_does_so_after_an_import_too_and_what_has_expired_is_left_out() {
    let one = OneServer::start();
    one.run("put lock me --ttl-ms 3600000").text();
    one.run("put stays here").text();
    let expiry = |one: &OneServer| one.run("get lock --json").json()["expires_at_ms"].as_u64().unwrap();
    let first = expiry(&one);
    let file = one.folder.path().join("map.jsonl");
    export(&one, &[], &file);
    let passed = "{\"key\":\"gone\",\"value\":\"1\",\"expires_at_ms\":1000}\n";
    fs::write(&file, fs::read_to_string(&file).unwrap() + passed).unwrap();

    let other = OneServer::start();
    let counts = run(other.command(["import", "--json"]).arg(&file)).json();
    assert_eq!((&counts["written"], &counts["expired"]), (&2.into(), &1.into()));
    // The cluster counts from when it has the write, on a clock of its own.
    assert!(expiry(&other).abs_diff(first) < 60_000, "{} instead of {first}", expiry(&other));
    other.run("get gone").failure(4);
    assert_eq!(other.run("get stays --json").json()["expires_at_ms"], serde_json::Value::Null);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let line = format!("{{\"key\":\"soon\",\"value\":\"1\",\"expires_at_ms\":{}}}\n", now + 1500);
    let file = other.file("soon.jsonl", line);
    run(other.command(["import"]).arg(&file)).text();
    wait_until("it has expired", || other.run("get soon").code == Some(4));
}

/// Killed on the way, it leaves no file of that name; the next one is whole.
#[test]
fn an_export_that_is_killed_leaves_no_half_of_a_file() {
    let one = OneServer::start();
    let large = one.file("large", vec![b'x'; 1 << 20]);
    for n in 0..24 {
        run(one.command(["put", &format!("large-{n:02}"), "--file"]).arg(&large)).text();
    }
    let (out, partial) = (one.folder.path().join("map.jsonl"), one.folder.path().join("map.jsonl.partial"));
    let mut export = one.command(["export", "--out"]);
    let mut export = export.arg(&out).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    wait_until("it has begun", || fs::metadata(&partial).is_ok_and(|file| file.len() > 0) || out.exists());
    export.kill().unwrap();
    if !export.wait().unwrap().success() {
        assert!(!out.exists(), "a part of the map has the file's name");
        run(one.command(["export", "--out"]).arg(&out)).text();
    }
    assert!(!partial.exists());
    let lines = fs::read_to_string(&out).unwrap();
    assert_eq!(lines.lines().count(), 24);
    assert!(lines.lines().all(|line| line.len() > 1 << 20), "a line is cut");
}

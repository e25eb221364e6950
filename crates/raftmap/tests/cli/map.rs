//! The commands that read and write the map, on a cluster of one.

use std::time::Instant;

use serde_json::json;

use crate::support::{OneServer, SERVER, run, run_with};

#[test]
fn values_are_put_and_got_byte_for_byte() {
    let one = OneServer::start();
    assert!(one.run("put greeting hello").text().starts_with("revision "));
    assert_eq!(one.run("get greeting").text(), "hello");

    let bytes: Vec<u8> = (0..=255).collect();
    let file = one.file("bytes", &bytes);
    assert_eq!(run(one.command(["put", "all", "--file"]).arg(&file)).code, Some(0));
    assert_eq!(run(&mut one.command(["get", "all"])).out, bytes);
    assert_eq!(run_with(&mut one.command(["put", "all", "-"]), &bytes[100..]).code, Some(0));
    assert_eq!(run(&mut one.command(["get", "all"])).out, &bytes[100..]);

    one.run("put --hex ff00 c0fe").text();
    assert_eq!(one.run("get --hex ff00").text(), "c0fe");
    assert_eq!(one.run("get --base64 /wA=").text(), "wP4=");
    let got = one.run("get --base64 /wA= --json").json();
    assert_eq!((&got["key_base64"], &got["value_base64"]), (&json!("/wA="), &json!("wP4=")));

    run(&mut one.command(["put", "", "value"])).failure(2);
    assert!(run(&mut one.command(["put", "empty", ""])).text().starts_with("revision"));
    assert_eq!(one.run("get empty").text(), "");
}

#[test]
fn what_json_says_can_be_relied_on() {
    let one = OneServer::start();
    let first = one.run("put k one --json").json();
    assert_eq!(first["previous"], json!(null));
    let second = one.run("put k two --json --ttl-ms 3600000").json();
    assert_eq!(second["previous"]["value"], "one");
    assert_eq!(second["previous"]["revision"], first["revision"]);

    let got = one.run("get k --json").json();
    assert_eq!(
        (&got["key"], &got["value"], &got["revision"]),
        (&json!("k"), &json!("two"), &second["revision"])
    );
    assert!(got["expires_at_ms"].as_u64().unwrap() > 3_600_000);

    let revision = second["revision"].as_u64().unwrap();
    let stale = one.run(&format!("get k --stale --min-revision {revision}")).text();
    assert_eq!(stale, "two");
    assert_eq!(one.run("del k nothing --json").json()["deleted"], 1);
}

#[test]
fn a_key_that_is_absent_or_not_as_expected_ends_with_4() {
    let one = OneServer::start();
    assert!(one.run("get lock").failure(4).contains("no such key: lock"));
    assert!(one.run("cas lock me --absent").text().starts_with("revision "));
    assert!(one.run("cas lock you --absent").failure(4).contains("not applied"));
    assert_eq!(one.run("get lock").text(), "me");

    let refused = one.run("cas lock you --expect somebody --json");
    assert_eq!(refused.code, Some(4));
    let refused: serde_json::Value = serde_json::from_slice(&refused.out).unwrap();
    assert_eq!((&refused["swapped"], &refused["current"]["value"]), (&json!(false), &json!("me")));
    let revision = refused["current"]["revision"].as_u64().unwrap();
    one.run(&format!("cas lock you --revision {}", revision + 1)).failure(4);
    assert_eq!(one.run(&format!("cas lock you --revision {revision} --json")).json()["swapped"], true);
    one.run("cas lock them --expect you").text();
    one.run("cas lock all --present").text();
    assert_eq!(one.run("get lock").text(), "all");

    assert!(one.run("del lock nothing").text().starts_with("deleted 1 of 2, revision "));
    one.run("cas lock me --present").failure(4);
}

#[test]
fn scans_list_ranges_in_order_and_can_be_imported() {
    let one = OneServer::start();
    for line in ["put user:1 ann", "put user:2 ben", "put zoo z", "put --hex 6100 ff0a"] {
        one.run(line).text();
    }
    assert_eq!(one.run("scan").text(), "a\\u{0}\t\\xff\\n\nuser:1\tann\nuser:2\tben\nzoo\tz\n");
    assert_eq!(one.run("scan user:").text(), "user:1\tann\nuser:2\tben\n");
    assert_eq!(one.run("scan user: --reverse --limit 1 --keys-only").text(), "user:2\n");
    assert_eq!(one.run("scan --start user:2 --end zoo").text(), "user:2\tben\n");
    assert_eq!(one.run("scan nothing").text(), "");
    assert_eq!(one.run("scan --hex 757365723a31").text(), "757365723a31\t616e6e\n");

    let copy = one.run("scan --json").text();
    let file = one.file("copy.jsonl", &copy);
    one.run("put user:2 changed").text();
    run(one.command(["import"]).arg(&file)).text();
    let without_revisions = |lines: String| -> Vec<serde_json::Value> {
        let entry = |line: &str| {
            let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
            entry.as_object_mut().unwrap().remove("revision");
            entry
        };
        lines.lines().map(entry).collect()
    };
    assert_eq!(without_revisions(one.run("scan --json").text()), without_revisions(copy));
}

/// `raftmap scan | head` is no failure, however much is left.
#[test]
fn a_reader_that_goes_away_ends_a_scan_quietly() {
    let one = OneServer::start();
    let lines: String = (0..20_000).map(|n| format!("key-{n}\t{}\n", "x".repeat(100))).collect();
    let file = one.file("many.tsv", lines);
    run(one.command(["import"]).arg(&file)).text();

    let mut scan = one.command(["scan"]);
    let mut scan =
        scan.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(scan.stdout.take());
    let ended = scan.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn errors_say_whether_anything_was_applied_and_what_to_do() {
    let mut one = OneServer::start();
    let error = one.run("put key value --as nobody").failure(1);
    assert!(error.contains("nobody.pem") && error.contains("client, operator"), "{error}");
    let large = one.file("large", vec![0; (1 << 20) + 1]);
    let error = run(one.command(["put", "key", "--file"]).arg(&large)).failure(2);
    for part in ["not applied", "TOO_LARGE", "1048576"] {
        assert!(error.contains(part), "{error}");
    }

    one.cluster.kill(SERVER).unwrap();
    let began = Instant::now();
    let error = one.run("put key value --timeout-ms 500").failure(1);
    assert!(error.contains("no server answered") && error.contains("Do the servers run"), "{error}");
    assert!(began.elapsed().as_millis() >= 500, "it was tried until the time was over");
    one.run("status --timeout-ms 500").failure(1);
}

#[test]
fn status_shows_the_members_as_a_table_and_as_json() {
    let one = OneServer::start();
    one.run("put key value").text();
    let text = one.run("status").text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("server 1 leads in term "), "{text}");
    assert!(lines[1].starts_with("ID  ADDRESS"), "{text}");
    assert!(lines[2].contains("leader"), "{text}");

    let status = one.run("status --json").json();
    let member = &status["members"][0];
    assert_eq!(
        (&status["leader"], &member["role"], &member["lag"]),
        (&json!(1), &json!("leader"), &json!(0))
    );
    assert_eq!(member["last_log_index"], member["commit_index"]);
    assert_eq!((&member["answers"], &member["damaged"]), (&json!(true), &json!(false)));
}

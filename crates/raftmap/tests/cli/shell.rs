//! `raftmap shell`, without a terminal and on one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::screen::Screen;
use crate::support::{OneServer, SERVER, run, run_with};

#[test]
fn lines_are_the_commands_of_the_same_names() {
    let one = OneServer::start();
    let lines = "put greeting 'hello world'\n\n# a comment\nraftmap get greeting\nput --hex ff00 61 --json\nscan\n\
        cas greeting hi --expect \"hello world\"\nget greeting --json\ndel greeting nothing\nquit\nget greeting\n";
    let text = run_with(&mut one.command(["shell"]), lines.as_bytes()).text();
    let said: Vec<&str> = text.lines().collect();
    assert!(said[0].starts_with("revision "), "{text}");
    assert_eq!(said[1], "hello world");
    assert!(said[2].contains("\"previous\":null"), "{text}");
    assert_eq!(said[3..5], ["greeting\thello world", "\\xff\\u{0}\ta"]);
    assert!(said[5].starts_with("revision "), "{text}");
    assert!(said[6].contains("\"value\":\"hi\""), "{text}");
    assert!(said[7].starts_with("deleted 1 of 2, revision "), "{text}");
    assert_eq!(said.len(), 8, "nothing runs behind quit: {text}");

    let both = run_with(&mut one.command(["shell"]), b"status\nmembers\nmembers --json\n").text();
    assert!(both.contains("server 1 leads in term ") && both.contains("ID  ROLE   PEERS"), "{both}");
    let members: serde_json::Value = serde_json::from_str(both.lines().last().unwrap()).unwrap();
    assert_eq!(members, one.run("member list --json").json());
    assert_eq!(members["cluster_id"].as_str().unwrap().len(), 32);
    let help = run_with(&mut one.command(["shell"]), b"help\nhelp cas\n").text();
    for part in
        ["members", "quit", "Set a key to a value if it is as expected", "raftmap cas leader me --absent"]
    {
        assert!(help.contains(part), "{part}: {help}");
    }
}

#[test]
fn the_first_failure_ends_the_shell_with_its_code_unless_told_otherwise() {
    let one = OneServer::start();
    let alone = one.run("get nothing").failure(4);
    let lines = b"put a 1\r\nget nothing\nput b 2\ngut a\n";
    let error = run_with(&mut one.command(["shell"]), lines).failure(4);
    assert!(error.starts_with(&alone) && error.contains("line 2; those behind it were not run"), "{error}");
    assert_eq!(one.run("scan --keys-only").text(), "a\n");

    let error = run_with(&mut one.command(["shell", "--keep-going"]), lines).failure(4);
    assert!(error.contains("unrecognized subcommand 'gut'") && error.contains("line 4"), "{error}");
    assert_eq!(one.run("scan --keys-only").text(), "a\nb\n");

    for (line, part) in [
        ("put k -", "here standard input has commands"),
        ("put k 'v", "a quote is not closed"),
        ("put k v --ttl-ms 0", "0 is not in"),
        ("get k --endpoints h:1", "unexpected argument '--endpoints'"),
    ] {
        let error = run_with(&mut one.command(["shell"]), line.as_bytes()).failure(2);
        assert!(error.contains(part), "{line}: {error}");
    }
}

#[test]
fn a_line_that_nobody_answers_says_how_the_servers_are() {
    let mut one = OneServer::start();
    one.cluster.kill(SERVER).unwrap();
    let mut shell = one.command(["shell", "--timeout-ms", "500"]);
    let error = run_with(&mut shell, b"put a 1\n").failure(1);
    assert!(error.contains("no server answered") && error.contains("that was line 1"), "{error}");
}

/// A shell on a terminal, that keeps its history in a folder.
fn on_terminal(one: &OneServer, state: &Path, arguments: &[&str]) -> Screen {
    let environment = [
        ("RAFTMAP_ENDPOINTS", one.cluster.endpoints().join(",")),
        ("RAFTMAP_CERTS", one.cluster.certs_dir().display().to_string()),
        ("XDG_STATE_HOME", state.display().to_string()),
    ];
    // Answered once somebody leads.
    run(&mut one.command(["get", "nothing"])).failure(4);
    let shell = Screen::start(&[&["shell"], arguments].concat(), &environment);
    shell.wait_for("local: 1 server, server 1 leads");
    shell.wait("the prompt", |text| text.ends_with("local>") || text.ends_with("local> "));
    shell
}

fn history(state: &Path) -> PathBuf {
    state.join("raftmap/history")
}

#[test]
fn keys_commands_and_options_are_completed_and_lines_are_kept() {
    let one = OneServer::start();
    let state = one.folder.path().join("state");
    one.run("put user:one ann").text();
    let shell = on_terminal(&one, &state, &[]);
    shell.press("ge\tus\t\r");
    shell.wait_for("local> get user:one \nann");
    run(&mut one.command(["put", "user:two words", "ben"])).text();
    shell.press("get user:t\t--js\t\r");
    shell.wait_for("local> get 'user:two words' --json \n{");
    shell.press("del user:\t\t");
    shell.wait_for("user:one        user:two words");
    // A line that is left is not run.
    shell.press("one");
    shell.wait_for("del user:one");
    shell.press("\x03");
    shell.wait("the next prompt", |text| text.trim_end().ends_with("local>"));
    shell.press("get user:one --json\r");
    shell.wait_for("\"value\":\"ann\"");
    shell.press(" put secret s3cret\r");
    shell.wait_for("local>  put secret s3cret\nrevision ");
    shell.press("get nothing\r");
    shell.wait_for("raftmap: no such key: nothing");
    shell.press("\x1b[A\x1b[A\r");
    shell.wait("the line before the last one runs again", |text| {
        text.matches("\"value\":\"ann\"").count() == 2
    });
    shell.press("\x04");
    let (code, left) = shell.end();
    assert_eq!(code, Some(0), "{left}");

    let path = history(&state);
    let kept = fs::read_to_string(&path).unwrap();
    assert!(kept.contains("get 'user:two words' --json") && !kept.contains("secret"), "{kept}");
    for (path, mode) in [(path.as_path(), 0o600), (path.parent().unwrap(), 0o700)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{}", path.display());
    }

    let shell = on_terminal(&one, &state, &[]);
    shell.press("\x1b[A\x1b[A\x1b[A\x1b[A\r");
    shell.wait_for("\"value\":\"ben\"");
    shell.press("quit\r");
    assert_eq!(shell.end().0, Some(0));
}

#[test]
fn no_history_is_kept_if_asked() {
    let one = OneServer::start();
    let state = one.folder.path().join("state");
    let shell = on_terminal(&one, &state, &["--no-history"]);
    shell.press("put a 1\r");
    shell.wait_for("revision ");
    shell.press("exit\r");
    assert_eq!(shell.end().0, Some(0));
    assert!(!state.exists());
}

#[test]
fn a_request_is_broken_off_by_ctrl_c_and_the_shell_goes_on() {
    let mut one = OneServer::start();
    let state = one.folder.path().join("state");
    one.run("put a 1").text();
    let shell = on_terminal(&one, &state, &["--timeout-ms", "60000"]);
    shell.press("get a\r");
    shell.wait_for("local> get a\n1");
    one.cluster.pause(SERVER).unwrap();
    for (line, said) in [("put a 2", "the write may have been applied"), ("get a", "raftmap: interrupted\n")]
    {
        shell.press(&format!("{line}\r"));
        shell.wait("the line is taken", |text| text.trim_end().ends_with(&format!("local> {line}")));
        // The terminal is back in the mode in which the key is a signal only once the request is under way.
        crate::support::wait_until("it is broken off", || {
            shell.press("\x03");
            std::thread::sleep(std::time::Duration::from_millis(50));
            shell.text().contains(said)
        });
    }
    one.cluster.resume(SERVER).unwrap();
    shell.press("scan --keys-only\r");
    shell.wait_for("scan --keys-only\na");
    shell.press("\x04");
    assert_eq!(shell.end().0, Some(0));
}

#[test]
fn a_shell_that_is_told_to_end_gives_the_terminal_back() {
    let one = OneServer::start();
    let shell = on_terminal(&one, &one.folder.path().join("state"), &[]);
    shell.press("get");
    shell.wait_for("local> get");
    kill_process(Pid::from_child(&shell.child), Signal::TERM).unwrap();
    let (code, left) = shell.end();
    assert_eq!(code, Some(130), "{left}");
}

//! What is shown on a terminal: `raftmap demo` and `raftmap top`, driven through a pseudo-terminal.

use std::fs;
use std::path::Path;

use crate::screen::Screen;
use crate::support::{OneServer, raftmap, run, wait_until};

/// Whether a process has `folder` in its command line.
fn is_used(folder: &Path) -> bool {
    let commands = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    commands
        .map(|command| String::from_utf8_lossy(&command).into_owned())
        .any(|command| command.contains(&folder.display().to_string()))
}

#[test]
fn a_live_demo_loses_nothing_whatever_is_done_to_its_servers() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("demo").display().to_string();
    let demo = Screen::start(&["demo", "--folder", &place], &[]);
    demo.wait("three servers are shown", |text| {
        text.contains("● leader") && text.matches("○ follower").count() == 2
    });
    demo.wait("writes are verified", |text| text.contains("LOST 0") && !text.contains("verified 0 "));

    demo.press("?");
    demo.wait_for("A majority must run");
    demo.wait_for("export RAFTMAP_ENDPOINTS=127.0.0.1:");
    // With the next key right behind it, this would be one key with Alt.
    demo.press("\x1b");
    demo.wait("the help is closed", |text| !text.contains("A majority must run"));
    demo.press("Lk");
    demo.wait_for(", the leader, is killed");
    demo.wait_for("✖ killed");
    demo.wait("another one is elected", |text| {
        text.matches("leads in term").count() >= 3 && text.contains("with the votes of")
    });
    demo.wait_for("writes stood still for");
    demo.press("r");
    demo.wait("it follows", |text| text.matches("○ follower").count() == 2);

    // The leader that the others do not reach leads no more.
    demo.press("Lx");
    demo.wait_for("is cut off");
    demo.wait("the third one is elected", |text| text.matches("with the votes of").count() >= 3);
    demo.press("r");
    demo.press("p");
    demo.wait_for("is paused");
    demo.press("r");

    // Whoever cannot write leads no more, and the others acknowledge.
    demo.wait("three servers are there", |text| text.matches("○ follower").count() == 2);
    demo.press("Ld");
    demo.wait_for("is stalled at its disk");
    demo.wait("another one is elected behind that, and writes go on", |text| {
        let stalled = text.rfind("is stalled at its disk");
        text.rfind("with the votes of") > stalled && text.rfind("writes stood still for") > stalled
    });
    demo.press("r");
    demo.press("a");
    demo.wait("a fourth server votes", |text| {
        text.contains("server 4 is a member") && text.contains("4   ○ follower")
    });
    demo.press("4");
    // The log is shown as it was when the key was hit.
    wait_until("its log says that it is ready", || {
        demo.press("l");
        demo.wait_for("log of server 4");
        let says = demo.text().contains("ready: this server takes requests");
        demo.press("\x1b");
        demo.wait("the log is closed", |text| !text.contains("log of server 4"));
        says
    });

    assert!(is_used(folder.path()));
    demo.press("k");
    demo.wait_for("server 4 is killed");
    demo.press("q");
    let (code, left) = demo.end();
    assert_eq!(code, Some(0), "{left}");
    let summary = left.lines().find(|line| line.starts_with("acked ")).unwrap_or_else(|| panic!("{left}"));
    assert!(summary.contains(" · lost 0 · longest gap "), "{left}");
    let number =
        |word: &str| summary.split(word).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert_eq!(number("acked "), number("verified "), "{left}");
    assert!(!is_used(folder.path()), "a server is left");
}

#[test]
fn a_live_demo_that_is_interrupted_gives_the_terminal_back_and_leaves_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("demo").display().to_string();
    let demo = Screen::start(&["demo", "--folder", &place], &[]);
    demo.wait_for("● leader");
    demo.press("\x03");
    assert_eq!(demo.end().0, Some(130));
    wait_until("no server is left", || !is_used(folder.path()));
}

#[test]
fn the_plain_story_is_told_on_a_terminal_if_asked() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    fs::write(&input, "a line\n".repeat(500)).unwrap();
    let (place, input) = (folder.path().join("demo").display().to_string(), input.display().to_string());
    let demo = Screen::start(&["demo", "--plain", "--input", &input, "--folder", &place], &[]);
    demo.wait_for("acked 500 · verified 500 · lost 0");
    assert_eq!(demo.end().0, Some(0));
}

#[test]
fn top_shows_a_cluster_until_it_is_told_to_quit() {
    let server = OneServer::start();
    let (endpoint, certs) =
        (server.cluster.endpoints().remove(0), server.cluster.certs_dir().display().to_string());
    let environment = [("RAFTMAP_ENDPOINTS", endpoint), ("RAFTMAP_CERTS", certs)];
    let top = Screen::start(&["top", "--every-ms", "100"], &environment);
    top.wait("the server leads", |text| text.contains("raftmap top") && text.contains("● leader"));
    assert_eq!(run(&mut server.command(["put", "greeting", "hello"])).code, Some(0));
    top.wait("memory and the time of syncs are told", |text| {
        text.contains(" MiB ") && (text.contains(" ms ") || text.contains(" µs "))
    });
    top.press("q");
    assert_eq!(top.end().0, Some(0));
}

#[test]
fn top_without_a_terminal_names_the_command_that_needs_none() {
    let error = run(raftmap().args(["top", "--insecure", "--endpoints", "127.0.0.1:1"])).failure(2);
    assert!(error.contains("raftmap status --json"), "{error}");
}

//! Where the settings of a server come from, and what else the definition of all arguments is good for.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{raftmap, run, wait_exit, wait_until, write};

/// A file of settings, and the command that checks it.
fn check(folder: &std::path::Path, text: &str) -> Command {
    let file = write(folder, "raftmap.toml", text);
    let mut command = raftmap();
    command.args(["config", "check"]).arg(file);
    command
}

/// The row of a setting: its value, and where it is from.
fn row<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    line.unwrap_or_else(|| panic!("{name}: {text}")).split_whitespace().skip(1).collect()
}

#[test]
fn a_setting_comes_from_the_environment_then_from_the_file_then_from_what_is_usual() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "data = \"nowhere\"\ninsecure = true\nlog-mib = 128\nheartbeat-ms = 90\n";
    let mut command = check(folder.path(), settings);
    let text = run(command.env("RAFTMAP_HEARTBEAT_MS", "80").current_dir(folder.path())).text();
    assert_eq!(row(&text, "data"), ["nowhere", "the", "file"]);
    assert_eq!(row(&text, "log-mib"), ["128", "the", "file"]);
    assert_eq!(row(&text, "insecure"), ["true", "the", "file"]);
    assert_eq!(row(&text, "heartbeat-ms"), ["80", "RAFTMAP_HEARTBEAT_MS"]);
    assert_eq!(row(&text, "log-max-mib"), ["512", "–"]);
    assert_eq!(row(&text, "certs"), ["–", "–"]);
    assert!(text.contains("sound; nowhere is not there"), "{text}");
}

#[test]
fn what_a_file_cannot_say_is_told_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for (text, parts) in [
        ("log-mb = 3\ndata = \"d\"", vec!["log-mb", "there is no such setting"]),
        ("log-mib = \"many\"\ndata = \"d\"", vec!["log-mib", "many"]),
        ("log-mib = 0\ndata = \"d\"", vec!["log-mib", "0 is not in"]),
        ("log-format = \"xml\"\ndata = \"d\"", vec!["log-format", "xml"]),
        ("insecure = \"yes\"\ndata = \"d\"", vec!["insecure", "true or false"]),
        ("data = [1, 2]", vec!["data", "a text or a whole number"]),
        ("config = \"other\"\ndata = \"d\"", vec!["config", "there is no such setting"]),
        ("data = ", vec!["TOML parse error"]),
        ("log-mib = 3", vec!["--data"]),
        ("", vec!["--data"]),
    ] {
        let error = run(&mut check(folder.path(), text)).failure(2);
        for part in parts {
            assert!(error.contains(part), "{text}: {part}: {error}");
        }
    }
    let error = run(raftmap().args(["config", "check", "no-such-file"])).failure(1);
    assert!(error.contains("no-such-file"), "{error}");
}

#[test]
fn a_server_runs_by_its_file_and_a_flag_comes_first() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let init = "init --cluster c --id 1 --member 1=127.0.0.1:1,127.0.0.1:2 --data";
    run(raftmap().args(init.split(' ')).arg(place("data"))).text();
    let settings = format!(
        "data = {:?}\ninsecure = true\nclient-listen = \"127.0.0.1:0\"\npeer-listen = \"127.0.0.1:0\"\nready-file = {:?}\n",
        place("data"),
        place("ready")
    );
    assert!(run(&mut check(folder.path(), &settings)).text().contains("this would be server 1"));

    let file = write(folder.path(), "raftmap.toml", settings);
    let mut command = raftmap();
    command.args(["serve", "--ready-file", &place("other")]).env("RAFTMAP_CONFIG", file);
    let mut server =
        command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    wait_until("it is ready", || folder.path().join("other").exists());
    assert!(!folder.path().join("ready").exists());
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert_eq!(wait_exit(&mut server).code(), Some(0));
}

#[test]
fn a_file_that_is_no_use_keeps_a_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "raftmap.toml", "data = \"d\"\nlog-mb = 3\n");
    let error = run(raftmap().args(["serve", "--config"]).arg(&file)).failure(2);
    assert!(error.contains("log-mb") && error.contains("raftmap.toml"), "{error}");
    let file = write(folder.path(), "both.toml", "data = \"d\"\ninsecure = true\ncerts = \"certs\"\n");
    let error = run(raftmap().args(["serve", "--config"]).arg(&file)).failure(1);
    assert!(error.contains("raftmap init"), "{error}");
}

#[test]
fn shells_get_their_completions() {
    for (shell, part) in [("bash", "_raftmap"), ("zsh", "#compdef raftmap"), ("fish", "complete -c raftmap")]
    {
        let text = run(raftmap().args(["completions", shell])).text();
        for part in [part, "election-timeout-ms", "member"] {
            assert!(text.contains(part), "{shell}: {part}");
        }
    }
    run(raftmap().args(["completions", "tcsh"])).failure(2);
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    run(raftmap().args(["man", "--out"]).arg(folder.path())).text();
    for name in ["raftmap", "raftmap-put", "raftmap-member-add", "raftmap-config-check"] {
        let page = std::fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH OPTIONS"), "{name}: {page}");
    }
    let page = run(raftmap().args(["man", "put"])).text();
    for part in [".SH EXAMPLES\n.nf\n", "raftmap put greeting hello", ".SH EXIT STATUS"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(run(raftmap().args(["man", "no-such"])).failure(2).contains("no such command"));
}

//! What the binary says of itself, and of arguments that it does not understand.

use crate::support::{raftmap, run};

const COMMANDS: [&str; 22] = [
    "certs",
    "init",
    "serve",
    "get",
    "put",
    "del",
    "cas",
    "scan",
    "import",
    "export",
    "shell",
    "status",
    "top",
    "backup",
    "restore",
    "check",
    "recover",
    "bench",
    "demo",
    "config",
    "completions",
    "man",
];

#[test]
fn every_help_text_opens_with_examples_and_ends_with_exit_codes() {
    for command in COMMANDS {
        let help = run(raftmap().args([command, "--help"])).text();
        let examples = help.split_once("Usage:").unwrap().0;
        assert!(help.starts_with("Examples:\n"), "{help}");
        assert!(examples.contains(&format!("raftmap {command}")), "{help}");
        assert!(help.contains("Exit codes:"), "{help}");
    }
}

#[test]
fn the_first_help_text_shows_the_way_and_the_exit_codes() {
    let help = run(raftmap().arg("--help")).text();
    for part in ["raftmap demo", "raftmap certs", "raftmap init", "raftmap serve", "Exit codes:"] {
        assert!(help.contains(part), "{part}: {help}");
    }
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
}

#[test]
fn arguments_that_make_no_sense_end_with_2_and_say_why() {
    for (line, part) in [
        ("", "Usage"),
        ("gut key", "unrecognized subcommand 'gut'"),
        ("get", "<KEY>"),
        ("put key", "<VALUE|--file <FILE>>"),
        ("put key value --file f", "cannot be used with"),
        ("put key value --ttl-ms 0", "0 is not in"),
        ("cas key value", "--absent"),
        ("cas key value --absent --revision 7", "cannot be used with"),
        ("get --hex 0g", "KEY 0g: is not hexadecimal"),
        ("get --base64 a", "KEY a: is not base64"),
        ("get key", "--endpoints"),
        ("get key --endpoints h:1", "which certificates?"),
        ("get key --endpoints h --insecure", "not an endpoint"),
        ("certs --cluster shop --out certs", "for whom?"),
        ("certs --cluster a/b --out certs --client x", "is no name"),
        ("init --cluster c --data d --id 1 --member 1=h:1", "write ID=HOST:PORT,HOST:PORT"),
        ("init --cluster c --data d --id 0 --member 1=h:1,h:2", "is no id"),
        ("restore f --cluster c --data d --id 1 --member 1=h:1", "write ID=HOST:PORT,HOST:PORT"),
        ("backup --insecure", "--out"),
        ("recover", "<DIR>"),
        ("recover a b --out f", "one directory"),
        ("check", "<DIR>"),
        ("export --force", "--out"),
        ("export --format tsv --hex", "--format jsonl"),
        ("export --hex 0g", "PREFIX 0g: is not hexadecimal"),
        ("export a --start b", "cannot be used with"),
        ("shell get", "unexpected argument"),
        ("bench --mix 90/20 --local", "percentages"),
        ("bench --embedded", "--local"),
        ("bench --local --servers 0", "0 is not in"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let ended = run(raftmap().args(line.split_whitespace()).current_dir(folder.path()));
        let error = ended.failure(2);
        assert!(error.contains(part), "raftmap {line}: {error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "raftmap {line} wrote something");
    }
}

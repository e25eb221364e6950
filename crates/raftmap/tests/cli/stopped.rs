//! `raftmap check` and `raftmap recover`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::backup::{at, new_cluster, restore, start};
use crate::support::{Ended, OneServer, SERVER, raftmap, run};

/// A server that was asked to end, after some writes.
fn stopped(arguments: &[&str], keys: usize) -> (OneServer, PathBuf) {
    let mut one = OneServer::start_with(arguments);
    let lines: String = (0..keys).map(|n| format!("k{n}\t{}\n", "v".repeat(1000))).collect();
    let file = one.file("lines.tsv", lines);
    run(one.command(["import"]).arg(file)).text();
    one.run("put greeting hello").text();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(one.cluster.stop_all()).unwrap();
    let data = one.cluster.data_dir(SERVER);
    (one, data)
}

fn check(data: &Path, more: &[&str]) -> Ended {
    run(raftmap().arg("check").arg(data).args(more))
}

/// All files, with their bytes and when they were changed.
fn files(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        match path.is_dir() {
            true => {
                found.extend(files(&path));
                found.insert(path, (Vec::new(), modified));
            }
            false => drop(found.insert(path.clone(), (fs::read(&path).unwrap(), modified))),
        }
    }
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_directory_is_checked_without_changing_a_byte_of_it() {
    let (_one, data) = stopped(&[], 200);
    let before = files(&data);
    let said = check(&data, &[]).text();
    for part in ["identity", "hard state", "log ", "state machine", "201 keys", "log and state"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("DAMAGED") && !said.contains("repairable"), "{said}");
    let json = check(&data, &["--json"]).json();
    assert_eq!(json["whole"], true);
    assert_eq!(json["content_digest"].as_str().unwrap().len(), 32);
    run(raftmap().arg("recover").arg(&data)).text();
    assert!(files(&data) == before, "a look changed something");
}

#[test]
fn each_part_that_is_damaged_is_named() {
    let (_one, data) = stopped(&[], 200);
    let table =
        files(&data.join("state-0")).into_keys().find(|path| path.to_string_lossy().contains("/tables/"));
    let group = data.join("group-1");
    for (path, byte, part, says) in [
        (data.join("identity"), 120, "identity", "its checksum does not fit"),
        (group.join("segment-000000000001"), 4096 + 100, "log", "segment 1 is damaged at offset 4096"),
        (table.unwrap(), 60, "state machine", "hecksum"),
    ] {
        let whole = fs::read(&path).unwrap();
        flip(&path, byte);
        let before = files(&data);
        let ended = check(&data, &[]);
        assert_eq!(ended.code, Some(6), "{path:?}: {ended:?}");
        let said = String::from_utf8(ended.out).unwrap();
        let line = said.lines().find(|line| line.contains("DAMAGED")).unwrap();
        assert!(line.starts_with(part) && line.contains(says), "{path:?}: {said}");
        assert!(files(&data) == before, "a look changed something");
        fs::write(&path, whole).unwrap();
    }
    flip(&group.join("hard-state"), 20);
    let said = check(&data, &[]).text();
    assert!(said.contains("repairable") && said.contains("slot 1 is unreadable"), "{said}");
    flip(&group.join("hard-state"), 4096 + 20);
    let said = String::from_utf8(check(&data, &[]).out).unwrap();
    assert!(said.contains("both slots of the hard state are unreadable"), "{said}");
}

#[test]
fn a_state_machine_that_is_gone_or_does_not_go_with_its_log_is_named() {
    let (_one, data) = stopped(&[], 10);
    let aside = data.with_file_name("aside");
    fs::rename(data.join("state-0"), &aside).unwrap();
    let said = String::from_utf8(check(&data, &[]).out).unwrap();
    assert!(said.contains("DAMAGED") && said.contains("state-0 is not there"), "{said}");
    fs::rename(&aside, data.join("state-0")).unwrap();
    // The log loses all that it had, behind the back of everybody.
    let segment = data.join("group-1/segment-000000000001");
    let len = fs::metadata(&segment).unwrap().len();
    fs::write(&segment, vec![0; usize::try_from(len).unwrap()]).unwrap();
    let said = String::from_utf8(check(&data, &[]).out).unwrap();
    assert!(said.contains("log and state  DAMAGED") && said.contains("the log lost something"), "{said}");
}

#[test]
fn a_directory_that_a_server_holds_is_left_alone() {
    let one = OneServer::start();
    for command in ["check", "recover"] {
        let error = run(raftmap().arg(command).arg(one.cluster.data_dir(SERVER))).failure(1);
        assert!(
            error.contains("another process has this data directory open: stop its server first"),
            "{error}"
        );
    }
    let error = check(one.folder.path(), &[]).failure(1);
    assert!(error.contains("not a data directory"), "{error}");
}

#[test]
fn what_a_server_holds_is_saved_once_that_is_confirmed_and_its_directory_is_fenced() {
    let (one, data) = stopped(&[], 10);
    let said = run(raftmap().arg("recover").arg(&data)).text();
    assert!(said.contains("A majority of the voters is here and whole"), "{said}");
    let file = one.folder.path().join("saved");
    let recover = |more: &[&str]| run(raftmap().arg("recover").arg(&data).arg("--out").arg(&file).args(more));
    let before = files(&data);
    let error = recover(&[]).failure(2);
    assert!(error.contains("--yes") && error.contains("nothing was done"), "{error}");
    assert!(!file.exists() && files(&data) == before);

    let said = recover(&["--yes"]).text();
    assert!(said.contains("11 keys") && said.contains("is fenced"), "{said}");
    assert_eq!(fs::read_dir(one.folder.path()).unwrap().count(), 3, "the shadow is gone");
    let mut serve = raftmap();
    serve.args(["serve", "--client-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--data"]);
    serve.arg(&data).arg("--certs").arg(one.cluster.certs_dir());
    let error = run(&mut serve).failure(1);
    assert!(error.contains("this data directory is fenced: what server 1 held was saved"), "{error}");
    assert!(check(&data, &[]).text().contains("no server starts here any more"));
    // It can be done again: the file may be lost before it is copied.
    fs::remove_file(&file).unwrap();
    recover(&["--yes", "--json"]).json();

    let mut new = new_cluster(one.folder.path());
    let told = restore(&file, &new, "new", &[]).text();
    assert!(told.contains("recovered from the directory of server 1"), "{told}");
    start(&mut new);
    assert_eq!(at(&new, "get greeting").text(), "hello");
}

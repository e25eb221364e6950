//! `raftmap demo` and `raftmap bench --local`: three servers each.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{raftmap, run, wait_exit, write};

fn demo(folder: &std::path::Path, lines: usize) -> Command {
    let text: String = (0..lines).map(|n| format!("line {n} of some input\n")).collect();
    let input = write(folder, "input", text);
    let mut command = raftmap();
    command.arg("demo").arg("--input").arg(input).arg("--folder").arg(folder.join("demo"));
    command
}

/// The process ids that the demo tells.
fn pids(text: &str) -> Vec<Pid> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let told = words.windows(2).filter(|pair| pair[0] == "process");
    told.map(|pair| Pid::from_raw(pair[1].parse().unwrap()).unwrap()).collect()
}

#[test]
fn the_demo_kills_a_leader_and_loses_nothing_and_can_be_run_again() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let text = run(&mut demo(folder.path(), 2000)).text();
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("acked 2000 · verified 2000 · lost 0 · longest gap "), "{text}");
        for part in ["is elected leader", "is killed (SIGKILL)", "starts again", "has caught up"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let pids = pids(&text);
        assert_eq!(pids.len(), 3, "{text}");
        assert!(pids.into_iter().all(|pid| test_kill_process(pid).is_err()), "a server is left: {text}");
    }
}

#[test]
fn an_interrupted_demo_leaves_no_server_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = demo(folder.path(), 1_000_000);
    let mut demo = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut told = String::new();
    while !told.contains("writing") {
        told.push_str(&lines.next().unwrap().unwrap());
        told.push('\n');
    }
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert_eq!(wait_exit(&mut demo).code(), Some(130));
    let pids = pids(&told);
    assert_eq!(pids.len(), 3, "{told}");
    assert!(pids.into_iter().all(|pid| test_kill_process(pid).is_err()), "a server is left: {told}");
}

#[test]
fn the_demo_replaces_no_folder_that_is_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("demo");
    std::fs::create_dir(&own).unwrap();
    write(&own, "thesis", "chapter 1");
    let error = run(&mut demo(folder.path(), 100)).failure(1);
    assert!(error.contains("was not made by the demo"), "{error}");
    assert!(own.join("thesis").exists());
}

#[test]
fn one_command_measures_three_servers() {
    let mut command = raftmap();
    command.args("bench --local --seconds 1 --warm-up-seconds 0 --clients 4 --mix 50/50 --json".split(' '));
    let figures = run(&mut command).json();
    for kind in ["puts", "gets"] {
        assert!(figures[kind]["count"].as_u64().unwrap() > 0, "{figures}");
        assert_eq!(figures[kind]["failed"], 0, "{figures}");
        assert!(figures[kind]["p50_us"].as_u64() <= figures[kind]["p99_us"].as_u64(), "{figures}");
    }
}

#[test]
fn the_servers_of_a_measurement_may_be_in_its_process_and_the_run_is_plotted_second_by_second() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = raftmap();
    command
        .args("bench --local --embedded --servers 1 --seconds 2 --warm-up-seconds 0 --clients 4".split(' '));
    command.args("--mix 50/50 --json --plot run.svg".split(' ')).current_dir(folder.path());
    let figures = run(&mut command).json();
    let seconds: Vec<f64> =
        figures["each_second"].as_array().unwrap().iter().map(|s| s["ended_s"].as_f64().unwrap()).collect();
    assert!(!seconds.is_empty() && seconds.is_sorted_by(|a, b| b - a > 0.05), "{figures}");
    let svg = std::fs::read_to_string(folder.path().join("run.svg")).unwrap();
    for part in ["<svg", "Requests a second", "p99", "puts", "gets", "99.9"] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
}

#[test]
fn what_bounds_a_machine_is_measured_without_a_store() {
    let figures = run(raftmap().args("bench --machine --json".split(' '))).json();
    let us = |name: &str| figures[name].as_u64().unwrap();
    assert!(us("sync_us") > 0 && us("round_trip_us") > 0, "{figures}");
    assert_eq!(us("sync_and_two_round_trips_us"), us("sync_us") + 2 * us("round_trip_us"));
    assert!(us("standstill_percent") <= 100 && us("standstill_longest_us") < 3_000_000, "{figures}");
}

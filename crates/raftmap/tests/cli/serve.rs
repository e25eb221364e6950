//! `raftmap serve`, and what must go before it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use raftmap::local_cluster::free_loopback_addresses;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{OneServer, SERVER, raftmap, run, wait_exit, wait_until, write};

/// A process that is killed when the test ends, however it does.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Starts `command` and waits until it is ready.
fn serve(command: &mut Command, ready: &Path) -> Serving {
    let child = command.arg("--ready-file").arg(ready).stderr(Stdio::piped()).spawn();
    let mut serving = Serving(child.unwrap());
    wait_until("the server is ready", || {
        assert!(serving.0.try_wait().unwrap().is_none(), "the server has ended");
        ready.exists()
    });
    serving
}

/// The way that the help text shows, from nothing to a value, with each command's own words.
#[test]
fn a_newcomer_gets_from_nothing_to_a_value() {
    let folder = tempfile::tempdir().unwrap();
    let command = |line: &str| {
        let mut command = raftmap();
        command.args(line.split_whitespace()).current_dir(folder.path());
        command
    };
    let made = run(&mut command("certs --cluster toy --out certs --server 1=127.0.0.1 --client app")).text();
    assert!(made.contains("node/1: certs/node-1.pem, certs/node-1.key"), "{made}");
    let again = run(&mut command("certs --cluster toy --out certs --client app")).failure(1);
    assert!(again.contains("never overwritten"), "{again}");
    run(&mut command("certs --cluster other --out certs --client b")).failure(1);

    let [peers, clients] = free_loopback_addresses(2).unwrap().try_into().unwrap();
    let init = format!("init --cluster toy --data data --id 1 --member 1={peers},{clients}");
    assert!(run(&mut command(&init)).text().contains("data: server 1 of cluster toy"));
    let again = run(&mut command(&init)).failure(1);
    assert!(again.contains("is a data directory already, of node 1"), "{again}");

    let ready = folder.path().join("ready");
    let mut serving = serve(&mut command("serve --data data --certs certs"), &ready);
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    assert_eq!((&ready["client"], &ready["node"]), (&clients.to_string().into(), &1.into()));
    let client = format!("--endpoints {clients} --certs certs --as app");
    run(&mut command(&format!("put greeting hello {client}"))).text();
    assert_eq!(run(&mut command(&format!("get greeting {client}"))).text(), "hello");

    let pid = Pid::from_child(&serving.0);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(wait_exit(&mut serving.0).success());
    let mut said = String::new();
    serving.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    for part in ["ready: this server takes requests", "in good order", "SIGTERM"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_server_that_cannot_start_says_why_and_what_to_do() {
    let mut one = OneServer::start();
    let (data, certs) = (one.cluster.data_dir(SERVER), one.cluster.certs_dir());
    let serve = |data: &Path, more: &[&str]| {
        let mut command = raftmap();
        command.args(["serve", "--client-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--data"]);
        command.arg(data).args(more);
        run(&mut command).failure(1)
    };
    let certs_text = certs.to_str().unwrap();
    let error = serve(&data, &["--certs", certs_text]);
    assert!(error.contains("another process has this data directory open"), "{error}");

    one.cluster.kill(SERVER).unwrap();
    let error = serve(&data, &["--certs", "no-such-folder"]);
    assert!(error.contains("no-such-folder/ca.pem"), "{error}");
    let folder = one.folder.path();
    for (cluster, servers, part) in [
        ("other", "1=127.0.0.1", "raftmap://other/node/1"),
        ("local", "2=127.0.0.1", "raftmap://local/node/2"),
    ] {
        let made = folder.join(format!("certs-{cluster}"));
        let mut command = raftmap();
        command.args(["certs", "--cluster", cluster, "--server", servers, "--out"]).arg(&made);
        run(&mut command).text();
        let stem = format!("node-{}", &servers[..1]);
        let [ca, cert, key] = ["ca.pem".to_owned(), format!("{stem}.pem"), format!("{stem}.key")]
            .map(|name| made.join(name).to_str().unwrap().to_owned());
        let error = serve(&data, &["--ca", &ca, "--cert", &cert, "--key", &key]);
        assert!(error.contains(part) && error.contains("wrong certificate"), "{error}");
    }

    let wiped = folder.join("wiped");
    let error = serve(&wiped, &["--certs", certs_text]);
    assert!(error.contains("not a data directory; `raftmap init` makes one"), "{error}");
    std::fs::create_dir(&wiped).unwrap();
    let error = serve(&wiped, &["--certs", certs_text]);
    assert!(error.contains("not a data directory"), "{error}");
    write(&wiped, "identity", "nonsense");
    let error = serve(&wiped, &["--certs", certs_text]);
    assert!(error.contains("identity"), "{error}");
}

#[test]
fn a_port_that_is_taken_is_named_with_the_flag_that_chooses_another() {
    let mut one = OneServer::start();
    one.cluster.kill(SERVER).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--client-listen", "--metrics-listen", "--peer-listen"] {
        let mut command = raftmap();
        command.arg("serve").arg("--data").arg(one.cluster.data_dir(SERVER));
        command.arg("--certs").arg(one.cluster.certs_dir()).args([flag, &address]);
        let error = run(&mut command).failure(1);
        assert!(error.contains(&format!("cannot listen on {address}")) && error.contains(flag), "{error}");
    }
}

#[test]
fn insecure_servers_warn_and_answer_insecure_clients() {
    let mut one = OneServer::start();
    one.cluster.kill(SERVER).unwrap();
    let address = one.cluster.plan().members[0].client_listen.to_string();
    let mut command = raftmap();
    command.args(["serve", "--insecure", "--data"]).arg(one.cluster.data_dir(SERVER));
    let mut serving = serve(&mut command, &one.folder.path().join("ready"));
    let client = ["--endpoints", &address, "--insecure"];
    run(raftmap().args(["put", "key", "value"]).args(client)).text();
    let mut command = raftmap();
    command.args(["get", "key", "--endpoints", &address]).env("RAFTMAP_INSECURE", "1");
    assert_eq!(run(&mut command).text(), "value");
    kill_process(Pid::from_child(&serving.0), Signal::INT).unwrap();
    assert!(wait_exit(&mut serving.0).success());
    let mut said = String::new();
    serving.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("WARN") && said.contains("--insecure: no TLS"), "{said}");
}

#[test]
fn servers_may_ask_clients_for_no_certificate() {
    let one = OneServer::start_with(&["--client-auth", "none"]);
    assert!(one.cluster.log_text(SERVER).contains("--client-auth none: whoever reaches"));
    let ca = one.cluster.certs_dir().join("ca.pem");
    let mut command = raftmap();
    command.args(["put", "key", "value", "--endpoints", &one.cluster.endpoints()[0], "--ca"]).arg(ca);
    run(&mut command).text();
}

#[test]
fn metrics_and_health_are_told_where_asked() {
    let one = OneServer::start();
    one.run("put key value").text();
    let address = one.cluster.plan().members[0].metrics_listen;
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/metrics").contains("raftmap_requests_answered_total"));
    wait_until("a server that leads is ready", || get("/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn servers_end_with_the_program_that_started_them() {
    let mut one = OneServer::start();
    let mut command = raftmap();
    one.cluster.kill(SERVER).unwrap();
    command.args(["serve", "--stop-with-stdin", "--data"]).arg(one.cluster.data_dir(SERVER));
    command.arg("--certs").arg(one.cluster.certs_dir());
    let mut serving = serve(command.stdin(Stdio::piped()), &one.folder.path().join("ready"));
    drop(serving.0.stdin.take());
    assert!(wait_exit(&mut serving.0).success());
}

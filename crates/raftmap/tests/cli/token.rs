//! Tokens and users, as commands make them, check them and show them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{OneServer, raftmap, run, write};

#[test]
fn a_token_goes_to_its_holder_and_its_hash_to_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("till.token");
    let told = run(raftmap().args(["token", "till", "--json", "--out"]).arg(&out)).json();
    assert!(told.get("token").is_none(), "{told}");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(raftmap().args(["token", "till", "--out"]).arg(&out)).failure(1);
    assert!(again.contains("till.token"), "what is there is not overwritten: {again}");

    let users = format!(
        "[roles.all]\nread=[\"\"]\nwrite=[\"\"]\n[users.client]\nroles=[]\n[users.till]\nroles=[\"all\"]\ntokens=[{}]",
        told["hash"]
    );
    let users = write(folder.path(), "users.toml", users);
    let arguments = ["--client-auth", "optional", "--users", users.to_str().unwrap()];
    let server = OneServer::start_with(&arguments);
    let as_till = |line: &str| {
        let mut command = server.command(line.split(' '));
        command.env("RAFTMAP_TOKEN_FILE", &out);
        command
    };
    run(&mut as_till("put greeting hello")).text();
    assert_eq!(run(&mut as_till("get greeting")).text(), "hello");
    // Whose certificate is shown instead is a user who may do nothing.
    let error = server.run("get greeting").failure(1);
    assert!(error.contains("may not read") && error.contains("DENIED"), "{error}");

    let other = run(raftmap().args(["token", "till"])).text();
    let other = other.lines().next().unwrap();
    let error =
        run(as_till("get greeting").env_remove("RAFTMAP_TOKEN_FILE").env("RAFTMAP_TOKEN", other)).failure(1);
    assert!(error.contains("not one of till's") && !error.contains(other), "{error}");
}

#[test]
fn what_is_no_token_and_where_none_is_sent_is_told_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let ca = write(folder.path(), "ca.pem", "");
    let get = |variable: &str, value: &str, option: &str| {
        let mut command = raftmap();
        command.args(["get", "k", "--endpoints", "127.0.0.1:1"]).args(option.split(' ')).arg(&ca);
        run(command.env(variable, value)).failure(2)
    };
    let error = get("RAFTMAP_TOKEN", "secret-1", "--ca");
    assert!(error.contains("RAFTMAP_TOKEN: a token has the form") && !error.contains("secret-1"), "{error}");
    let token = run(raftmap().args(["token", "ann"])).text();
    let error = get("RAFTMAP_TOKEN", token.lines().next().unwrap(), "--insecure --ca");
    assert!(error.contains("over TLS alone"), "{error}");
    let error = run(raftmap().args(["token", "a b"])).failure(2);
    assert!(error.contains("is no name"), "{error}");
}

#[test]
fn users_that_make_no_sense_keep_a_server_from_starting_and_are_told_before() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let init = "init --cluster c --id 1 --member 1=127.0.0.1:1,127.0.0.1:2 --data";
    run(raftmap().args(init.split(' ')).arg(place("data"))).text();
    let users = write(folder.path(), "users.toml", "[users.ann]\nroles = [\"shop\"]");
    let settings = format!("data = {:?}\ninsecure = true\nusers = {users:?}\n", place("data"));
    let file = write(folder.path(), "raftmap.toml", settings);
    let error = run(raftmap().args(["config", "check"]).arg(&file)).failure(1);
    assert!(error.contains("users.toml: user ann has the role shop"), "{error}");
    let error = run(raftmap().args(["serve", "--config"]).arg(&file)).failure(1);
    assert!(error.contains("there is no [roles.shop]"), "{error}");
    let error =
        run(raftmap().args(["serve", "--client-auth", "optional", "--data"]).arg(place("data"))).failure(2);
    assert!(error.contains("takes --users"), "{error}");
}

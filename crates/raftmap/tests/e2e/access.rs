//! Users, roles and tokens at real servers: who may do what, from when on and until when, and that nobody learns a secret.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use raftmap::local_cluster::OPERATOR;
use raftmap::users::Token;
use raftmap_client::{Client, Code, Error, Expected, Operation, SetupError, Swap, Tls};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, World, until};

/// Servers whose clients are the users of a file.
struct Guarded {
    world: World,
    users: PathBuf,
    audit: PathBuf,
    till: Token,
}

/// The user `till` with the hashes of these tokens, and others.
fn users(tokens: &[&Token]) -> String {
    let hashes: Vec<String> = tokens.iter().map(|token| format!("\"{}\"", token.hash())).collect();
    format!(
        "[roles.shop]\nread = [\"orders/\", \"prices/\"]\nwrite = [\"orders/\"]\n\
         [roles.keeper]\nadmin = true\n\
         [users.client]\nroles = [\"keeper\"]\n\
         [users.till]\nroles = [\"shop\"]\ntokens = [{}]\n",
        hashes.join(", ")
    )
}

impl Guarded {
    async fn start() -> Self {
        let till = Token::generate("till").unwrap();
        let (mut file, mut audit) = (PathBuf::new(), PathBuf::new());
        let mut world = World::found(|plan| {
            (file, audit) = (plan.folder.join("users.toml"), plan.folder.join("audit.log"));
            fs::write(&file, users(&[&till])).unwrap();
            let arguments: [OsString; 6] = [
                "--users".into(),
                file.clone().into(),
                "--audit-log".into(),
                audit.clone().into(),
                "--client-auth".into(),
                "optional".into(),
            ];
            plan.serve_arguments.extend(arguments);
        })
        .await;
        world.start_all().await.unwrap();
        world.leader().await.unwrap();
        Self { world, users: file, audit, till }
    }

    async fn try_by(&self, token: &Token) -> Result<Client, SetupError> {
        let ca = fs::read(self.world.certs_dir().join("ca.pem")).unwrap();
        let tls = Tls::with_token(ca, token.secret_text());
        Client::builder(self.world.endpoints(), tls).timeout(PATIENCE).connect().await
    }

    async fn by(&self, token: &Token) -> Client {
        self.try_by(token).await.unwrap()
    }

    async fn operator(&self) -> Client {
        let tls = self.world.tls(OPERATOR).unwrap();
        Client::builder(self.world.endpoints(), tls).timeout(PATIENCE).connect().await.unwrap()
    }

    /// Puts another file into the place of the users, as a whole.
    fn replace_users(&self, text: &str) {
        let next = self.users.with_extension("next");
        fs::write(&next, text).unwrap();
        fs::rename(&next, &self.users).unwrap();
    }

    /// The lines of the audit log.
    fn audited(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.audit).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// What a call that was refused says. Nothing of it was applied.
fn refused(result: Result<impl Sized, Error>) -> (Code, String) {
    match result.map(drop).unwrap_err() {
        Error::NotApplied(cause) => (cause.code.unwrap(), cause.reason),
        unknown @ Error::OutcomeUnknown(_) => panic!("{unknown}"),
    }
}

fn denied(result: Result<impl Sized, Error>) -> String {
    let (code, reason) = refused(result);
    assert_eq!(code, Code::DENIED, "{reason}");
    reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_does_what_its_roles_allow_and_nothing_else() {
    let guarded = Guarded::start().await;
    let operator = guarded.operator().await;
    operator.put("prices/tea", "3").await.unwrap();
    operator.put("stock/tea", "40").await.unwrap();

    let till = guarded.by(&guarded.till).await;
    till.put("orders/1", "tea").await.unwrap();
    assert_eq!(till.get("prices/tea").await.unwrap().unwrap().value, "3");
    let swapped = till.compare_and_swap("orders/1", Expected::Value("tea".into()), "two teas").await.unwrap();
    assert!(matches!(swapped, Swap::Done { .. }), "{swapped:?}");

    let reason = denied(till.put("prices/tea", "0").await);
    assert!(reason.contains("may not write \"prices/tea\"") && reason.contains("\"orders/\""), "{reason}");
    denied(till.get("stock/tea").await);
    denied(till.get_many(["orders/1", "stock/tea"]).await);
    denied(till.delete("prices/tea").await);
    // A transaction across what is not allowed, in whichever branch, is refused as a whole.
    let across = till.txn().when("orders/1", Expected::Present).then(Operation::put("orders/2", "x"));
    denied(across.otherwise(Operation::get("stock/tea")).await);
    assert!(till.get("orders/2").await.unwrap().is_none());
    // A range across what is not allowed, too: also one that would only skip it.
    denied(till.scan().await.map(drop));
    denied(till.scan().prefix("stock/").await.map(drop));
    denied(till.scan().start("orders/").end("prices0").await.map(drop));
    let mut pages = till.scan().prefix("orders/").await.unwrap();
    assert_eq!(pages.next_page().await.unwrap().unwrap().entries.len(), 1);
    denied(till.backup().await.map(drop));
    denied(till.remove_member(3).await);
    assert_eq!(operator.get("prices/tea").await.unwrap().unwrap().value, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_change_while_servers_run_and_streams_stand() {
    let guarded = Guarded::start().await;
    let till = guarded.by(&guarded.till).await;
    till.put("orders/1", "tea").await.unwrap();

    // A token is replaced while it is in use: both are good, then the new one alone.
    let next = Token::generate("till").unwrap();
    guarded.replace_users(&users(&[&guarded.till, &next]));
    until("the new token is good", async || {
        guarded.try_by(&next).await.ok()?.put("orders/2", "x").await.ok()
    })
    .await;
    till.put("orders/3", "x").await.unwrap();

    guarded.replace_users("[users.till\n");
    for id in guarded.world.ids() {
        guarded.world.says(id, 0, "what there was stays in force").await;
    }
    till.put("orders/4", "x").await.unwrap();

    guarded.replace_users(&users(&[&next]));
    // On the stream that it has, and on new connections.
    until("the old token is refused", async || {
        let error = till.put("orders/5", "x").await.err()?;
        (error.cause().code == Some(Code::UNAUTHENTICATED)).then_some(())
    })
    .await;
    until("it is refused everywhere", async || guarded.try_by(&guarded.till).await.err()).await;
    guarded.by(&next).await.put("orders/6", "x").await.unwrap();

    // Roles change as well.
    guarded.replace_users(&users(&[&next]).replace("write = [\"orders/\"]", "write = []"));
    let demoted = guarded.by(&next).await;
    until("it may only read any more", async || demoted.put("orders/7", "x").await.err()).await;
    assert!(demoted.get("orders/6").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_is_refused_and_others_are_served() {
    let guarded = Guarded::start().await;
    let till = guarded.by(&guarded.till).await;
    let before = guarded.world.leader().await.unwrap();
    for _ in 0..40 {
        let guess = Token::generate("till").unwrap();
        let error = guarded.try_by(&guess).await.err().unwrap().to_string();
        assert!(error.contains("not one of till's"), "{error}");
        assert!(!error.contains(guess.secret_text()), "{error}");
    }
    let nobody =
        Tls { ca: fs::read(guarded.world.certs_dir().join("ca.pem")).unwrap(), identity: None, token: None };
    let error = Client::builder(guarded.world.endpoints(), nobody).connect().await.err().unwrap().to_string();
    assert!(error.contains("who asks?"), "{error}");
    till.put("orders/1", "tea").await.unwrap();
    assert_eq!(guarded.world.leader().await.unwrap(), before);
    until("each guess is in the audit log", async || {
        let refused = |line: &&Value| line["event"] == "refused" && line["code"] == "UNAUTHENTICATED";
        (guarded.audited().iter().filter(refused).count() >= 40).then_some(())
    })
    .await;
}

/// Whatever a server writes down or shows, a token is not in it; and the audit log says who did what.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_and_the_audit_log_names_names() {
    let mut guarded = Guarded::start().await;
    for id in guarded.world.ids() {
        guarded.world.stop(id).await.unwrap();
        guarded
            .world
            .start_changed(&[id], |_, command| {
                command.args(["--log", "debug"]);
            })
            .await;
    }
    guarded.world.leader().await.unwrap();
    let till = guarded.by(&guarded.till).await;
    till.put("orders/1", "tea").await.unwrap();
    let wrong = Token::generate("till").unwrap();
    let told = guarded.try_by(&wrong).await.err().unwrap().to_string();
    let denial = denied(till.get("stock/tea").await);
    let mut backup = guarded.operator().await.backup().await.unwrap();
    while backup.next_part().await.unwrap().is_some() {}
    guarded.operator().await.remove_member(9).await.unwrap_err();

    let mut shown = vec![told, denial];
    for id in guarded.world.ids() {
        shown.push(guarded.world.log_text(id));
        let pid = guarded.world.pid(id).unwrap();
        for of_process in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{of_process}")).unwrap();
            shown.push(String::from_utf8_lossy(&bytes).into_owned());
        }
        shown.push(metrics(&guarded.world, id).await);
    }
    until("the backup is in the audit log", async || {
        let backup = |line: &Value| line["event"] == "admin" && line["call"] == "Backup";
        guarded.audited().iter().any(backup).then_some(())
    })
    .await;
    let audited = guarded.audited();
    let backup = audited.iter().find(|line| line["event"] == "admin").unwrap();
    assert!(backup["caller"].as_str().unwrap().starts_with("operator/operator at 127.0.0.1:"), "{backup}");
    assert_eq!(backup["done"], true);
    let removal = audited.iter().find(|line| line["call"] == "RemoveMember").unwrap();
    assert_eq!((&removal["about"], &removal["done"]), (&"server 9".into(), &false.into()), "{removal}");
    let denial = audited.iter().find(|line| line["code"] == "DENIED").unwrap();
    assert!(denial["caller"].as_str().unwrap().starts_with("user/till at "), "{denial}");
    shown.push(fs::read_to_string(&guarded.audit).unwrap());

    assert!(shown.iter().any(|text| text.contains("user/till")), "something was looked at");
    for secret in [guarded.till.secret_text(), wrong.secret_text()] {
        let secret = secret.rsplit('~').next().unwrap();
        let found = shown.iter().find(|text| text.contains(secret));
        assert!(found.is_none(), "a token stands in {found:?}");
    }
    let keys = fs::read_to_string(guarded.world.certs_dir().join("node-1.key")).unwrap();
    let line = keys.lines().nth(1).unwrap();
    assert!(shown.iter().all(|text| !text.contains(line)), "a key is shown");
}

async fn metrics(world: &World, id: raftmap_raft::NodeId) -> String {
    let member = world.plan().members.iter().find(|member| member.id == id).unwrap();
    let mut socket = TcpStream::connect(member.metrics_listen).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("raftmap_term"), "{text}");
    text
}

//! What somebody with a valid certificate can do to a server by speaking HTTP/2 that no client speaks: nothing that others would notice.
//!
//! Each attack comes over several connections at once, and again when they are cut off. While it lasts another client writes, and every write is answered; the server never
//! holds more than [`ALLOWED_MIB`] more than before; and it serves on.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmap::local_cluster::CLIENT;
use raftmap::tls::config::{ALPN_H2, Credentials, TlsFiles, provider};
use raftmap_client::Client;
use raftmap_raft::NodeId;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, PING, RST_STREAM, SETTINGS, frame, get, head,
    literal,
};
use crate::support::{PATIENCE, World, soon};

const SERVER: NodeId = NodeId(1);

/// What a server may hold more while it is attacked.
const ALLOWED_MIB: u64 = 256;
/// Connections of one attack.
const ATTACKERS: usize = 8;
/// An attack that is neither cut off nor taken after this is one that the server does not read.
const BLOCKED: Duration = Duration::from_secs(3);
/// How long to wait for the end of a connection that is to be cut off: a busy machine may take its time.
const CUT_OFF_WITHIN: Duration = Duration::from_secs(60);

/// An attacker who is cut off comes again, for so long.
const LASTS: Duration = Duration::from_secs(2);

/// A connection whose bytes are the attacker's own.
type Wire = TlsStream<TcpStream>;

/// A connection that has said hello, and whose settings are `settings`.
async fn dial(attack: &Attack, settings: &[u8]) -> Wire {
    let mut wire = soon("the attacker gets in", async {
        loop {
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let socket = TcpStream::connect(&attack.address).await.unwrap();
            // While others attack, a handshake may not come to its end.
            if let Ok(wire) = TlsConnector::from(Arc::clone(&attack.tls)).connect(name, socket).await {
                return wire;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    wire.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    wire.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
    wire
}

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attacker {
    /// He reads what the server says, and is cut off sooner or later.
    IsCutOff,
    /// He reads what the server says.
    Reads,
    /// He reads nothing.
    IsDeaf,
}

/// What became of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server ended the connection.
    CutOff,
    /// The server reads no more of it.
    Blocked,
    /// All of it was taken.
    Taken,
}

/// Sends what `more` makes, again and again, until there is no more, and reads what the server says meanwhile if the attacker does not keep from it.
async fn send(wire: Wire, attacker: Attacker, mut more: impl FnMut() -> Option<Vec<u8>>) -> End {
    let patience = if attacker == Attacker::IsCutOff { CUT_OFF_WITHIN } else { BLOCKED };
    let reads = attacker != Attacker::IsDeaf;
    let (mut from, mut to) = tokio::io::split(wire);
    let over = Arc::new(AtomicBool::new(false));
    let reader = reads.then(|| {
        let over = Arc::clone(&over);
        tokio::spawn(async move {
            let mut bytes = vec![0; 64 << 10];
            while from.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
            over.store(true, Ordering::Release);
        })
    });
    let mut end = End::Taken;
    while let Some(bytes) = more() {
        match timeout(patience, to.write_all(&bytes)).await {
            Ok(Ok(())) if !over.load(Ordering::Acquire) => {}
            Ok(_) => {
                end = End::CutOff;
                break;
            }
            Err(_) => {
                end = End::Blocked;
                break;
            }
        }
    }
    // What was sent last may be what it is cut off for.
    if let Some(reader) = reader
        && timeout(patience, reader).await.is_ok()
        && end == End::Taken
    {
        end = End::CutOff;
    }
    end
}

/// A server that is attacked.
struct Attack {
    world: World,
    address: String,
    tls: Arc<rustls::ClientConfig>,
    before_mib: u64,
    over: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    client: tokio::task::JoinHandle<()>,
}

impl Attack {
    async fn prepare() -> Self {
        let mut world = World::found_of(1, |_| {}).await;
        world.start_all().await.unwrap();
        world.leader().await.unwrap();
        let certs = world.certs_dir();
        let file = |name: &str| certs.join(name);
        let files = TlsFiles { ca: file("ca.pem"), certificate: file("client.pem"), key: file("client.key") };
        let tls = Credentials::load(&files).unwrap().dialler().unwrap();
        let (over, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = patient(&world).await;
        client.put("large", "x".repeat(900 << 10)).await.unwrap();
        let before_mib = memory_mib(&mut world);
        let address = world.endpoints().remove(0);
        let client = tokio::spawn(write_on(client, Arc::clone(&over), Arc::clone(&written)));
        Self { world, address, tls, before_mib, over, written, client }
    }

    /// Attacks over several connections, which come again when they are cut off, and gives what became of each.
    async fn by<A>(mut self, attacker: impl Fn(Wire) -> A, settings: &[u8]) -> Vec<End>
    where
        A: Future<Output = End> + Send + 'static,
    {
        let began = Instant::now();
        let served_before = self.written.load(Ordering::Relaxed);
        let mut attackers = JoinSet::new();
        for _ in 0..ATTACKERS {
            attackers.spawn(attacker(dial(&self, settings).await));
        }
        let (mut ends, mut most_mib) = (Vec::new(), 0);
        while !attackers.is_empty() {
            if let Ok(Some(end)) = timeout(Duration::from_millis(50), attackers.join_next()).await {
                ends.push(end.unwrap());
                if began.elapsed() < LASTS {
                    attackers.spawn(attacker(dial(&self, settings).await));
                }
            }
            most_mib = most_mib.max(memory_mib(&mut self.world));
        }
        // It goes on, too.
        let served = self.written.load(Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.written.load(Ordering::Relaxed) < served + 10 {
            assert!(Instant::now() < deadline, "nobody is served any more");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.over.store(true, Ordering::Release);
        self.client.await.unwrap();
        assert!(served > served_before, "nobody was served while it lasted");
        let before_mib = self.before_mib;
        assert!(most_mib <= before_mib + ALLOWED_MIB, "{before_mib} MiB became {most_mib} MiB: {ends:?}");
        assert!(self.world.is_running(SERVER));
        ends
    }
}

/// A client that waits for longer than any handshake lasts.
async fn patient(world: &World) -> Client {
    let client = Client::builder(world.endpoints(), world.tls(CLIENT).unwrap());
    client.timeout(PATIENCE).connect().await.unwrap()
}

/// Writes until it is over. No write may fail.
async fn write_on(client: Client, over: Arc<AtomicBool>, written: Arc<AtomicU64>) {
    while !over.load(Ordering::Acquire) {
        client.put("served", "yes").await.unwrap();
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the server holds in memory that is not a file's, in MiB.
fn memory_mib(world: &mut World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.pid(SERVER).unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() >> 10
}

fn all(ends: &[End], expected: End) {
    assert!(ends.iter().all(|end| *end == expected), "{ends:?}");
}

/// Streams of the attacker: odd, each used once.
fn streams() -> impl Iterator<Item = u32> + Send {
    (1..0x7fff_ffff).step_by(2)
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    let attacker = |wire| {
        let mut streams = streams().take(100_000);
        send(wire, Attacker::IsCutOff, move || {
            let mut bytes = Vec::new();
            for stream in streams.by_ref().take(100) {
                bytes.extend(frame(HEADERS, END_HEADERS, stream, &head(GET)));
                bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            }
            (!bytes.is_empty()).then_some(bytes)
        })
    };
    all(&Attack::prepare().await.by(attacker, &[]).await, End::CutOff);
}

/// CVE-2024-27316 and its kin: a head that never ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_never_ends_ends_the_connection() {
    let attacker = |wire| {
        let mut frames = 0;
        send(wire, Attacker::IsCutOff, move || {
            frames += 1;
            let field = literal(&[0x00], "a", &"x".repeat(100)).repeat(100);
            match frames {
                1 => Some(frame(HEADERS, 0, 1, &head(GET))),
                2..10_000 => Some(frame(CONTINUATION, 0, 1, &field)),
                _ => None,
            }
        })
    };
    all(&Attack::prepare().await.by(attacker, &[]).await, End::CutOff);
}

/// A head that is small on the wire and large once it is decoded: one long field in the table of HPACK, named again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_grows_when_it_is_decoded_is_refused() {
    let attacker = |wire| {
        let mut streams = streams().take(200);
        let mut first = true;
        send(wire, Attacker::Reads, move || {
            let stream = streams.next()?;
            let mut block = head(GET);
            if first {
                block.extend(literal(&[0x40], "bomb", &"x".repeat(120)));
                first = false;
            }
            block.extend(vec![0xbe; 16_000]);
            Some(frame(HEADERS, END_HEADERS | END_STREAM, stream, &block))
        })
    };
    let ends = Attack::prepare().await.by(attacker, &[]).await;
    assert!(ends.iter().all(|end| *end != End::Blocked), "{ends:?}");
}

/// CVE-2019-9518: frames that carry nothing, and end nothing.
#[tokio::test(flavor = "multi_thread")]
async fn empty_frames_of_data_cost_nobody_anything() {
    let attacker = |wire| {
        let mut rounds = 0;
        send(wire, Attacker::Reads, move || {
            rounds += 1;
            match rounds {
                1 => Some(frame(HEADERS, END_HEADERS, 1, &head(GET))),
                2..2_000 => Some(frame(DATA, 0, 1, &[]).repeat(500)),
                _ => None,
            }
        })
    };
    let ends = Attack::prepare().await.by(attacker, &[]).await;
    assert!(ends.len() >= ATTACKERS, "{ends:?}");
}

/// CVE-2019-9512 and CVE-2019-9515: what must be answered, from somebody who does not read the answers.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_do_not_pile_up() {
    for (name, question) in [("pings", frame(PING, 0, 0, &[0; 8])), ("settings", frame(SETTINGS, 0, 0, &[]))]
    {
        let attacker = |wire| {
            let (mut rounds, many) = (0, question.repeat(1000));
            send(wire, Attacker::IsDeaf, move || {
                rounds += 1;
                (rounds < 5_000).then(|| many.clone())
            })
        };
        let ends = Attack::prepare().await.by(attacker, &[]).await;
        assert!(ends.iter().all(|end| *end != End::Taken), "{name}: {ends:?}");
    }
}

/// CVE-2019-9517: large answers for somebody whose window is zero, and who reads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_that_nobody_takes_are_bounded() {
    let attacker = |wire| {
        let mut streams = streams().take(5_000);
        send(wire, Attacker::IsDeaf, move || {
            let stream = streams.next()?;
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &head(GET));
            bytes.extend(frame(DATA, END_STREAM, stream, &get("large")));
            Some(bytes)
        })
    };
    // SETTINGS_INITIAL_WINDOW_SIZE is 4.
    let no_window = [0, 4, 0, 0, 0, 0];
    let ends = Attack::prepare().await.by(attacker, &no_window).await;
    assert!(ends.len() >= ATTACKERS, "{ends:?}");
}

/// A message that says that it is 4 GiB long, one that is compressed, and ones that are cut off in the middle of a number.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_lie_are_refused_one_by_one() {
    let lies: [Vec<u8>; 4] = [
        [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 64]].concat(),
        [&[1, 0, 0, 0, 20][..], &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3], &[0; 10]].concat(),
        vec![0, 0, 0, 0, 1, 0x80],
        vec![0, 0, 0, 0, 3, 0x12, 0xff, 0xff],
    ];
    let attacker = move |wire| {
        let (mut streams, lies) = (streams().take(2_000), lies.clone());
        send(wire, Attacker::Reads, move || {
            let stream = streams.next()?;
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &head(GET));
            bytes.extend(frame(DATA, END_STREAM, stream, &lies[stream as usize / 2 % lies.len()]));
            Some(bytes)
        })
    };
    let ends = Attack::prepare().await.by(attacker, &[]).await;
    assert!(ends.len() >= ATTACKERS, "{ends:?}");
}

/// JSON that is nested deeper than any stack.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_nested_ten_thousand_deep_is_refused() {
    let attack = Attack::prepare().await;
    let mut tls = (*attack.tls).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = Arc::new(tls);
    for body in ["[".repeat(10_000), format!("{{\"keys\":{}", "[".repeat(10_000)), "{\"a\":".repeat(10_000)] {
        let socket = TcpStream::connect(&attack.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut wire = TlsConnector::from(Arc::clone(&tls)).connect(name, socket).await.unwrap();
        let head = format!(
            "POST {GET} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        wire.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
        let mut answer = String::new();
        soon("an answer", wire.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    attack.by(|wire| send(wire, Attacker::Reads, || None), &[]).await;
}

/// Connections of which nothing more comes: those of strangers in their handshake, and those of clients.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_do_not_keep_clients_out() {
    // More than handshakes there may be at once.
    const SILENT: usize = 300;
    let attack = Attack::prepare().await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        // One that is turned away is no harm, and one that cannot be made any more neither.
        if let Ok(Ok(mut socket)) = timeout(BLOCKED, TcpStream::connect(&attack.address)).await {
            // The beginning of a handshake.
            let _cut_off = socket.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
            silent.push(socket);
        }
    }
    let newcomer = patient(&attack.world).await;
    newcomer.put("newcomer", "served").await.unwrap();
    attack.by(|wire| send(wire, Attacker::Reads, || None), &[]).await;
    drop(silent);
}

/// Connections of one process of [`ten_thousand_connections_from_elsewhere_keep_nobody_out_who_is_in`], if it may have as many.
const FROM_EACH: u64 = 1000;
const PROCESSES: u8 = 10;

/// Not a test, but what each of those processes does: this program again, told by its environment where to connect, and from where.
/// It says how many connections it has made, and keeps them until its standard input ends.
#[test]
#[ignore = "the other side of another test"]
fn the_process_that_keeps_connections() {
    let (Ok(to), Ok(from)) = (std::env::var(ATTACK_TO), std::env::var(ATTACK_FROM)) else { return };
    let (to, from): (SocketAddr, SocketAddr) = (to.parse().unwrap(), from.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let kept = runtime.block_on(async {
        let mut kept = Vec::new();
        for number in 0..FROM_EACH.min(files_max()) {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from).unwrap();
            // Whom the system turns away, since too many wait to be accepted, is no harm.
            let Ok(Ok(mut socket)) = timeout(BLOCKED, socket.connect(to)).await else { continue };
            // Every other one begins a handshake.
            if number % 2 == 0 {
                let _cut_off = socket.write_all(&[0x16, 3, 1, 2, 0, 1]).await;
            }
            kept.push(socket);
        }
        kept
    });
    println!("\nkept {}", kept.len());
    let _ended = std::io::stdin().read_to_string(&mut String::new());
}

/// How many connections a process of this user may have.
fn files_max() -> u64 {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    files.saturating_sub(64)
}

const ATTACK_TO: &str = "RAFTMAP_TEST_ATTACK_TO";
const ATTACK_FROM: &str = "RAFTMAP_TEST_ATTACK_FROM";

/// Ten thousand connections from ten addresses, of which nothing comes: more than the server has places.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_from_elsewhere_keep_nobody_out_who_is_in() {
    let attack = Attack::prepare().await;
    let mut processes: Vec<Child> = (2..2 + PROCESSES)
        .map(|host| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "attacks::the_process_that_keeps_connections", "--ignored", "--nocapture"])
                .env(ATTACK_TO, &attack.address)
                .env(ATTACK_FROM, format!("127.0.0.{host}:0"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs: Vec<_> = processes.iter_mut().map(|process| process.stdout.take().unwrap()).collect();
    let counts = outputs.into_iter().map(|output| {
        tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(output).lines().map(Result::unwrap);
            let mut counts = lines.filter_map(|line| line.strip_prefix("kept ")?.parse::<u64>().ok());
            counts.next().expect("it says how many it has")
        })
    });
    let kept: u64 = soon("all connections", futures::future::join_all(counts))
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    println!("{kept} connections of {PROCESSES} processes");
    // Whoever is new comes in when those are closed that have not finished their handshake in time.
    let newcomer = patient(&attack.world).await;
    newcomer.put("newcomer", "served").await.unwrap();
    attack.by(|wire| send(wire, Attacker::Reads, || None), &[]).await;
    for process in &mut processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let asked = u64::from(PROCESSES) * FROM_EACH.min(files_max());
    assert!(kept >= asked * 9 / 10, "{kept} of {asked}");
}

/// What is older than TLS 1.3, and who does not say which protocol follows.
#[tokio::test(flavor = "multi_thread")]
async fn old_versions_of_tls_are_refused_and_without_alpn_it_is_http_1() {
    let attack = Attack::prepare().await;
    let name = || ServerName::try_from("127.0.0.1").unwrap();
    let certs = attack.world.certs_dir();
    let roots = {
        use rustls::pki_types::pem::PemObject as _;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_file(certs.join("ca.pem")).unwrap()).unwrap();
        roots
    };
    // This program has no older version than 1.2 to offer.
    let old = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12]);
    let mut old = old.unwrap().with_root_certificates(roots).with_no_client_auth();
    old.alpn_protocols = vec![ALPN_H2.to_vec()];
    let socket = TcpStream::connect(&attack.address).await.unwrap();
    let refused = TlsConnector::from(Arc::new(old)).connect(name(), socket).await.unwrap_err();
    assert!(refused.to_string().contains("ProtocolVersion"), "{refused}");

    let mut silent = (*attack.tls).clone();
    silent.alpn_protocols.clear();
    let socket = TcpStream::connect(&attack.address).await.unwrap();
    let mut wire = TlsConnector::from(Arc::new(silent)).connect(name(), socket).await.unwrap();
    wire.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("an answer", wire.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

/// Somebody with a client's certificate who speaks to the port for servers: whatever he says, it is not heard.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_speak_as_a_server() {
    let world = World::start().await;
    let leader = world.leader().await.unwrap();
    let certs = world.certs_dir();
    let file = |name: &str| certs.join(name);
    let files = TlsFiles { ca: file("ca.pem"), certificate: file("client.pem"), key: file("client.key") };
    let tls = Credentials::load(&files).unwrap().dialler().unwrap();
    let place = world.ids().iter().position(|id| *id == leader).unwrap();
    let peer_address = world.plan().members[place].peer_listen;
    let socket = TcpStream::connect(peer_address).await.unwrap();
    let mut wire =
        TlsConnector::from(tls).connect(ServerName::try_from("127.0.0.1").unwrap(), socket).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &head("/raftmap.peer.v1.Peer/Stream")));
    bytes.extend(frame(DATA, 0, 1, &[0; 1024]));
    // It may be cut off before it has said all of that.
    let _cut_off = wire.write_all(&bytes).await;
    let mut said = Vec::new();
    // An alert or an end, either way the server says no more.
    let _alert = soon("the connection ends", wire.read_to_end(&mut said)).await;
    world.says(leader, 0, "a connection to the port for servers came to nothing").await;
    assert_eq!(world.leader().await.unwrap(), leader);
    let client = Client::connect(world.endpoints(), world.tls(CLIENT).unwrap()).await.unwrap();
    assert!(client.put("k", Bytes::from_static(b"v")).await.is_ok());
}

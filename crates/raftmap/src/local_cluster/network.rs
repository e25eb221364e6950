//! Networks that do as they are told: TCP proxies between servers, and between a client and a server. No privileges needed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftmap_raft::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{LocalMember, LocalPlan};

const CHUNK_BYTES: usize = 64 << 10;

/// What one direction of a link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// They stay where they are, and connections stay open, as when a cable is cut: both ends wait.
    Held,
    /// They arrive so much later.
    Slow(Duration),
}

/// The way between two programs, for all connections on it.
#[derive(Debug)]
pub struct Link {
    /// From who dials to who is dialed.
    forth: watch::Sender<Flow>,
    /// The other way.
    back: watch::Sender<Flow>,
    /// Connections that were made when it had another value are cut off.
    cuts: watch::Sender<u64>,
}

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            forth: watch::Sender::new(Flow::Open),
            back: watch::Sender::new(Flow::Open),
            cuts: watch::Sender::new(0),
        })
    }

    fn set(&self, flow: Flow) {
        self.forth.send_replace(flow);
        self.back.send_replace(flow);
    }

    /// What goes to who dialed stays where it is from now on.
    pub fn hold_answers(&self) {
        self.back.send_replace(Flow::Held);
    }

    /// All goes through again.
    pub fn open(&self) {
        self.set(Flow::Open);
    }

    /// Cuts off the connections on it, with all that is under way.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Carries bytes both ways until either end is gone or the link is cut.
    async fn carry(self: Arc<Self>, dialed_by: TcpStream, to: SocketAddr) {
        let cuts = self.cuts.subscribe();
        let mut cut = cuts.clone();
        let carried = async {
            let target = TcpStream::connect(to).await?;
            dialed_by.set_nodelay(true)?;
            target.set_nodelay(true)?;
            let (near_read, near_write) = dialed_by.into_split();
            let (far_read, far_write) = target.into_split();
            tokio::try_join!(
                pump(near_read, far_write, self.forth.subscribe(), cuts.clone()),
                pump(far_read, near_write, self.back.subscribe(), cuts.clone()),
            )
        };
        // However it ends: both sockets are closed.
        tokio::select! {
            _ended = carried => {}
            _cut = cut.changed() => {}
        }
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut flow: watch::Receiver<Flow>,
    cuts: watch::Receiver<u64>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        let open = flow.wait_for(|flow| *flow != Flow::Held).await;
        let now = *open.map_err(|_| io::ErrorKind::ConnectionAborted)?;
        // What was held when the link was cut never arrives, however soon the link is opened after that.
        if cuts.has_changed().unwrap_or(true) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if let Flow::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..count]).await?;
    }
}

/// Listens on a port of its own.
fn listen() -> io::Result<(SocketAddr, TcpListener)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?, TcpListener::from_std(listener)?))
}

/// A proxy before one server.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it does.
    pub link: Arc<Link>,
    task: AbortHandle,
}

impl Proxy {
    /// A proxy before `target`. To be called within a runtime.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn before(target: SocketAddr) -> io::Result<Self> {
        let (address, listener) = listen()?;
        let link = Link::new();
        let task = tokio::spawn({
            let link = Arc::clone(&link);
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(Arc::clone(&link).carry(socket, target));
                }
            }
        });
        Ok(Self { address, link, task: task.abort_handle() })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.link.cut();
    }
}

/// The ways between all servers of a cluster: the dialer and the dialed of each.
type Links = Mutex<BTreeMap<(NodeId, NodeId), Arc<Link>>>;

fn locked(links: &Links) -> MutexGuard<'_, BTreeMap<(NodeId, NodeId), Arc<Link>>> {
    links.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network between the servers of a cluster.
#[derive(Debug)]
pub struct Network {
    /// The cluster's.
    folder: PathBuf,
    links: Arc<Links>,
    tasks: BTreeMap<NodeId, AbortHandle>,
}

impl Network {
    /// Puts a proxy before the port for peers of each server, and changes the plan accordingly. To be called within a
    /// runtime.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn between(plan: &mut LocalPlan) -> io::Result<Self> {
        let mut network = Self { folder: plan.folder.clone(), links: Arc::default(), tasks: BTreeMap::new() };
        plan.members.iter_mut().try_for_each(|member| network.add(member))?;
        Ok(network)
    }

    /// Puts a proxy before the port for peers of one more server. To be called within a runtime.
    ///
    /// # Errors
    /// If there is no free port.
    pub fn add(&mut self, member: &mut LocalMember) -> io::Result<()> {
        let (address, listener) = listen()?;
        member.peer_address = address.to_string();
        let mut links = locked(&self.links);
        for other in self.tasks.keys() {
            links.insert((*other, member.id), Link::new());
            links.insert((member.id, *other), Link::new());
        }
        drop(links);
        let (links, target) = (Arc::clone(&self.links), (member.id, member.peer_listen));
        let folder = self.folder.clone();
        let task = tokio::spawn(async move { accept(&links, &listener, target, &folder).await });
        self.tasks.insert(member.id, task.abort_handle());
        Ok(())
    }

    /// Has nothing to do any more with a server that is gone.
    pub fn forget(&mut self, id: NodeId) {
        self.cut(id);
        self.tasks.remove(&id).iter().for_each(AbortHandle::abort);
        locked(&self.links).retain(|(dialer, dialed), _| *dialer != id && *dialed != id);
    }

    fn of(&self, id: NodeId) -> Vec<Arc<Link>> {
        let links = locked(&self.links);
        let of = links.iter().filter(|((dialer, dialed), _)| *dialer == id || *dialed == id);
        of.map(|(_, link)| Arc::clone(link)).collect()
    }

    /// Nothing from or to this server goes through any more; connections stay open.
    pub fn isolate(&self, id: NodeId) {
        self.of(id).iter().for_each(|link| link.set(Flow::Held));
    }

    /// All goes through again between this server and all but those that are `isolated` still.
    pub fn rejoin(&self, id: NodeId, isolated: &[NodeId]) {
        let links = locked(&self.links);
        let of = links.iter().filter(|((dialer, dialed), _)| *dialer == id || *dialed == id);
        let open =
            of.filter(|((dialer, dialed), _)| ![dialer, dialed].iter().any(|end| isolated.contains(end)));
        open.for_each(|(_, link)| link.open());
    }

    /// What `from` says does not reach `to` any more; the other way is as before.
    pub fn mute(&self, from: NodeId, to: NodeId) {
        let links = locked(&self.links);
        links[&(from, to)].forth.send_replace(Flow::Held);
        links[&(to, from)].back.send_replace(Flow::Held);
    }

    /// Everything from and to this server takes so much longer.
    pub fn slow(&self, id: NodeId, delay: Duration) {
        self.of(id).iter().for_each(|link| link.set(Flow::Slow(delay)));
    }

    /// Cuts off all connections of this server, with all that is under way on them.
    pub fn cut(&self, id: NodeId) {
        self.of(id).iter().for_each(|link| link.cut());
    }

    /// All goes through again. What was held goes on where it stopped.
    pub fn heal(&self) {
        locked(&self.links).values().for_each(|link| link.open());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
        locked(&self.links).values().for_each(|link| link.cut());
    }
}

async fn accept(links: &Links, listener: &TcpListener, (id, target): (NodeId, SocketAddr), folder: &Path) {
    while let Ok((socket, from)) = listener.accept().await {
        // Who is gone already needs no connection.
        let dialer = socket.local_addr().ok().and_then(|own| owner(from, own, folder));
        let link = dialer.and_then(|dialer| locked(links).get(&(dialer, id)).cloned());
        if let Some(link) = link {
            tokio::spawn(link.carry(socket, target));
        }
    }
}

/// Which server of the cluster in `folder` has the socket that is bound to `local` and connected to `remote`. All of them
/// dial from the same address, so that only the kernel can tell.
fn owner(local: SocketAddr, remote: SocketAddr, folder: &Path) -> Option<NodeId> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let (local, remote) = (in_hex(local)?, in_hex(remote)?);
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[1] == local && fields[2] == remote).then(|| fields[9].to_owned())
    })?;
    let socket = format!("socket:[{inode}]");
    let has_it = |process: &Path| {
        let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
        let mut targets = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.to_string_lossy() == socket)
    };
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    processes
        .filter_map(|process| Some((server_of(&process, folder)?, process)))
        .find_map(|(id, process)| has_it(&process).then_some(id))
}

/// An address of IPv4 as the kernel's table has it: the bytes of the address as one number of this machine, then the port.
fn in_hex(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    #[expect(clippy::host_endian_bytes, reason = "the kernel prints addresses in the order of the host")]
    let number = |address: SocketAddrV4| u32::from_ne_bytes(address.ip().octets());
    Some(format!("{:08X}:{:04X}", number(address), address.port()))
}

/// Which server of the cluster in `folder` a process is, by its command line.
fn server_of(process: &Path, folder: &Path) -> Option<NodeId> {
    let command = fs::read(process.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).into_owned();
    let (_, rest) = command.split_once(&format!("{}/server-", folder.display()))?;
    let (id, _) = rest.split_once('/')?;
    id.parse().ok().map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_comes_has_links_to_all_and_leaves_none_when_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = LocalPlan::new("raftmap", folder.path(), 3).unwrap();
        let mut third = plan.members.pop().unwrap();
        let mut network = Network::between(&mut plan).unwrap();
        network.add(&mut third).unwrap();
        network.isolate(third.id);
        let held = |network: &Network| {
            let links = locked(&network.links);
            let held = links.iter().filter(|(_, link)| *link.forth.borrow() == Flow::Held);
            held.map(|((from, to), _)| (from.0, to.0)).collect::<Vec<_>>()
        };
        assert_eq!(held(&network), [(1, 3), (2, 3), (3, 1), (3, 2)]);
        network.isolate(NodeId(1));
        network.rejoin(third.id, &[NodeId(1)]);
        assert_eq!(held(&network), [(1, 2), (1, 3), (2, 1), (3, 1)]);
        network.heal();
        network.isolate(third.id);
        TcpStream::connect(&third.peer_address).await.unwrap();
        network.forget(third.id);
        assert_eq!(held(&network), []);
        assert_eq!(locked(&network.links).len(), 2);
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&third.peer_address).await.is_ok() {
            assert!(std::time::Instant::now() < deadline, "its proxy goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

//! A network of the kernel's own: each server in a network namespace, joined by a bridge, with rules that drop what is not
//! to arrive. What is dropped is gone, and TCP finds out by itself, as with a real cable.
//!
//! All of it belongs to the network namespace of this program, and vanishes with it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use raftmap::local_cluster::{LocalMember, LocalPlan};
use raftmap_raft::NodeId;

use crate::volumes::run;

const PEER_PORT: u16 = 7001;
const CLIENT_PORT: u16 = 7002;
const METRICS_PORT: u16 = 7003;

/// Of the network that all are in, in bits.
const PREFIX: u8 = 16;

/// The servers' namespaces.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// The server.
    program: PathBuf,
    /// Runs it in its namespace.
    wrapper: PathBuf,
    /// Each lives as long as a process in it.
    keepers: Vec<(NodeId, Child)>,
}

impl Namespaces {
    /// Makes a namespace for each server, and changes the plan accordingly.
    ///
    /// # Errors
    /// What this machine does not offer: `ip`, `nsenter`, `nft`, privileges.
    pub(crate) fn between(plan: &mut LocalPlan) -> io::Result<Self> {
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "rm-bridge", "type", "bridge"])?;
        ip(&["address", "add", &format!("{}/{PREFIX}", own_address()), "dev", "rm-bridge"])?;
        ip(&["link", "set", "rm-bridge", "up"])?;
        fs::create_dir_all(&plan.folder)?;
        let wrapper = plan.folder.join("in-namespace.sh");
        let program = std::mem::replace(&mut plan.program, wrapper.clone());
        let mut namespaces = Self { program, wrapper, keepers: Vec::new() };
        plan.members.iter_mut().try_for_each(|member| namespaces.add(member))?;
        Ok(namespaces)
    }

    /// Makes a namespace for one more server.
    ///
    /// # Errors
    /// As [`Namespaces::between`].
    pub(crate) fn add(&mut self, member: &mut LocalMember) -> io::Result<()> {
        let id = member.id;
        self.keepers.push((id, keep_namespace()?));
        let keeper = self.keeper(id)?;
        let near = format!("rm-{id}");
        let far = ["peer", "name", "eth0", "netns", &keeper];
        ip(&[&["link", "add", &near, "type", "veth"][..], &far[..]].concat())?;
        ip(&["link", "set", &near, "master", "rm-bridge", "up"])?;
        let address = address(id)?;
        self.within(id, &["ip", "address", "add", &format!("{address}/{PREFIX}"), "dev", "eth0"])?;
        self.within(id, &["ip", "link", "set", "eth0", "up"])?;
        self.within(id, &["ip", "link", "set", "lo", "up"])?;
        self.within(id, &["nft", "add", "table", "ip", "torture"])?;
        for (chain, hook) in [("in", "input"), ("out", "output")] {
            let rule = format!("add chain ip torture {chain} {{ type filter hook {hook} priority 0; }}");
            self.within(id, &["nft", &rule])?;
        }
        member.peer_listen = SocketAddr::new(address, PEER_PORT);
        member.client_listen = SocketAddr::new(address, CLIENT_PORT);
        member.metrics_listen = SocketAddr::new(address, METRICS_PORT);
        member.peer_address = member.peer_listen.to_string();
        member.client_address = member.client_listen.to_string();
        self.wrap()
    }

    /// Takes the namespace of a server that is gone away.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn forget(&mut self, id: NodeId) -> io::Result<()> {
        let place = self.keepers.iter().position(|(of, _)| *of == id);
        let (_, mut keeper) = self.keepers.swap_remove(place.ok_or(io::ErrorKind::NotFound)?);
        keeper.kill()?;
        keeper.wait()?;
        self.wrap()
    }

    fn keeper(&self, id: NodeId) -> io::Result<String> {
        let found = self.keepers.iter().find(|(of, _)| *of == id);
        found.map(|(_, keeper)| keeper.id().to_string()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn within(&self, id: NodeId, command: &[&str]) -> io::Result<()> {
        let namespace = format!("--net=/proc/{}/ns/net", self.keeper(id)?);
        run(Command::new("nsenter").arg(namespace).arg("--").args(command))
    }

    /// Writes the program that runs the server in its namespace, by the data directory in its arguments. It is replaced by
    /// the server, which so has its process id.
    fn wrap(&self) -> io::Result<()> {
        let mut script = "#!/bin/sh\ncase \"$*\" in\n".to_owned();
        for (id, keeper) in &self.keepers {
            let (keeper, program) = (keeper.id(), self.program.display());
            let enter = format!("exec nsenter --net=/proc/{keeper}/ns/net -- \"{program}\" \"$@\"");
            script += &format!("  */server-{id}/data*) {enter} ;;\n");
        }
        script += "esac\necho \"no server: $*\" >&2\nexit 1\n";
        // In one step: a shell may be reading it.
        let next = self.wrapper.with_extension("next");
        fs::write(&next, script)?;
        run(Command::new("chmod").arg("755").arg(&next))?;
        fs::rename(next, &self.wrapper)
    }

    /// Nothing goes from or to this server any more but what clients say.
    pub(crate) fn isolate(&self, id: NodeId) -> io::Result<()> {
        for (other, _) in self.keepers.iter().filter(|(other, _)| *other != id) {
            let other = address(*other)?.to_string();
            self.within(id, &["nft", "add", "rule", "ip", "torture", "in", "ip", "saddr", &other, "drop"])?;
            self.within(id, &["nft", "add", "rule", "ip", "torture", "out", "ip", "daddr", &other, "drop"])?;
        }
        Ok(())
    }

    /// What `from` says does not reach `to` any more.
    pub(crate) fn mute(&self, from: NodeId, to: NodeId) -> io::Result<()> {
        let from = address(from)?.to_string();
        self.within(to, &["nft", "add", "rule", "ip", "torture", "in", "ip", "saddr", &from, "drop"])
    }

    /// All goes through again.
    pub(crate) fn heal(&self) -> io::Result<()> {
        self.keepers
            .iter()
            .try_for_each(|(id, _)| self.within(*id, &["nft", "flush", "table", "ip", "torture"]))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for (_, keeper) in &mut self.keepers {
            // What is gone already cannot be killed, and that is all that can fail.
            let _gone = keeper.kill().and_then(|()| keeper.wait());
        }
    }
}

/// Where this program is.
fn own_address() -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 255, 254)
}

fn address(id: NodeId) -> io::Result<IpAddr> {
    // The last numbers stand for no server: this program, and all.
    let number = u16::try_from(id.0).ok().filter(|number| *number < 0xFF00);
    let [high, low] =
        number.ok_or_else(|| io::Error::other(format!("no address for server {id}")))?.to_be_bytes();
    Ok(Ipv4Addr::new(10, 77, high, low).into())
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    run(Command::new("ip").args(arguments))
}

/// A process in a network namespace of its own, which ends with this one.
fn keep_namespace() -> io::Result<Child> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let mut command = Command::new("unshare");
    let child = command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let own = fs::read_link("/proc/self/ns/net")?;
    let began = Instant::now();
    while fs::read_link(format!("/proc/{}/ns/net", child.id()))? == own {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other("unshare: no network namespace"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(child)
}

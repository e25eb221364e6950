//! The network between servers, as TCP and the transport make it: what goes over a connection arrives in order and at most
//! once; a link that is cut keeps what is under way until it is healed or the connection is given up; what is under way on a
//! connection that ends is lost. In a chaotic climate messages of consensus are also lost, doubled and overtaken, which the
//! transport does not do, but consensus survives.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use raftmap_raft::NodeId;
use raftmap_replica::{PeerBatch, PeerMessage};

use crate::plan::Spread;
use crate::time::Time;

/// A batch on its way.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// Of its connection.
    epoch: u64,
    pub(crate) batch: PeerBatch,
}

/// All connections and links.
#[derive(Debug)]
pub(crate) struct Network {
    delay: Spread,
    chaos: u32,
    connections: BTreeMap<(NodeId, NodeId), Connection>,
    links: BTreeMap<(NodeId, NodeId), Link>,
}

#[derive(Debug, Default)]
struct Connection {
    stands: bool,
    epoch: u64,
}

/// One direction between two servers.
#[derive(Debug, Default)]
struct Link {
    /// Faults that cut it at the moment.
    cuts: u32,
    held: VecDeque<Parcel>,
    last_arrival: Time,
}

/// A pair of servers, the lower id first.
pub(crate) fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(crate) fn new(nodes: u64, delay: Spread, chaos: u32) -> Self {
        let ids = || (1..=nodes).map(NodeId);
        let links: BTreeMap<_, _> = ids()
            .flat_map(|a| ids().map(move |b| (a, b)))
            .filter(|(a, b)| a != b)
            .map(|link| (link, Link::default()))
            .collect();
        let connections =
            links.keys().filter(|(a, b)| a < b).map(|pair| (*pair, Connection::default())).collect();
        Self { delay, chaos, connections, links }
    }

    /// From now on only what a connection promises happens.
    pub(crate) fn calm_down(&mut self) {
        self.chaos = 0;
    }

    pub(crate) fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        self.connections.keys().copied().collect()
    }

    pub(crate) fn stands(&self, a: NodeId, b: NodeId) -> bool {
        self.connections[&pair(a, b)].stands
    }

    /// Whether a connection could be made.
    pub(crate) fn is_open(&self, (a, b): (NodeId, NodeId)) -> bool {
        self.links[&(a, b)].cuts == 0 && self.links[&(b, a)].cuts == 0
    }

    pub(crate) fn connect(&mut self, ends: (NodeId, NodeId)) {
        self.connection(ends).stands = true;
    }

    /// Ends a connection, with all that is under way on it; whether there was one.
    pub(crate) fn disconnect(&mut self, (a, b): (NodeId, NodeId)) -> bool {
        let connection = self.connection((a, b));
        connection.epoch += 1;
        let stood = std::mem::replace(&mut connection.stands, false);
        for link in [(a, b), (b, a)] {
            self.link(link).held.clear();
        }
        stood
    }

    fn connection(&mut self, ends: (NodeId, NodeId)) -> &mut Connection {
        self.connections.get_mut(&ends).expect("both are servers")
    }

    fn link(&mut self, link: (NodeId, NodeId)) -> &mut Link {
        self.links.get_mut(&link).expect("both are servers")
    }

    pub(crate) fn cut(&mut self, link: (NodeId, NodeId)) {
        self.link(link).cuts += 1;
    }

    /// Takes back a cut; gives what was held, if none is left, with its times of arrival.
    pub(crate) fn mend(&mut self, rng: &mut Rng, link: (NodeId, NodeId), now: Time) -> Vec<(Time, Parcel)> {
        let this = self.link(link);
        this.cuts -= 1;
        let held = if this.cuts == 0 { std::mem::take(&mut this.held) } else { VecDeque::new() };
        held.into_iter().map(|parcel| (self.arrival(rng, link, now), parcel)).collect()
    }

    /// When something that leaves now arrives: after all that left before.
    fn arrival(&mut self, rng: &mut Rng, link: (NodeId, NodeId), now: Time) -> Time {
        let delay = self.delay.draw(rng);
        let link = self.link(link);
        link.last_arrival = (now + delay).max(link.last_arrival + Time(1));
        link.last_arrival
    }

    /// Sends a batch; gives when, and how often, it arrives.
    pub(crate) fn send(
        &mut self,
        rng: &mut Rng,
        now: Time,
        (from, to): (NodeId, NodeId),
        batch: PeerBatch,
    ) -> Vec<(Time, Parcel)> {
        let Connection { stands, epoch } = self.connections[&pair(from, to)];
        if !stands {
            return Vec::new();
        }
        let parcel = Parcel { from, to, epoch, batch };
        let consensus = |message: &PeerMessage| matches!(message, PeerMessage::Raft(_));
        if self.chaos > 0 && parcel.batch.messages.iter().all(consensus) {
            return self.send_in_chaos(rng, now, parcel);
        }
        vec![(self.arrival(rng, (from, to), now), parcel)]
    }

    fn send_in_chaos(&mut self, rng: &mut Rng, now: Time, parcel: Parcel) -> Vec<(Time, Parcel)> {
        let link = (parcel.from, parcel.to);
        let Parcel { from, to, epoch, .. } = parcel;
        let mut arrivals = Vec::new();
        if rng.u32(..1000) < self.chaos {
            let late = now + Time(self.delay.draw(rng).0 * rng.u64(1..8));
            arrivals.push((late, Parcel { from, to, epoch, batch: parcel.batch.clone() }));
        }
        match rng.u32(..1000) {
            roll if roll < self.chaos => {}
            roll if roll < 2 * self.chaos => {
                let late = now + Time(self.delay.draw(rng).0 * rng.u64(1..8));
                arrivals.push((late, parcel));
            }
            _ => arrivals.push((self.arrival(rng, link, now), parcel)),
        }
        arrivals
    }

    /// What arrives, unless its connection has ended or its link is cut now.
    pub(crate) fn arrive(&mut self, parcel: Parcel) -> Option<Parcel> {
        let connection = &self.connections[&pair(parcel.from, parcel.to)];
        if !connection.stands || connection.epoch != parcel.epoch {
            return None;
        }
        let link = self.link((parcel.from, parcel.to));
        if link.cuts > 0 {
            link.held.push_back(parcel);
            return None;
        }
        Some(parcel)
    }

    /// The connection's number, to tell later whether it is still the same.
    pub(crate) fn epoch(&self, ends: (NodeId, NodeId)) -> u64 {
        self.connections[&ends].epoch
    }
}

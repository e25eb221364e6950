//! What load balancers are told by the port for clients, while servers lose their majority and end.

use connectrpc::Protocol;
use connectrpc::client::{ClientConfig, Http2Connection, ServerStream, SharedHttp2Connection};
use raftmap::local_cluster::{CLIENT, Network};
use raftmap::tls::config::{Credentials, TlsFiles};
use raftmap_proto::health::health_check_response::ServingStatus;
use raftmap_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthClient};
use raftmap_raft::NodeId;

use crate::support::load::must_put;
use crate::support::{World, soon};

type Body = <SharedHttp2Connection as connectrpc::client::ClientTransport>::ResponseBody;

/// What a server tells of itself.
struct Watch {
    server: NodeId,
    stream: ServerStream<Body, <HealthCheckResponse as connectrpc::HasMessageView>::View<'static>>,
}

impl Watch {
    async fn open(world: &World, server: NodeId) -> Self {
        let certs = world.certs_dir();
        let files = TlsFiles {
            ca: certs.join("ca.pem"),
            certificate: certs.join(format!("{CLIENT}.pem")),
            key: certs.join(format!("{CLIENT}.key")),
        };
        let tls = Credentials::load(&files).unwrap().dialler().unwrap();
        let uri: http::Uri = format!("https://{}", world.client_address(server)).parse().unwrap();
        let connection = Http2Connection::connect_tls(uri.clone(), tls).await.unwrap().shared(1);
        let client = HealthClient::new(connection, ClientConfig::new(uri).with_protocol(Protocol::Grpc));
        let stream = client.watch(HealthCheckRequest::default()).await.unwrap();
        Self { server, stream }
    }

    /// What it tells next; none: it has ended.
    async fn next(&mut self) -> Option<ServingStatus> {
        let what = format!("server {} to tell how it is", self.server);
        let message = soon(&what, self.stream.message()).await.unwrap();
        message.map(|message| message.to_owned_message().status.as_known().unwrap())
    }
}

/// A leader and a follower, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loses_its_majority_says_so_and_says_when_it_is_back() {
    let (world, network) = World::start_with_network().await;
    let leader = world.agree(&world.ids()).await;
    for alone in [leader, world.others(&[leader])[0]] {
        lose_the_majority(&world, &network, alone).await;
    }
}

async fn lose_the_majority(world: &World, network: &Network, alone: NodeId) {
    let mut watch = Watch::open(world, alone).await;
    assert_eq!(watch.next().await, Some(ServingStatus::SERVING));

    network.isolate(alone);
    assert_eq!(watch.next().await, Some(ServingStatus::NOT_SERVING));
    let others = world.client_among(&world.others(&[alone])).await;
    must_put(&others, "k", "the others go on").await;
    network.heal();
    assert_eq!(watch.next().await, Some(ServingStatus::SERVING));
    must_put(&world.client_among(&[alone]).await, "k", "and so does it").await;
}

/// Whoever watches hears of it before the connection ends, and does not keep the server from ending.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_asked_to_end_says_so_to_who_watches() {
    let mut world = World::start().await;
    let server = world.agree(&world.ids()).await;
    let mut watch = Watch::open(&world, server).await;
    assert_eq!(watch.next().await, Some(ServingStatus::SERVING));
    let ended = world.stop(server).await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(watch.next().await, Some(ServingStatus::NOT_SERVING));
    assert_eq!(watch.next().await, None);
}

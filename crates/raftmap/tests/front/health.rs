//! Health checks, as load balancers make them.

use connectrpc::client::ServerStream;
use connectrpc::{ErrorCode, Protocol};
use raftmap::front::FrontDoorConfig;
use raftmap_proto::health::health_check_response::ServingStatus;
use raftmap_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthClient};
use raftmap_proto::v1::failure::Code;
use raftmap_state::validate::RequestLimits;

use crate::support::{Certificates, Connection, House, code, failure, get, put, soon};

type Client = HealthClient<Connection>;

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn health(house: &House, protocol: Protocol) -> Client {
    house.clients("client", protocol).await.health
}

async fn check(client: &Client, service: &str) -> Option<ServingStatus> {
    soon(client.check(of(service))).await.unwrap().into_owned().status.as_known()
}

/// A stream that tells how the server is.
struct Watch(ServerStream<Body, <HealthCheckResponse as connectrpc::HasMessageView>::View<'static>>);

type Body = <Connection as connectrpc::client::ClientTransport>::ResponseBody;

impl Watch {
    async fn open(client: &Client, service: &str) -> Self {
        Self(soon(client.watch(of(service))).await.unwrap())
    }

    /// What it tells next; none: it has ended.
    async fn next(&mut self) -> Option<ServingStatus> {
        let message = soon(self.0.message()).await.unwrap();
        message.map(|message| message.to_owned_message().status.as_known().unwrap())
    }
}

#[tokio::test]
async fn a_check_says_whether_requests_are_answered() {
    let house = House::open().await;
    for protocol in [Protocol::Grpc, Protocol::Connect] {
        let client = health(&house, protocol).await;
        for (ready, status) in [(true, ServingStatus::SERVING), (false, ServingStatus::NOT_SERVING)] {
            house.node.ready.send_replace(ready);
            for service in ["", "raftmap.v1.Map", "raftmap.v1.Cluster"] {
                assert_eq!(check(&client, service).await, Some(status), "{service:?}");
            }
            let unknown = soon(client.check(of("raftmap.v1.Queue"))).await.unwrap_err();
            assert_eq!(unknown.code, ErrorCode::NotFound);
            assert_eq!(failure(&unknown).reason, "there is no service \"raftmap.v1.Queue\" to tell of");
        }
    }
}

#[tokio::test]
async fn a_watch_tells_how_it_is_and_each_change() {
    let house = House::open().await;
    for protocol in [Protocol::Grpc, Protocol::Connect] {
        house.node.ready.send_replace(true);
        let client = health(&house, protocol).await;
        let mut watches = [Watch::open(&client, "").await, Watch::open(&client, "raftmap.v1.Map").await];
        for (ready, status) in [
            (true, ServingStatus::SERVING),
            (false, ServingStatus::NOT_SERVING),
            (true, ServingStatus::SERVING),
        ] {
            house.node.ready.send_replace(ready);
            for watch in &mut watches {
                assert_eq!(watch.next().await, Some(status));
            }
        }
        house.node.ready.send_replace(false);
        assert_eq!(Watch::open(&client, "").await.next().await, Some(ServingStatus::NOT_SERVING));
    }
}

/// As the contract has it: the stream stays, as a service may come later.
#[tokio::test]
async fn a_watch_of_a_service_that_there_is_not_says_so_and_stays() {
    let house = House::open().await;
    let client = health(&house, Protocol::Grpc).await;
    let mut watch = Watch::open(&client, "raftmap.v1.Queue").await;
    assert_eq!(watch.next().await, Some(ServingStatus::SERVICE_UNKNOWN));
    house.node.ready.send_replace(false);
    let mut other = Watch::open(&client, "").await;
    assert_eq!(other.next().await, Some(ServingStatus::NOT_SERVING));
    let closing = tokio::spawn(house.door.close());
    assert_eq!(watch.next().await, None, "it tells nothing more until the server stops");
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_says_so_before_its_streams_end() {
    let house = House::open().await;
    let client = health(&house, Protocol::Grpc).await;
    let mut watch = Watch::open(&client, "").await;
    assert_eq!(watch.next().await, Some(ServingStatus::SERVING));
    let closing = tokio::spawn(house.door.close());
    assert_eq!(watch.next().await, Some(ServingStatus::NOT_SERVING));
    assert_eq!(watch.next().await, None);
    soon(closing).await.unwrap();
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends() {
    let config = FrontDoorConfig { watches_max: 2, ..Default::default() };
    let house = House::with(config, RequestLimits::default()).await;
    let client = health(&house, Protocol::Grpc).await;
    let (mut first, mut second) = (Watch::open(&client, "").await, Watch::open(&client, "nothing").await);
    assert!(first.next().await.is_some() && second.next().await.is_some());
    let mut refused = soon(client.watch(of(""))).await.unwrap();
    let error = soon(refused.message()).await.map(|_| ()).unwrap_err();
    assert_eq!((error.code, code(&error)), (ErrorCode::ResourceExhausted, Code::OVERLOADED));
    assert_eq!(failure(&error).limit, 2);
    assert_eq!(check(&client, "").await, Some(ServingStatus::SERVING), "checks go on");
    drop(second);
    soon(async {
        while soon(client.watch(of(""))).await.unwrap().message().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A load balancer may have a certificate of the same authority, and none of this cluster.
#[tokio::test]
async fn whoever_gets_through_the_handshake_may_ask() {
    let house = House::open().await;
    let strangers = Certificates::signed_by_the_same_authority(&house.certificates, "theirs");
    let tls = strangers.credentials("client").dialler().unwrap();
    let clients = house.clients_with(tls, Protocol::Grpc).await.unwrap();
    assert_eq!(check(&clients.health, "").await, Some(ServingStatus::SERVING));
    let refused = soon(clients.map.get(get(&["a"]))).await.map(|_| ()).unwrap_err();
    assert_eq!(code(&refused), Code::DENIED);
    let nobody = house.clients_with(house.certificates.without_certificate(), Protocol::Grpc).await;
    let refused = match nobody {
        Ok(clients) => soon(clients.health.check(of(""))).await.map(|_| ()),
        Err(error) => Err(error),
    };
    refused.unwrap_err();
}

/// A request is a name. What is larger is refused, so that what a stream holds of the budget is nothing to speak of.
#[tokio::test]
async fn a_request_that_is_too_large_is_refused() {
    let house = House::open().await;
    let client = health(&house, Protocol::Grpc).await;
    let large = of(&"x".repeat(8 << 10));
    let error = soon(client.check(large.clone())).await.map(|_| ()).unwrap_err();
    assert_eq!((code(&error), failure(&error).limit), (Code::TOO_LARGE, 4 << 10));
    let mut stream = soon(client.watch(large)).await.unwrap();
    let error = soon(stream.message()).await.map(|_| ()).unwrap_err();
    assert_eq!(code(&error), Code::TOO_LARGE);
    soon(house.map().await.put(put("a", "1"))).await.unwrap();
}

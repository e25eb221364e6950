//! The call with which clients send many requests over one stream.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use connectrpc::{ConnectError, Protocol};
use raftmap::front::{FrontDoorConfig, PipelineLimits};
use raftmap_proto::v1;
use raftmap_proto::v1::failure::{Code, Outcome};
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_state::validate::RequestLimits;

use crate::support::{Connection, House, PATIENCE, bytes, code, get, put, soon, until};

type Body = <Connection as connectrpc::client::ClientTransport>::ResponseBody;
type Stream = connectrpc::BidiStream<
    Body,
    v1::PipelineRequest,
    <v1::PipelineResponse as connectrpc::HasMessageView>::View<'static>,
>;

/// One stream, and the answers that came on it by their tags.
struct Pipeline {
    stream: Stream,
    answers: BTreeMap<u64, Response>,
    messages: usize,
    /// What the messages said of the members.
    news_of_members: Vec<u64>,
}

impl Pipeline {
    async fn open(house: &House, protocol: Protocol) -> Self {
        let map = house.clients("client", protocol).await.map;
        let stream = soon(map.pipeline()).await.unwrap();
        Self { stream, answers: BTreeMap::new(), messages: 0, news_of_members: Vec::new() }
    }

    async fn send(&mut self, requests: impl IntoIterator<Item = (u64, Request)>) {
        let requests = requests
            .into_iter()
            .map(|(tag, request)| v1::TaggedRequest { tag, request: Some(request), ..Default::default() })
            .collect();
        self.send_message(v1::PipelineRequest { requests }).await;
    }

    async fn send_message(&mut self, message: v1::PipelineRequest) {
        soon(self.stream.send(message)).await.unwrap();
    }

    /// Takes one message; false: the stream has ended.
    async fn receive(&mut self) -> Result<bool, ConnectError> {
        let Some(message) = soon(self.stream.message()).await? else { return Ok(false) };
        self.messages += 1;
        let message = message.to_owned_message();
        self.news_of_members.extend(Some(message.membership_index).filter(|index| *index > 0));
        for answer in message.responses {
            let twice = self.answers.insert(answer.tag, answer.response.unwrap());
            assert!(twice.is_none(), "tag {} is answered twice", answer.tag);
        }
        Ok(true)
    }

    /// Takes messages until there are `count` answers.
    async fn answers(&mut self, count: usize) -> &BTreeMap<u64, Response> {
        while self.answers.len() < count {
            assert!(self.receive().await.unwrap(), "only {} answers came", self.answers.len());
        }
        &self.answers
    }

    fn failure(&self, tag: u64) -> &v1::Failure {
        match &self.answers[&tag] {
            Response::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

/// A client hears of new members before those that it knows are gone: once, on each stream.
#[tokio::test]
async fn a_stream_says_once_that_the_members_are_new() {
    let house = House::open().await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    let mut ask = async |tag: u64, index: u64| {
        house.node.members_index.store(index, Ordering::Relaxed);
        pipeline.send([(tag, get_request("a"))]).await;
        pipeline.answers(usize::try_from(tag).unwrap()).await;
        pipeline.news_of_members.clone()
    };
    assert_eq!(ask(1, 0).await, [0_u64; 0]);
    assert_eq!(ask(2, 7).await, [7]);
    assert_eq!(ask(3, 7).await, [7]);
    assert_eq!(ask(4, 9).await, [7, 9]);
}

fn put_request(key: &str, value: &str) -> Request {
    Request::Put(put(key, value))
}

fn get_request(key: &str) -> Request {
    Request::Get(get(&[key]))
}

async fn limited(pipeline: PipelineLimits) -> House {
    House::with(FrontDoorConfig { pipeline, ..Default::default() }, RequestLimits::default()).await
}

#[tokio::test]
async fn requests_of_all_kinds_are_answered_by_their_tags() {
    let house = House::open().await;
    for protocol in [Protocol::Grpc, Protocol::Connect] {
        let mut pipeline = Pipeline::open(&house, protocol).await;
        pipeline.send((0..100).map(|tag| (tag, put_request(&tag.to_string(), "v")))).await;
        pipeline.answers(100).await;
        let delete = v1::DeleteRequest { keys: vec![bytes("1")], ..Default::default() };
        let operation = v1::Operation { operation: Some(v1::operation::Operation::Get(bytes("2"))) };
        let txn = v1::TxnRequest { then: vec![operation], request_id: "t".to_owned(), ..Default::default() };
        pipeline
            .send([(100, get_request("0")), (101, Request::Delete(delete)), (102, Request::Txn(txn))])
            .await;
        let answers = pipeline.answers(103).await;
        assert!((0..100).all(|tag| matches!(&answers[&tag], Response::Put(put) if put.revision > 0)));
        assert!(matches!(&answers[&100], Response::Get(get) if get.results[0].entry.is_set()));
        assert!(matches!(&answers[&101], Response::Delete(delete) if delete.deleted == 1));
        assert!(matches!(&answers[&102], Response::Txn(txn) if txn.succeeded && txn.request_id == "t"));
        pipeline.stream.close_send();
        assert!(!pipeline.receive().await.unwrap(), "the stream ends when the client has ended it");
    }
}

/// Nothing waits for anything else, and what is ready together travels together.
#[tokio::test]
async fn requests_run_beside_each_other_and_answers_travel_in_batches() {
    let house = House::open().await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    house.node.hold();
    for tag in 0..200 {
        pipeline.send([(tag, get_request("a"))]).await;
    }
    until(|| house.node.waiting() == 200).await;
    house.node.release();
    pipeline.answers(200).await;
    assert!(pipeline.messages < 100, "200 answers came in {} messages", pipeline.messages);
}

#[tokio::test]
async fn a_request_that_fails_does_not_hurt_the_others() {
    let house = House::open().await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    let unset = v1::TaggedRequest { tag: 1, ..Default::default() };
    pipeline.send_message(v1::PipelineRequest { requests: vec![unset] }).await;
    pipeline.send([(2, put_request("", "v")), (3, put_request("k", "v"))]).await;
    pipeline.answers(3).await;
    for (tag, field) in [(1, "requests.request"), (2, "entries.key")] {
        let failure = pipeline.failure(tag);
        assert_eq!((failure.code.as_known(), failure.field.as_str()), (Some(Code::INVALID), field));
        assert_eq!(failure.outcome.as_known(), Some(Outcome::NOT_APPLIED));
    }
    assert!(matches!(&pipeline.answers[&3], Response::Put(_)));
}

#[tokio::test]
async fn each_request_has_its_own_deadline() {
    let house = House::open().await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    house.node.hold();
    let request = |tag, timeout_ms| v1::TaggedRequest { tag, timeout_ms, request: Some(get_request("a")) };
    let requests = vec![request(1, 30), request(2, 0)];
    pipeline.send_message(v1::PipelineRequest { requests }).await;
    pipeline.answers(1).await;
    let late = pipeline.failure(1);
    assert_eq!(late.code.as_known(), Some(Code::DEADLINE));
    assert_eq!(late.outcome.as_known(), Some(Outcome::NOT_APPLIED));
    house.node.release();
    assert!(matches!(&pipeline.answers(2).await[&2], Response::Get(_)));
}

#[tokio::test]
async fn requests_beyond_the_limits_are_refused_and_can_come_again() {
    let limits = PipelineLimits { in_flight_max: 8, bytes_in_flight_max: 1 << 10, ..Default::default() };
    let house = limited(limits).await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    house.node.hold();
    pipeline.send((0..12).map(|tag| (tag, get_request("a")))).await;
    pipeline.answers(4).await;
    for tag in 8..12 {
        let failure = pipeline.failure(tag);
        assert_eq!((failure.code.as_known(), failure.limit), (Some(Code::OVERLOADED), 8));
        assert_eq!(failure.outcome.as_known(), Some(Outcome::NOT_APPLIED));
        assert!(failure.retry_after_ms > 0);
    }
    house.node.release();
    pipeline.answers(12).await;

    house.node.hold();
    let large = "v".repeat(2000);
    pipeline.send([(20, put_request("a", &large)), (21, put_request("b", &large))]).await;
    pipeline.answers(13).await;
    let failure = pipeline.failure(21);
    assert_eq!((failure.code.as_known(), failure.limit), (Some(Code::OVERLOADED), 1 << 10));
    house.node.release();
    pipeline.answers(14).await;
    pipeline.send([(22, put_request("b", &large))]).await;
    assert!(matches!(&pipeline.answers(15).await[&22], Response::Put(_)));
}

/// Answers that are not taken take no more memory than their limit: the rest is dropped, and says so.
#[tokio::test]
async fn a_slow_reader_is_bounded_by_bytes() {
    let house = limited(PipelineLimits { unread_bytes_max: 2 << 20, ..Default::default() }).await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    let value = "v".repeat(1 << 20);
    pipeline.send([(0, put_request("a", &value))]).await;
    pipeline.answers(1).await;
    // The client's windows take a few of them, the stream's limit two more.
    let reads = 64;
    house.node.hold();
    pipeline.send((1..=reads).map(|tag| (tag, get_request("a")))).await;
    until(|| house.node.waiting() == 64).await;
    house.node.release();
    until(|| house.node.waiting() == 0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    pipeline.answers(65).await;
    let dropped = (1..=reads).filter(|tag| matches!(pipeline.answers[tag], Response::Failure(_)));
    let dropped: Vec<_> = dropped.collect();
    assert!(!dropped.is_empty() && dropped.len() < 64, "{} of 64 answers were dropped", dropped.len());
    for tag in dropped {
        let failure = pipeline.failure(tag);
        assert_eq!((failure.code.as_known(), failure.limit), (Some(Code::OVERLOADED), 2 << 20));
        assert_eq!(failure.outcome.as_known(), Some(Outcome::NOT_APPLIED), "a read changes nothing");
    }
    pipeline.send([(99, get_request("a"))]).await;
    assert!(matches!(&pipeline.answers(66).await[&99], Response::Get(_)), "the stream goes on");
}

/// Who sends and sends, and takes no answers, loses the stream.
#[tokio::test]
async fn who_takes_no_answers_loses_the_stream() {
    let limits = PipelineLimits { in_flight_max: 16, ..Default::default() };
    let house = limited(limits).await;
    let map = house.clients("client", Protocol::Grpc).await.map;
    let stream = soon(map.pipeline()).await.unwrap();
    let (mut sender, mut receiver) = stream.into_split();
    let flood = async {
        let requests: Vec<_> = (0..1000).map(|tag| v1::TaggedRequest { tag, ..Default::default() }).collect();
        while sender.send(v1::PipelineRequest { requests: requests.clone() }).await.is_ok() {}
    };
    soon(flood).await;
    let error = soon(async {
        loop {
            match receiver.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended well"),
                Err(error) => return error,
            }
        }
    });
    assert_eq!(code(&error.await), Code::OVERLOADED);
    soon(house.map().await.put(put("a", "1"))).await.unwrap();
}

/// Graceful: what is in flight is answered, what comes after is refused, and the stream ends.
#[tokio::test]
async fn a_door_that_closes_ends_its_streams_well() {
    let house = House::open().await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    house.node.hold();
    pipeline.send([(1, put_request("a", "1"))]).await;
    let node = std::sync::Arc::clone(&house.node);
    until(|| node.waiting() == 1).await;
    let closing = tokio::spawn(house.door.close());
    soon(async {
        let mut tag = 100;
        while !pipeline.answers.values().any(|answer| matches!(answer, Response::Failure(_))) {
            tag += 1;
            pipeline.send([(tag, put_request("", ""))]).await;
            pipeline.answers(pipeline.answers.len() + 1).await;
            if pipeline.failure(tag).code.as_known() != Some(Code::SHUTTING_DOWN) {
                pipeline.answers.remove(&tag);
            }
        }
    })
    .await;
    node.release();
    while pipeline.receive().await.unwrap() {}
    assert!(matches!(&pipeline.answers[&1], Response::Put(_)));
    soon(closing).await.unwrap();
}

/// A client that is gone leaves nothing behind.
#[tokio::test]
async fn a_stream_whose_client_is_gone_ends() {
    let patience = 10 * PATIENCE;
    let config =
        FrontDoorConfig { request_timeout: patience, request_timeout_max: patience, ..Default::default() };
    let house = House::with(config, RequestLimits::default()).await;
    let mut pipeline = Pipeline::open(&house, Protocol::Grpc).await;
    house.node.hold();
    pipeline.send((0..10).map(|tag| (tag, get_request("a")))).await;
    until(|| house.node.waiting() == 10).await;
    drop(pipeline);
    until(|| house.node.waiting() == 0).await;
}

//! A small real server: sockets, HTTP/2, the generated services; what it does with a request is scripted.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use connectrpc::{
    Chain, ConnectError, ConnectRpcService, ErrorCode, ErrorDetail, InboundStream, RequestContext,
    ServiceRequest, ServiceResult, ServiceStream,
};
use futures::StreamExt;
use futures::stream;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use raftmap_proto::v1::failure::Code;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{
    AddMemberRequest, AddMemberResponse, BackupRequest, BackupResponse, Cluster, ClusterServer,
    DeleteRequest, DeleteResponse, Failure, GetRequest, GetResponse, Map, MapServer, Member, MembersRequest,
    MembersResponse, OpenSessionRequest, OpenSessionResponse, PipelineRequest, PipelineResponse, PutRequest,
    PutResponse, RemoveMemberRequest, RemoveMemberResponse, ScanRequest, ScanResponse, StatusRequest,
    StatusResponse, TaggedRequest, TaggedResponse, TxnRequest, TxnResponse,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::world::World;

/// What a server does with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Applies and answers it.
    Apply,
    /// Applies it; the connection breaks before the answer.
    ApplyAndCut,
    /// Breaks the connection.
    Cut,
    /// Never answers.
    Ignore,
    /// Applies it and never answers.
    ApplyAndIgnore,
    /// Waits until the server is released, then applies and answers it.
    Hold,
    /// Answers with a failure.
    Fail(Failure),
}

/// A request, as the script sees it.
pub enum Incoming {
    Members,
    OpenSession,
    Request,
    Scan,
}

type Script = dyn Fn(&Incoming) -> Act + Send + Sync;

/// What arrived, and how.
#[derive(Clone, Debug)]
pub struct Received {
    /// In the stream, or as a call of its own.
    pub in_stream: bool,
    pub timeout_ms: u32,
    pub request: Request,
}

struct State {
    world: Arc<Mutex<World>>,
    script: Mutex<Arc<Script>>,
    received: Mutex<Vec<Received>>,
    batches: Mutex<Vec<usize>>,
    members: Mutex<MembersResponse>,
    members_asked: AtomicBool,
    streams: AtomicUsize,
    released: watch::Sender<bool>,
    /// Told to break all connections.
    cut: watch::Sender<()>,
}

pub struct Server {
    pub address: SocketAddr,
    state: Arc<State>,
    accepting: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    pub async fn start(world: &Arc<Mutex<World>>) -> Self {
        Self::start_with(world, None).await
    }

    pub async fn start_with(world: &Arc<Mutex<World>>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let members = MembersResponse {
            term: 1,
            members: vec![Member { id: 1, client_address: address.to_string(), ..Member::default() }],
            ..MembersResponse::default()
        };
        let state = Arc::new(State {
            world: Arc::clone(world),
            script: Mutex::new(Arc::new(|_: &Incoming| Act::Apply)),
            received: Mutex::default(),
            batches: Mutex::default(),
            members: Mutex::new(members),
            members_asked: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            released: watch::Sender::new(false),
            cut: watch::Sender::new(()),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state), tls)).abort_handle();
        Self { address, state, accepting }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, requests go this way.
    pub fn script(&self, script: impl Fn(&Incoming) -> Act + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    /// From now on, reads and writes go these ways, each act once, and all later ones are applied.
    pub fn script_requests(&self, acts: impl IntoIterator<Item = Act>) {
        let acts: Mutex<std::collections::VecDeque<Act>> = Mutex::new(acts.into_iter().collect());
        self.script(move |incoming| match incoming {
            Incoming::Request => acts.lock().unwrap().pop_front().unwrap_or(Act::Apply),
            _ => Act::Apply,
        });
    }

    /// What it says when it is asked for the members.
    pub fn set_members(&self, members: MembersResponse) {
        *self.state.members.lock().unwrap() = members;
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// How many requests each message of a stream held.
    pub fn batches(&self) -> Vec<usize> {
        self.state.batches.lock().unwrap().clone()
    }

    /// Answers what is held, now and later.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Breaks all connections.
    pub fn cut(&self) {
        self.state.cut.send_replace(());
    }

    /// How many streams were opened.
    pub fn streams(&self) -> usize {
        self.state.streams.load(Ordering::Relaxed)
    }

    pub fn was_asked_for_members(&self) -> bool {
        self.state.members_asked.load(Ordering::Relaxed)
    }

    /// Breaks all connections and takes no more: its port is closed when this returns.
    pub async fn stop(&self) {
        self.accepting.abort();
        while !self.accepting.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        connections.spawn(serve_tcp(tcp, Arc::clone(&state), tls.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_tcp(tcp: TcpStream, state: Arc<State>, tls: Option<TlsAcceptor>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    match tls {
        Some(tls) => serve(tls.accept(tcp).await?, state).await,
        None => serve(tcp, state).await,
    }
    Ok(())
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let mut all_cut = state.cut.subscribe();
    let this_cut = Arc::new(Notify::new());
    let handler = Arc::new(Handler { state, cut: Arc::clone(&this_cut) });
    let services = Chain(MapServer::from_arc(Arc::clone(&handler)), ClusterServer::from_arc(handler));
    let service = TowerToHyperService::new(ConnectRpcService::new(services));
    let connection = http2::Builder::new(TokioExecutor::new())
        .adaptive_window(false)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .serve_connection(TokioIo::new(io), service);
    tokio::select! {
        _ = connection => {}
        () = this_cut.notified() => {}
        _ = all_cut.changed() => {}
    }
}

/// The services on one connection.
struct Handler {
    state: Arc<State>,
    cut: Arc<Notify>,
}

fn refused(failure: &Failure) -> ConnectError {
    let detail = ErrorDetail::from_message("raftmap.v1.Failure", failure);
    ConnectError::new(ErrorCode::FailedPrecondition, failure.reason.clone()).with_detail(detail)
}

impl Handler {
    fn act(&self, incoming: &Incoming) -> Act {
        let script = Arc::clone(&self.state.script.lock().unwrap());
        script(incoming)
    }

    /// `None`: never answered.
    async fn answer(&self, act: Act, work: impl FnOnce(&mut World) -> Response) -> Option<Response> {
        let world = || self.state.world.lock().unwrap();
        match act {
            Act::Apply => return Some(work(&mut world())),
            Act::ApplyAndCut => {
                work(&mut world());
                self.cut.notify_one();
            }
            Act::Cut => self.cut.notify_one(),
            Act::Ignore => {}
            Act::ApplyAndIgnore => drop(work(&mut world())),
            Act::Hold => {
                let released = self.state.released.subscribe().wait_for(|released| *released).await.is_ok();
                assert!(released, "the state outlives its connections");
                return Some(work(&mut world()));
            }
            Act::Fail(failure) => return Some(Response::Failure(failure)),
        }
        None
    }

    async fn answer_request(&self, in_stream: bool, timeout_ms: u32, request: Request) -> Option<Response> {
        let act = self.act(&Incoming::Request);
        let received = Received { in_stream, timeout_ms, request: request.clone() };
        self.state.received.lock().unwrap().push(received);
        self.answer(act, |world| world.apply(&request)).await
    }

    /// The same for a call of its own.
    async fn call(&self, ctx: &RequestContext, request: Request) -> Result<Response, ConnectError> {
        let timeout_ms = ctx.time_remaining().map_or(0, |left| u32::try_from(left.as_millis()).unwrap());
        match self.answer_request(false, timeout_ms, request).await {
            Some(Response::Failure(failure)) => Err(refused(&failure)),
            Some(response) => Ok(response),
            None => futures::future::pending().await,
        }
    }
}

#[allow(refining_impl_trait)]
impl Map for Handler {
    async fn get(
        &self,
        ctx: RequestContext,
        get: ServiceRequest<'_, GetRequest>,
    ) -> ServiceResult<GetResponse> {
        let Response::Get(got) = self.call(&ctx, Request::Get(get.to_owned_message())).await? else {
            panic!()
        };
        Ok(got.into())
    }

    async fn put(
        &self,
        ctx: RequestContext,
        put: ServiceRequest<'_, PutRequest>,
    ) -> ServiceResult<PutResponse> {
        let Response::Put(put) = self.call(&ctx, Request::Put(put.to_owned_message())).await? else {
            panic!()
        };
        Ok(put.into())
    }

    async fn delete(
        &self,
        ctx: RequestContext,
        delete: ServiceRequest<'_, DeleteRequest>,
    ) -> ServiceResult<DeleteResponse> {
        let request = Request::Delete(delete.to_owned_message());
        let Response::Delete(delete) = self.call(&ctx, request).await? else { panic!() };
        Ok(delete.into())
    }

    async fn txn(
        &self,
        ctx: RequestContext,
        txn: ServiceRequest<'_, TxnRequest>,
    ) -> ServiceResult<TxnResponse> {
        let Response::Txn(txn) = self.call(&ctx, Request::Txn(txn.to_owned_message())).await? else {
            panic!()
        };
        Ok(txn.into())
    }

    /// One page for each entry.
    async fn scan(
        &self,
        _: RequestContext,
        scan: ServiceRequest<'_, ScanRequest>,
    ) -> ServiceResult<ServiceStream<ScanResponse>> {
        let scan = scan.to_owned_message();
        let act = self.act(&Incoming::Scan);
        if let Act::Fail(failure) = &act {
            return Err(refused(failure));
        }
        let world = self.state.world.lock().unwrap();
        let revision = world.revision;
        let all = world.scan(&scan);
        drop(world);
        let count = if scan.limit == 0 { all.len() } else { all.len().min(scan.limit as usize) };
        let mut pages: Vec<_> = all[..count]
            .iter()
            .map(|entry| ScanResponse { revision, entries: vec![entry.clone()], ..ScanResponse::default() })
            .collect();
        pages.push(ScanResponse { revision, done: true, more: count < all.len(), ..ScanResponse::default() });
        let mut pages: Vec<Result<ScanResponse, ConnectError>> = pages.into_iter().map(Ok).collect();
        if matches!(act, Act::Ignore) {
            // Half a scan that ends as if it were whole.
            pages.truncate(1);
        }
        if matches!(act, Act::Cut) {
            // Half a scan: one page, then the view is lost.
            pages.truncate(1);
            pages.push(Err(refused(&crate::world::not_applied(Code::SCAN_LOST))));
        }
        // One page, and the others once it is released.
        let later = if matches!(act, Act::Hold) { pages.split_off(1) } else { Vec::new() };
        let mut released = self.state.released.subscribe();
        let later = stream::once(async move {
            if !later.is_empty() {
                released.wait_for(|released| *released).await.ok();
            }
            stream::iter(later)
        });
        connectrpc::Response::stream_ok(stream::iter(pages).chain(later.flatten()))
    }

    async fn scan_page(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, ScanRequest>,
    ) -> ServiceResult<ScanResponse> {
        Err(ConnectError::unimplemented("the client does not use it"))
    }

    async fn open_session(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, OpenSessionRequest>,
    ) -> ServiceResult<OpenSessionResponse> {
        let act = self.act(&Incoming::OpenSession);
        let mut opened = OpenSessionResponse::default();
        let answer = self.answer(act, |world| {
            opened.session_id = world.open_session();
            opened.max_in_flight = world.max_in_flight;
            Response::Put(PutResponse::default())
        });
        match answer.await {
            Some(Response::Failure(failure)) => Err(refused(&failure)),
            Some(_) => Ok(opened.into()),
            None => futures::future::pending().await,
        }
    }

    async fn pipeline(
        &self,
        _: RequestContext,
        mut messages: InboundStream<PipelineRequest>,
    ) -> ServiceResult<ServiceStream<PipelineResponse>> {
        self.state.streams.fetch_add(1, Ordering::Relaxed);
        let (answers, answered) = mpsc::channel(64);
        let this = Arc::new(Self { state: Arc::clone(&self.state), cut: Arc::clone(&self.cut) });
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let message = message.to_owned_message();
                this.state.batches.lock().unwrap().push(message.requests.len());
                let mut ready = Vec::new();
                for TaggedRequest { tag, timeout_ms, request } in message.requests {
                    let request = request.expect("a request is set");
                    let mut answer = Box::pin({
                        let this = Arc::clone(&this);
                        async move { this.answer_request(true, timeout_ms, request).await }
                    });
                    match futures::poll!(&mut answer) {
                        Poll::Ready(response) => {
                            ready.extend(
                                response.map(|response| TaggedResponse { tag, response: Some(response) }),
                            );
                        }
                        Poll::Pending => {
                            let answers = answers.clone();
                            tokio::spawn(async move {
                                let response = answer.await;
                                let responses = vec![TaggedResponse { tag, response }];
                                answers.send(answered_by(responses)).await.ok();
                            });
                        }
                    }
                }
                if !ready.is_empty() {
                    answers.send(answered_by(ready)).await.ok();
                }
            }
        });
        let answered = stream::unfold(answered, |mut answered| async {
            let message = answered.recv().await?;
            Some((Ok(message), answered))
        });
        connectrpc::Response::stream_ok(answered)
    }
}

fn answered_by(responses: Vec<TaggedResponse>) -> PipelineResponse {
    PipelineResponse { responses, ..PipelineResponse::default() }
}

#[allow(refining_impl_trait)]
impl Cluster for Handler {
    async fn members(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, MembersRequest>,
    ) -> ServiceResult<MembersResponse> {
        match self.act(&Incoming::Members) {
            Act::Fail(failure) => Err(refused(&failure)),
            Act::Ignore => futures::future::pending().await,
            _ => {
                self.state.members_asked.store(true, Ordering::Relaxed);
                Ok(self.state.members.lock().unwrap().clone().into())
            }
        }
    }

    async fn status(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, StatusRequest>,
    ) -> ServiceResult<StatusResponse> {
        Ok(StatusResponse { answered_by: 1, ..StatusResponse::default() }.into())
    }
    async fn add_member(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, AddMemberRequest>,
    ) -> ServiceResult<AddMemberResponse> {
        Ok(AddMemberResponse::default().into())
    }

    async fn remove_member(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, RemoveMemberRequest>,
    ) -> ServiceResult<RemoveMemberResponse> {
        Ok(RemoveMemberResponse::default().into())
    }

    async fn backup(
        &self,
        _: RequestContext,
        _: ServiceRequest<'_, BackupRequest>,
    ) -> ServiceResult<ServiceStream<BackupResponse>> {
        Err(ConnectError::unimplemented("a real server is asked for backups in the tests of `raftmap`"))
    }
}

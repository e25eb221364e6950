//! etcd, version 3.

use bytes::Bytes;
use connectrpc::Protocol;
use connectrpc::client::{ClientConfig, Http2Connection, SharedHttp2Connection};
use hyper::Uri;

use crate::RivalError;
use crate::generated::etcdserverpb::request_op::Request;
use crate::generated::etcdserverpb::{
    KvClient, MaintenanceClient, PutRequest, RangeRequest, RequestOp, StatusRequest, TxnRequest,
};

/// How many calls wait for a connection at most.
const WAITING_MAX: usize = 1024;

/// A connection to etcd's leader; callers may share it.
#[derive(Clone)]
pub struct Etcd {
    kv: KvClient<SharedHttp2Connection>,
}

impl Etcd {
    /// Connects to the one of `endpoints` that leads.
    ///
    /// # Errors
    /// If one of them cannot be asked, or none leads.
    pub async fn connect(endpoints: &[String]) -> Result<Self, RivalError> {
        for endpoint in endpoints {
            let uri: Uri =
                format!("http://{endpoint}").parse().map_err(|_| RivalError::Address(endpoint.clone()))?;
            let transport = Http2Connection::connect_plaintext(uri.clone()).await?.shared(WAITING_MAX);
            let config = ClientConfig::new(uri).with_protocol(Protocol::Grpc);
            let maintenance = MaintenanceClient::new(transport.clone(), config.clone());
            let status = maintenance.status(StatusRequest::default()).await?.into_owned();
            if status.leader != 0 && status.leader == status.header.member_id {
                return Ok(Self { kv: KvClient::new(transport, config) });
            }
        }
        Err(RivalError::NoLeader(endpoints.to_vec()))
    }

    /// Sets `key` to `value`: durable on a majority.
    ///
    /// # Errors
    /// If etcd refuses, or the connection broke.
    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), RivalError> {
        self.kv.put(PutRequest { key, value }).await?;
        Ok(())
    }

    /// Reads `key`, linearizably; whether it is there.
    ///
    /// # Errors
    /// If etcd refuses, or the connection broke.
    pub async fn get(&self, key: Bytes) -> Result<bool, RivalError> {
        let found = self.kv.range(RangeRequest { key }).await?;
        Ok(!found.into_owned().kvs.is_empty())
    }

    /// Sets several keys in one transaction; etcd's own limit is 128 of them.
    ///
    /// # Errors
    /// If etcd refuses, or the connection broke.
    pub async fn put_many(&self, entries: Vec<(Bytes, Bytes)>) -> Result<(), RivalError> {
        let put = |(key, value)| RequestOp { request: Some(Request::RequestPut(PutRequest { key, value })) };
        let success = entries.into_iter().map(put).collect();
        self.kv.txn(TxnRequest { success }).await?;
        Ok(())
    }
}

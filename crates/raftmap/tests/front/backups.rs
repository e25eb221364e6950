//! `Backup`: whole files, for operators, one at a time, and not for ever.

use std::time::Duration;

use connectrpc::Protocol;
use raftmap::backup::{BackupReader, BackupSummary};
use raftmap::front::FrontDoorConfig;
use raftmap_proto::v1;
use raftmap_proto::v1::failure::Code;
use raftmap_state::Discarded;
use raftmap_state::validate::RequestLimits;

use crate::support::{Connection, House, code, put, soon};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

async fn operator(house: &House) -> v1::ClusterClient<Connection> {
    house.clients("operator", Protocol::Grpc).await.cluster
}

/// Takes a whole backup; how many messages it came in, too.
async fn take(
    cluster: &v1::ClusterClient<Connection>,
) -> Result<(BackupSummary, usize), connectrpc::ConnectError> {
    let mut stream = cluster.backup(v1::BackupRequest::default()).await?;
    let (mut reader, mut messages) = (BackupReader::new(Discarded), 0);
    while let Some(message) = stream.message().await? {
        let v1::BackupResponse { part, bytes_expected, .. } = message.to_owned_message();
        assert_eq!(bytes_expected, if messages == 0 { 7 } else { 0 }, "told once");
        assert!((1..=MESSAGE_BYTES_MAX).contains(&part.len()), "{}", part.len());
        reader.feed(&part).unwrap();
        messages += 1;
    }
    Ok((reader.finish().unwrap().0, messages))
}

#[tokio::test]
async fn an_operator_gets_a_whole_file_and_a_client_none() {
    let limits = RequestLimits { value_bytes_max: 4 << 20, request_bytes_max: 5 << 20, ..Default::default() };
    let house = House::with(FrontDoorConfig::default(), limits).await;
    let map = house.map().await;
    soon(map.put(put("small", "v"))).await.unwrap();
    // One row of more than a message may have.
    soon(map.put(put("large", &"v".repeat(3 << 20)))).await.unwrap();
    let (summary, messages) = soon(take(&operator(&house).await)).await.unwrap();
    assert_eq!((summary.keys, summary.header.position.index.0), (2, 2));
    assert!(messages > 5, "{messages}");

    let client = house.clients("client", Protocol::Grpc).await.cluster;
    assert_eq!(code(&soon(take(&client)).await.unwrap_err()), Code::DENIED);
}

/// Its reader takes nothing, or takes too long over all of it.
#[tokio::test]
async fn a_backup_that_is_not_taken_in_time_lets_its_snapshot_go() {
    let (short, long) = (Duration::from_millis(50), Duration::from_secs(600));
    for (backup_stall_timeout, backup_time_max) in [(short, long), (long, short)] {
        let config = FrontDoorConfig { backup_stall_timeout, backup_time_max, ..Default::default() };
        let house = House::with(config, RequestLimits::default()).await;
        let map = house.map().await;
        for number in 0..24 {
            soon(map.put(put(&format!("{number:02}"), &"v".repeat(1 << 19)))).await.unwrap();
        }
        let cluster = operator(&house).await;
        let mut stalled = soon(cluster.backup(v1::BackupRequest::default())).await.unwrap();
        soon(stalled.message()).await.unwrap().unwrap();
        let other = operator(&house).await;
        let begun = soon(async {
            loop {
                match other.backup(v1::BackupRequest::default()).await {
                    Ok(mut stream) => match stream.message().await {
                        Ok(message) => return message.is_some(),
                        Err(error) => assert_eq!(code(&error), Code::OVERLOADED),
                    },
                    Err(error) => assert_eq!(code(&error), Code::OVERLOADED),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(begun.await);
        let cut = soon(async {
            loop {
                match stalled.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("the backup did not reach its end"),
                    Err(error) => return error,
                }
            }
        });
        assert_eq!(code(&cut.await), Code::DEADLINE);
    }
}

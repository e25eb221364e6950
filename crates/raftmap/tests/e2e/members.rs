//! Servers that come and go while clients write.

use raftmap_client::{Client, Code, Error, MemberStatus};
use raftmap_proto::v1::member::Role;
use raftmap_raft::NodeId;

use crate::support::{Load, PATIENCE, World, until};

/// An operator's calls: what takes long on a busy machine is waited for.
async fn operator(world: &World) -> Client {
    let builder = Client::builder(world.endpoints(), world.tls("operator").unwrap());
    builder.timeout(PATIENCE).connect().await.unwrap()
}

async fn voters(operator: &Client) -> Vec<u64> {
    let members = operator.members().await.unwrap().members;
    members.iter().filter(|member| member.role == Role::VOTER).map(|member| member.id).collect()
}

/// Waits until the voters are these: whoever is asked may hear of a change a little later than others.
async fn until_voters(operator: &Client, what: &str, are: impl Fn(&[u64]) -> bool) {
    until(what, async || are(&voters(operator).await).then_some(())).await;
}

/// One more server joins, and votes when this returns.
async fn add(world: &mut World, operator: &Client, replaces: Option<NodeId>) -> NodeId {
    let id = world.join().unwrap();
    world.start(id).await.unwrap();
    operator.add_member(world.addresses(id).unwrap(), replaces.map(|gone| gone.0)).await.unwrap();
    until_voters(operator, &format!("server {id} to vote"), |voters| voters.contains(&id.0)).await;
    id
}

/// A server goes: it ends by itself, and says why.
async fn gone(world: &mut World, id: NodeId) {
    let status = world.wait_exit(id).await.unwrap();
    assert!(!status.success(), "server {id} ended with {status}");
    let said = world.log_text(id);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("was removed from the cluster"), "server {id}: {last}");
    world.leave(id).unwrap();
}

/// The issue's own: 1 to 3 to 5 to 3, the first server among those that go, and no call fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_and_shrinks_under_load_and_no_call_fails() {
    let mut world = World::found_of(1, |_| {}).await;
    world.start_all().await.unwrap();
    let first = world.leader().await.unwrap();
    let operator = operator(&world).await;
    let load = Load::start(&world, 4).await;
    load.more(100).await;
    for _ in 0..4 {
        add(&mut world, &operator, None).await;
        load.more(100).await;
    }
    until_voters(&operator, "five voters", |voters| voters == [1, 2, 3, 4, 5]).await;
    let leader = world.leader().await.unwrap();
    let other = world.others(&[leader, first])[0];
    let going = if leader == first { [leader, other] } else { [leader, first] };
    for id in going {
        operator.remove_member(id.0).await.unwrap();
        gone(&mut world, id).await;
        load.more(100).await;
    }
    until_voters(&operator, "three voters", |voters| voters.len() == 3).await;
    let ledger = load.stop().await;
    ledger.demand_no_failure();
    world.verify(&ledger).await;
}

/// A dead server is replaced in one change. It does not come back: its id is known to be gone, also by a server that was not
/// there when it went; and the others are there after a restart of all, though none of them is a founder's only contact.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_is_replaced_and_does_not_come_back() {
    let mut world = World::start().await;
    let operator = operator(&world).await;
    let load = Load::start(&world, 2).await;
    load.more(50).await;
    let dead = world.leader().await.unwrap();
    world.kill(dead).unwrap();
    let id = add(&mut world, &operator, Some(dead)).await;
    until_voters(&operator, "the dead server to be gone", |voters| !voters.contains(&dead.0)).await;
    load.more(50).await;
    let ledger = load.stop().await;

    world.spawn(dead, |_| {}).unwrap();
    gone(&mut world, dead).await;
    let again = operator.add_member(world.addresses(id).unwrap(), None).await;
    again.expect("of a member only the addresses are set again");
    let error = operator.remove_member(99).await.unwrap_err();
    assert_eq!(error.cause().code, Some(Code::INVALID), "{error}");

    world.kill_all().unwrap();
    world.start_all().await.unwrap();
    world.verify(&ledger).await;
    assert!(voters(&operator).await.contains(&id.0));
}

/// Scenario 28 and after: what would lose the quorum is refused with the reason, and nothing has changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_would_lose_the_quorum_is_refused() {
    let mut world = World::start().await;
    let operator = operator(&world).await;
    let leader = world.leader().await.unwrap();
    let [dead, other] = world.others(&[leader])[..] else { unreachable!() };
    world.kill(dead).unwrap();
    until("the leader to miss a server", async || {
        let status = operator.status().await.unwrap();
        let missed = |member: &MemberStatus| member.id == dead.0 && !member.reachable;
        (status.answered_by == leader.0 && status.members.iter().any(missed)).then_some(())
    })
    .await;
    let error = operator.remove_member(other.0).await.unwrap_err();
    assert_eq!(error.cause().code, Some(Code::INVALID), "{error}");
    assert!(error.to_string().contains("1 of the 2 servers that would vote"), "{error}");
    assert_eq!(voters(&operator).await, [1, 2, 3]);
}

/// Only operators change the members, and no address is nonsense.
#[tokio::test(flavor = "multi_thread")]
async fn only_operators_change_the_members_and_nonsense_is_refused() {
    let world = World::start().await;
    let client = world.client().await.unwrap();
    let denied = client.remove_member(3).await.unwrap_err();
    assert_eq!(denied.cause().code, Some(Code::DENIED), "{denied}");
    let operator = operator(&world).await;
    let mut nonsense = world.addresses(NodeId(1)).unwrap();
    nonsense.id = 4;
    nonsense.peer_address = "no address".to_owned();
    let error = operator.add_member(nonsense, None).await.unwrap_err();
    assert_eq!((error.cause().code, &*error.cause().field), (Some(Code::INVALID), "peer_address"), "{error}");
    assert!(matches!(error, Error::NotApplied(_)), "{error}");
}

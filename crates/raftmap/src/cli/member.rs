//! `raftmap member`: who the members are, and how they change.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use raftmap_client::{Client, Error, MemberAddresses, MembersResponse};
use raftmap_log::FoundingMember;
use raftmap_proto::v1;
use raftmap_proto::v1::member::Role;
use raftmap_raft::NodeId;
use serde_json::{Value, json};

use super::connect::{ConnectArgs, block_on};
use super::exit::{self, Failure};
use super::init::{parse_id, parse_member};
use super::output::{self, aligned};
use super::request::{Connection, Once, Request};

const EXAMPLES: &str = "\
Examples:
  Who they are:
    raftmap member list
  A fourth server comes; on it, `raftmap init --join` and `raftmap serve` before or after:
    raftmap member add 4=host4:7001,host4:7000 --as admin
  It takes the place of server 2, in one change:
    raftmap member replace 2 4=host4:7001,host4:7000 --as admin
  A server goes, alive or dead; and one has another address:
    raftmap member remove 2 --as admin
    raftmap member move 3=new3:7001,new3:7000 --as admin";

/// Show and change the members of the cluster
///
/// A server comes as a learner, which gets the log and does not count, and votes once it has caught up. A change that would
/// lose the quorum is refused. Changes need the certificate of an operator.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Member {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Who the members are, where they answer, and who votes
    List(Once<List>),
    /// Take a server in
    Add(Add),
    /// Let a member go; its id is never used again
    Remove(Remove),
    /// Take a server in and let another go, in one change
    Replace(Replace),
    /// Say where a member is now
    Move(Move),
}

/// Show who the members are, where they answer, and who votes
#[derive(Args)]
pub(crate) struct List {
    /// The same as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Add {
    /// Its id, where the other servers reach it, and where clients reach it
    #[arg(value_name = "ID=HOST:PORT,HOST:PORT", value_parser = parse_member)]
    member: FoundingMember,

    #[command(flatten)]
    wait: Wait,

    #[command(flatten)]
    form: Form,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args)]
struct Remove {
    /// Its id
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: NodeId,

    #[command(flatten)]
    form: Form,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args)]
struct Replace {
    /// Who goes
    #[arg(value_name = "ID", value_parser = parse_id)]
    gone: NodeId,

    /// Who comes: its id, where the other servers reach it, and where clients reach it
    #[arg(value_name = "ID=HOST:PORT,HOST:PORT", value_parser = parse_member)]
    member: FoundingMember,

    #[command(flatten)]
    wait: Wait,

    #[command(flatten)]
    form: Form,

    #[command(flatten)]
    connect: ConnectArgs,
}

#[derive(Args)]
struct Move {
    /// Its id, where the other servers reach it now, and where clients reach it
    #[arg(value_name = "ID=HOST:PORT,HOST:PORT", value_parser = parse_member)]
    member: FoundingMember,

    #[command(flatten)]
    form: Form,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// How it is told what came of a change.
#[derive(Args, Clone, Copy)]
struct Form {
    /// What came of it as JSON
    #[arg(long)]
    json: bool,
}

impl Form {
    fn print(self, text: &str, change: Value) -> Result<(), Failure> {
        if self.json { output::json(&change) } else { output::line(text) }
    }
}

#[derive(Args)]
struct Wait {
    /// End once the server is a learner: it becomes a voter later, by itself
    #[arg(long)]
    no_wait: bool,

    /// How long to wait until the server votes, in seconds
    #[arg(long = "wait", value_name = "SECONDS", default_value_t = 600)]
    seconds: u64,
}

/// How often to look whether a server votes.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// After how long every server that works has heard of a change.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

impl Member {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::List(list) => list.run(),
            Action::Add(Add { member, wait, form, connect }) => {
                block_on(come(&connect, member, None, &wait, form))
            }
            Action::Replace(Replace { gone, member, wait, form, connect }) => {
                block_on(come(&connect, member, Some(gone), &wait, form))
            }
            Action::Remove(Remove { id, form, connect }) => block_on(leave(&connect, id, form)),
            Action::Move(Move { member, form, connect }) => block_on(relocate(&connect, member, form)),
        }
    }
}

impl Request for List {
    const WRITES: bool = false;

    async fn send(self, to: &Connection) -> Result<(), Failure> {
        let members = to.client().await?.members().await.map_err(Failure::of_read)?;
        if self.json {
            let member = |member: &v1::Member| {
                json!({
                    "id": member.id,
                    "role": role(member),
                    "leader": member.leader,
                    "peer_address": member.peer_address,
                    "client_address": member.client_address,
                })
            };
            let list: Vec<_> = members.members.iter().map(member).collect();
            return output::json(&json!({
                "cluster_id": cluster_id(&members),
                "membership_index": members.membership_index,
                "members": list,
            }));
        }
        let head = ["ID", "ROLE", "PEERS", "CLIENTS", ""].map(str::to_owned);
        let row = |member: &v1::Member| {
            let leads = if member.leader { "leader" } else { "" };
            let addresses = [&member.peer_address, &member.client_address].map(|address| match &**address {
                "" => "-".to_owned(),
                address => address.to_owned(),
            });
            let [peers, clients] = addresses;
            [member.id.to_string(), role(member).to_owned(), peers, clients, leads.to_owned()]
        };
        let rows: Vec<_> = std::iter::once(head).chain(members.members.iter().map(row)).collect();
        output::line(aligned(&rows).trim_end())
    }
}

/// The cluster's id in hexadecimal digits, as `raftmap recover` shows it; `None`: the server that was asked does not tell.
fn cluster_id(members: &MembersResponse) -> Option<String> {
    (!members.cluster_id.is_empty()).then(|| HEXLOWER.encode(&members.cluster_id))
}

fn role(member: &v1::Member) -> &'static str {
    match member.role.as_known() {
        Some(Role::VOTER) => "voter",
        Some(Role::LEARNER) => "learner",
        Some(Role::ROLE_UNSPECIFIED) | None => "unknown",
    }
}

fn find(members: &MembersResponse, id: NodeId) -> Option<&v1::Member> {
    members.members.iter().find(|member| member.id == id.0)
}

fn addresses(member: FoundingMember) -> MemberAddresses {
    MemberAddresses {
        id: member.node.0,
        peer_address: member.peer_address,
        client_address: member.client_address,
    }
}

async fn come(
    connect: &ConnectArgs,
    member: FoundingMember,
    replaces: Option<NodeId>,
    wait: &Wait,
    form: Form,
) -> Result<(), Failure> {
    let (id, client) = (member.node, connect.client().await?);
    let before = client.members().await?;
    if let Some(known) = find(&before, id)
        && (&known.peer_address, &known.client_address) != (&member.peer_address, &member.client_address)
    {
        return Err(Failure::Failed(format!(
            "server {id} is a member, at {},{}: `raftmap member move` says where it is now",
            known.peer_address, known.client_address
        )));
    }
    client.add_member(addresses(member), replaces.map(|gone| gone.0)).await?;
    let change = |role| json!({ "id": id.0, "role": role, "replaces": replaces.map(|gone| gone.0) });
    if wait.no_wait {
        let text = format!("server {id} is a learner; it votes once it has caught up");
        return form.print(&text, change("learner"));
    }
    until_it_votes(&client, id, replaces, Duration::from_secs(wait.seconds)).await?;
    let text = match replaces {
        Some(gone) => format!("server {id} votes in the place of server {gone}"),
        None => format!("server {id} votes"),
    };
    form.print(&text, change("voter"))
}

/// Waits until the server votes, and whose place it takes is gone; tells on standard error how far it is. The change is under way
/// whatever comes now: no failure says that it was not applied.
async fn until_it_votes(
    client: &Client,
    id: NodeId,
    replaces: Option<NodeId>,
    patience: Duration,
) -> Result<(), Failure> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let now = match how_far(client, id, replaces).await {
            Ok(HowFar::Votes) => return Ok(()),
            Ok(HowFar::On(now)) => now,
            // Whoever is asked may hear of it a moment later than others.
            Ok(HowFar::NoMember) if began.elapsed() < HEARD_WITHIN => format!("server {id} is a learner"),
            Ok(HowFar::NoMember) => {
                return Err(Failure::OutcomeUnknown(format!("server {id} is no member any more")));
            }
            Err(error) => {
                format!("server {id} was taken in, and nobody says how far it is: {}", error.cause())
            }
        };
        if now != said {
            eprintln!("{now}");
            said = now;
        }
        if began.elapsed() >= patience {
            return Err(Failure::OutcomeUnknown(format!(
                "{said}, after {} s; it votes once it has caught up, and `raftmap member list` shows it",
                patience.as_secs()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What became of a server that was taken in.
enum HowFar {
    /// It votes, and whose place it takes is gone.
    Votes,
    /// It does not yet, in words.
    On(String),
    /// The server that was asked knows nothing of it.
    NoMember,
}

async fn how_far(client: &Client, id: NodeId, replaces: Option<NodeId>) -> Result<HowFar, Error> {
    let members = client.members().await?;
    let Some(member) = find(&members, id) else { return Ok(HowFar::NoMember) };
    if role(member) == "voter" {
        return Ok(match replaces.filter(|gone| find(&members, *gone).is_some()) {
            None => HowFar::Votes,
            Some(gone) => HowFar::On(format!("server {id} votes, and server {gone} is to go")),
        });
    }
    let status = client.status().await?;
    let reached = status.members.iter().find(|status| status.id == id.0 && status.reachable);
    Ok(HowFar::On(match reached {
        None => format!("server {id} is a learner, and the leader does not reach it yet"),
        Some(status) if status.needs_snapshot => format!("server {id} is a learner, and takes a snapshot"),
        Some(status) => format!("server {id} is a learner, {} entries behind", status.lag),
    }))
}

async fn leave(connect: &ConnectArgs, id: NodeId, form: Form) -> Result<(), Failure> {
    connect.client().await?.remove_member(id.0).await?;
    let text = format!("server {id} is no member any more; its id is never used again");
    form.print(&text, json!({ "id": id.0, "role": null }))
}

async fn relocate(connect: &ConnectArgs, member: FoundingMember, form: Form) -> Result<(), Failure> {
    let (id, client) = (member.node, connect.client().await?);
    if find(&client.members().await?, id).is_none() {
        let message = format!("server {id} is no member: `raftmap member add` takes one in");
        return Err(Failure::Failed(message));
    }
    let text = format!(
        "server {id} is at {} for servers, at {} for clients",
        member.peer_address, member.client_address
    );
    let change = json!({
        "id": id.0,
        "peer_address": member.peer_address,
        "client_address": member.client_address,
    });
    client.add_member(addresses(member), None).await?;
    form.print(&text, change)
}

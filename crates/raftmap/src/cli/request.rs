//! Commands that are a request to a cluster. Each can be run by itself, and at the prompt of `raftmap shell`: there it is the same
//! command, on a client that stays.

use clap::Args;
use raftmap_client::Client;
use tokio::sync::OnceCell;

use super::connect::ConnectArgs;
use super::exit::Failure;

/// What a command is asked, but for where.
pub(crate) trait Request: Args {
    /// Whether it may change the map: then nobody knows what came of it if it is broken off.
    const WRITES: bool;

    /// Asks, and prints the answer.
    async fn send(self, to: &Connection) -> Result<(), Failure>;
}

// A request that is a command by itself. (No doc comment: help texts are made of those.)
#[derive(Args)]
pub(crate) struct Once<R: Request> {
    #[command(flatten)]
    connect: ConnectArgs,

    // The last one, so that its description is the command's.
    #[command(flatten)]
    request: R,
}

impl<R: Request> Once<R> {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let connection = Connection::new(self.connect);
        connection.options().block_on(self.request.send(&connection))
    }
}

/// The way to a cluster: how to reach it, and the client, once it was needed.
pub(crate) struct Connection {
    options: ConnectArgs,
    client: OnceCell<Client>,
    is_shell: bool,
}

impl Connection {
    /// For one command, whose standard input may be a value.
    pub(crate) fn new(options: ConnectArgs) -> Self {
        Self { options, client: OnceCell::new(), is_shell: false }
    }

    /// For commands that come on standard input.
    pub(crate) fn of_shell(options: ConnectArgs) -> Self {
        Self { is_shell: true, ..Self::new(options) }
    }

    /// How the cluster is reached.
    pub(crate) fn options(&self) -> &ConnectArgs {
        &self.options
    }

    /// Whether other commands follow: they come on standard input, which has no value then, and what one prints ends its line.
    pub(crate) fn is_shell(&self) -> bool {
        self.is_shell
    }

    /// The client. Whoever needs it first waits until a server has answered.
    pub(crate) async fn client(&self) -> Result<&Client, Failure> {
        self.client.get_or_try_init(|| self.options.client()).await
    }
}

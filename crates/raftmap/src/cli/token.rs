//! `raftmap token`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use raftmap::users;

use super::exit::{self, Failure};
use super::output;

const EXAMPLES: &str = "\
Examples:
  A token for the user till-1, into a file that only its owner may read:
    raftmap token till-1 --out till-1.token
  What it prints goes into the file of users of each server, which takes effect within seconds:
    [roles.shop]
    read = [\"orders/\", \"prices/\"]
    write = [\"orders/\"]
    [users.till-1]
    roles = [\"shop\"]
    tokens = [\"sha256:...\"]
  Then, at the till:
    raftmap put orders/7 tea --endpoints host1:7000,host2:7000,host3:7000 --ca ca.pem --token-file till-1.token";

/// Make a token, by which a user without a certificate shows who it is
///
/// The token is a secret, and kept nowhere: servers are given its hash. Who has it may do what the roles of its user allow, until the
/// hash is taken out of the file.
#[derive(Args)]
#[command(before_help = EXAMPLES, after_help = exit::TABLE)]
pub(crate) struct Token {
    /// The user
    user: String,

    /// Write the token into this new file instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// The same as JSON
    #[arg(long)]
    json: bool,
}

impl Token {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let token = users::Token::generate(&self.user).map_err(|error| Failure::Usage(error.to_string()))?;
        let hash = token.hash().to_string();
        if let Some(path) = &self.out {
            write(path, token.secret_text()).map_err(|error| Failure::io("write", path, &error))?;
        }
        if self.json {
            let mut object = serde_json::json!({ "user": token.name(), "hash": hash });
            if self.out.is_none() {
                object["token"] = token.secret_text().into();
            }
            return output::json(&object);
        }
        if self.out.is_none() {
            output::line(token.secret_text())?;
        }
        output::line(&format!("For [users.{}] in the file of users: tokens = [\"{hash}\"]", token.name()))
    }
}

fn write(path: &Path, token: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{token}\n").as_bytes())?;
    file.sync_all()
}

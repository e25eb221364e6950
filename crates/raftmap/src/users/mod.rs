//! Who may do what with which keys: the file of users and roles.
//!
//! ```toml
//! # What may be done. A role names keys by what they begin with; "" is all of them.
//! [roles.shop]
//! read = ["orders/", "prices/"]
//! write = ["orders/"]
//!
//! [roles.keeper]
//! admin = true                          # changes the cluster, and takes backups: all of the map
//!
//! # Who does it: the holder of one of these tokens, or of a client's certificate of this name.
//! [users.till-1]
//! roles = ["shop"]
//! tokens = ["sha256:9f86d0..."]         # as `raftmap token` prints it
//! ```
//!
//! A prefix that is no text is written as `{ hex = "00ff" }`. The file holds no secrets: a token has 256 random bits, of which
//! only a hash stands in it. Each server has a file of its own and reads it anew when it changes ([`crate::renewed`]): rights
//! are an operator's to give, as certificates are, and not in the map that they guard.
//!
//! Rights count where a request comes in, and nothing else does: what a follower passes on to the leader was allowed by the
//! follower.

mod rights;
mod token;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::Deserialize;
use tokio::sync::watch;

use crate::renewed;
use crate::tls::identity::{NameError, check_name};

pub use rights::{Prefixes, Rights};
pub use token::{NewTokenError, Token, TokenError, TokenHash};

/// The largest file of users, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// The most tokens of one user: enough to replace one while the other is in use, or to give one to each of a few machines.
pub const TOKENS_MAX: usize = 16;

/// The users, and what each may do.
#[derive(Clone, Debug, Default)]
pub struct Users {
    users: BTreeMap<String, User>,
}

#[derive(Clone, Debug)]
struct User {
    rights: Arc<Rights>,
    tokens: Vec<TokenHash>,
}

/// Why a file of users is of no use.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("{}: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// It is larger than [`FILE_BYTES_MAX`].
    #[error("{} has {bytes} bytes, and at most {FILE_BYTES_MAX} are read", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It says what cannot be understood.
    #[error("{}: {fault}", .path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: Fault,
    },
}

/// What is wrong in a file of users.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It holds a token itself. What stands there is not repeated.
    #[error(
        "line {line} holds a token: put its hash there, as `raftmap token` prints it, and give the token to its user alone"
    )]
    TokenItself {
        /// Which line, from 1.
        line: usize,
    },
    /// It is no TOML, or names something that is not there to be set.
    #[error("{0}")]
    Syntax(String),
    /// A user or role has a name that breaks the rules.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A user has a role that the file does not describe.
    #[error("user {user} has the role {role}, and there is no [roles.{role}]")]
    NoSuchRole {
        /// The user.
        user: String,
        /// The role.
        role: String,
    },
    /// A prefix in hex is none.
    #[error("role {role}: {hex:?} is not an even number of hexadecimal digits")]
    Hex {
        /// The role.
        role: String,
        /// As it stands in the file.
        hex: String,
    },
    /// A token is not the hash of one.
    #[error("user {user}: {error}")]
    Token {
        /// The user.
        user: String,
        /// What is wrong with it.
        error: TokenError,
    },
    /// A user has too many tokens.
    #[error("user {user} has {count} tokens, and may have {TOKENS_MAX}")]
    Tokens {
        /// The user.
        user: String,
        /// How many.
        count: usize,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    roles: BTreeMap<String, RoleEntry>,
    #[serde(default)]
    users: BTreeMap<String, UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleEntry {
    #[serde(default)]
    read: Vec<PrefixEntry>,
    #[serde(default)]
    write: Vec<PrefixEntry>,
    #[serde(default)]
    admin: bool,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a prefix is a text, or { hex = \"00ff\" }")]
enum PrefixEntry {
    Text(String),
    Hex(HexEntry),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HexEntry {
    hex: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    roles: Vec<String>,
    #[serde(default)]
    tokens: Vec<String>,
}

impl Users {
    /// Reads `path`.
    ///
    /// # Errors
    /// If it cannot be read, or is not what the module describes.
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        let failed = |error| UsersError::Io { path: path.to_owned(), error };
        let bytes = fs::metadata(path).map_err(failed)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(UsersError::TooLarge { path: path.to_owned(), bytes });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|fault| UsersError::Fault { path: path.to_owned(), fault })
    }

    /// The users in `path` as of now, which follow the file. Needs a tokio runtime.
    ///
    /// # Errors
    /// If what the file holds now is of no use.
    pub fn of_file(path: &Path) -> Result<watch::Receiver<Arc<Self>>, UsersError> {
        let file = path.to_owned();
        renewed::of_files("users", vec![file.clone()], move || Self::load(&file).map(Arc::new))
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// If it is not what the module describes.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if let Some(place) = text.lines().position(|line| line.contains(token::BEGINNING)) {
            return Err(Fault::TokenItself { line: place + 1 });
        }
        let file: File =
            toml::from_str(text).map_err(|error| Fault::Syntax(error.to_string().trim_end().to_owned()))?;
        let mut roles = BTreeMap::new();
        for (name, entry) in file.roles {
            let rights =
                Rights::new(prefixes(&name, entry.read)?, prefixes(&name, entry.write)?, entry.admin);
            roles.insert(check_name(&name)?, rights);
        }
        let mut users = BTreeMap::new();
        for (name, entry) in file.users {
            let user = User::new(&check_name(&name)?, entry, &roles)?;
            users.insert(name, user);
        }
        Ok(Self { users })
    }

    /// What the holder of a client's certificate of this name may do. `None`: no such user.
    pub fn rights_of(&self, name: &str) -> Option<&Arc<Rights>> {
        self.users.get(name).map(|user| &user.rights)
    }

    /// What the holder of a token may do. `None`: it is nobody's. How long this takes tells a stranger who is a user at most,
    /// and nothing of a token.
    pub fn rights_of_token(&self, name: &str, hash: &TokenHash) -> Option<&Arc<Rights>> {
        let user = self.users.get(name)?;
        // All of them are compared, whichever it is.
        let matching = user.tokens.iter().filter(|token| token.is(hash)).count();
        (matching > 0).then_some(&user.rights)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.users.len()
    }
}

impl User {
    fn new(name: &str, entry: UserEntry, roles: &BTreeMap<String, Rights>) -> Result<Self, Fault> {
        let mut rights = Rights::none();
        for role in entry.roles {
            let Some(more) = roles.get(&role) else {
                return Err(Fault::NoSuchRole { user: name.to_owned(), role });
            };
            rights = rights.and(more);
        }
        let count = entry.tokens.len();
        if count > TOKENS_MAX {
            return Err(Fault::Tokens { user: name.to_owned(), count });
        }
        let hash = |text: String| text.parse().map_err(|error| Fault::Token { user: name.to_owned(), error });
        let tokens = entry.tokens.into_iter().map(hash).collect::<Result<_, _>>()?;
        Ok(Self { rights: Arc::new(rights), tokens })
    }
}

fn prefixes(role: &str, entries: Vec<PrefixEntry>) -> Result<Prefixes, Fault> {
    let prefix = |entry| match entry {
        PrefixEntry::Text(text) => Ok(Bytes::from(text)),
        PrefixEntry::Hex(HexEntry { hex }) => match HEXLOWER_PERMISSIVE.decode(hex.as_bytes()) {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(_) => Err(Fault::Hex { role: role.to_owned(), hex }),
        },
    };
    entries.into_iter().map(prefix).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> String {
        Users::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_user_has_what_all_of_its_roles_allow() {
        let token = Token::generate("till-1").unwrap();
        let users = Users::parse(&format!(
            "[roles.shop]\nread = [\"orders/\", \"prices/\"]\nwrite = [\"orders/\"]\n\
             [roles.counters]\nwrite = [{{ hex = \"00fF\" }}]\n\
             [users.till-1]\nroles = [\"shop\", \"counters\"]\ntokens = [\"{}\"]\n\
             [users.nobody]\nroles = []\n",
            token.hash()
        ))
        .unwrap();
        assert_eq!(users.count(), 2);
        let rights = users.rights_of("till-1").unwrap();
        assert!(rights.read().contains(b"prices/7"));
        assert!(!rights.write().contains(b"prices/7"));
        assert!(rights.write().contains(&[0, 0xff, 3]));
        assert!(!rights.admin());
        assert_eq!(users.rights_of_token("till-1", &token.hash()), Some(rights));
        assert_eq!(users.rights_of_token("nobody", &token.hash()), None);
        assert_eq!(users.rights_of_token("till-1", &Token::generate("till-1").unwrap().hash()), None);
        assert!(!users.rights_of("nobody").unwrap().read().contains(b"x"));
        assert!(users.rights_of("stranger").is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(fault("[users.a]\nroles = [\"x\"]").contains("no [roles.x]"));
        assert!(fault("[users.a]\nrole = [\"x\"]").contains("role"));
        assert!(fault("[user.a]\nroles = []").contains("unknown field `user`"));
        assert!(fault("[users.\"a b\"]\nroles = []").contains("\"a b\" is no name"));
        assert!(fault("[roles.r]\nread = [{ hex = \"0\" }]").contains("even number"));
        assert!(fault("[roles.r]\nread = [7]").contains("a prefix is a text"));
        assert!(fault("[users.a]\nroles = []\ntokens = [\"secret\"]").contains("sha256:"));
        let many = vec!["\"x\""; 17].join(",");
        assert!(fault(&format!("[users.a]\nroles = []\ntokens = [{many}]")).contains("has 17 tokens"));
    }

    #[test]
    fn a_token_that_stands_there_itself_is_not_repeated() {
        let token = Token::generate("a").unwrap();
        let told = fault(&format!("[users.a]\nroles = []\ntokens = \"{}\"", token.secret_text()));
        assert!(told.contains("line 3") && !told.contains(token.secret_text()), "{told}");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(Users::load(file.path()), Err(UsersError::TooLarge { .. })));
    }
}

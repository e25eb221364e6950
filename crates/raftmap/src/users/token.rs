//! Tokens: what a user without a certificate shows.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, rand};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::tls::identity::{NameError, check_name};

const SCHEME: &str = "raftmap";

/// How each token begins, so that one that got into a repository or a log can be found.
pub(super) const BEGINNING: &str = "raftmap~";

/// Between its parts: allowed in the header that carries it, and in no name.
const BETWEEN: char = '~';

const SECRET_BYTES: usize = 32;

const HASH_SCHEME: &str = "sha256:";

const HASH_BYTES: usize = 32;

/// A secret that names its user: `raftmap~NAME~SECRET`, the secret being 256 random bits. It is nowhere stored and nowhere logged.
#[derive(Clone)]
pub struct Token {
    name: String,
    text: String,
}

/// What a server knows of a token: its SHA-256, written as `sha256:` and 64 hexadecimal digits. That nobody can guess the token
/// from it takes no slow function, since a token is random.
#[derive(Clone)]
pub struct TokenHash([u8; HASH_BYTES]);

/// Why something is no token, or not the hash of one. What was given is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("a token has the form raftmap~NAME~SECRET, as `raftmap token` prints it")]
    Form,
    /// It is not the hash of one.
    #[error("a token stands here as sha256: and 64 hexadecimal digits, as `raftmap token` prints it")]
    HashForm,
    /// The operating system gives no randomness.
    #[error("there is no randomness to be had")]
    NoRandomness,
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// If `name` is no name, or there is no randomness.
    pub fn generate(name: &str) -> Result<Self, NewTokenError> {
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret).map_err(|_| TokenError::NoRandomness)?;
        let name = check_name(name)?;
        let text = format!("{SCHEME}{BETWEEN}{name}{BETWEEN}{}", BASE64URL_NOPAD.encode(&secret));
        Ok(Self { name, text })
    }

    /// Whose it claims to be.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The token itself.
    pub fn secret_text(&self) -> &str {
        &self.text
    }

    /// What a server is to know of it.
    pub fn hash(&self) -> TokenHash {
        let digest = digest::digest(&digest::SHA256, self.text.as_bytes());
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(digest.as_ref());
        TokenHash(hash)
    }
}

/// Why there is no new token.
#[derive(Debug, thiserror::Error)]
pub enum NewTokenError {
    /// Its user's name breaks the rules.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It cannot be made.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.split(BETWEEN);
        let (Some(SCHEME), Some(name), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Form);
        };
        let secret = BASE64URL_NOPAD.decode(secret.as_bytes()).map_err(|_| TokenError::Form)?;
        if secret.len() != SECRET_BYTES {
            return Err(TokenError::Form);
        }
        let name = check_name(name).map_err(|_| TokenError::Form)?;
        Ok(Self { name, text: text.to_owned() })
    }
}

/// Its user, and nothing of its secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.name)
    }
}

impl TokenHash {
    /// Whether both are of the same token. Takes as long whether they are or not.
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl FromStr for TokenHash {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix(HASH_SCHEME).ok_or(TokenError::HashForm)?;
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| TokenError::HashForm)?;
        bytes.try_into().map(Self).map_err(|_| TokenError::HashForm)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HASH_SCHEME}{}", HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_its_hash_its_own() {
        let token = Token::generate("till-1").unwrap();
        let again: Token = token.secret_text().parse().unwrap();
        assert_eq!(again.name(), "till-1");
        assert!(again.hash().is(&token.hash()));
        let hash: TokenHash = token.hash().to_string().parse().unwrap();
        assert!(hash.is(&token.hash()));
        assert!(!hash.is(&Token::generate("till-1").unwrap().hash()));
    }

    #[test]
    fn what_is_shown_to_people_tells_no_secret() {
        let token = Token::generate("till-1").unwrap();
        assert_eq!(format!("{token:?} {:?}", token.hash()), "Token(till-1) TokenHash");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let token = Token::generate("a").unwrap();
        let secret = token.secret_text().rsplit_once('~').unwrap().1.to_owned();
        for text in [
            String::new(),
            secret.clone(),
            format!("raftmap~a~{secret}~"),
            format!("raftmap~~{secret}"),
            format!("raftmap~a b~{secret}"),
            format!("Raftmap~a~{secret}"),
            // A secret that somebody thought of.
            "raftmap~a~correct-horse-battery-staple".to_owned(),
            format!("raftmap~a~{}", &secret[1..]),
            format!("raftmap~a~{secret}AAAA"),
        ] {
            assert_eq!(text.parse::<Token>().unwrap_err(), TokenError::Form, "{text}");
        }
        for text in ["", "sha256:", "sha256:00", "md5:00"] {
            assert_eq!(text.parse::<TokenHash>().unwrap_err(), TokenError::HashForm, "{text}");
        }
        assert!(matches!(Token::generate("a~b"), Err(NewTokenError::Name(_))));
    }
}

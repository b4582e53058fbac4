//! Tokens: what somebody who has no certificate yet needs to get one, as text to be copied by people.
//!
//! `tsfs-` and base64 (the alphabet for addresses) of: version 1 · fingerprint of the authority 32 · secret 32 · when it
//! ends, in seconds since 1970, 8 · how many addresses 1 · each as its length 1 and its bytes · CRC-32C of all before 4.
//! Numbers are little-endian. Not here: which tokens are good, which the store knows.

use super::credentials::Fingerprint;
use super::credentials::date;
use super::error::NetError;
use crate::env;
use crate::types::Stamp;
use data_encoding::BASE64URL_NOPAD;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const PREFIX: &str = "tsfs-";
const VERSION: u8 = 1;
/// Addresses in a token, at most: one that answers is enough.
pub const ADDRESSES_MAX: usize = 16;

/// Proves once, to the cluster that made it, that its bearer may join.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// By which the bearer knows the cluster.
    pub authority: Fingerprint,
    secret: [u8; 32],
    /// To the second.
    pub expires: Stamp,
    /// Of nodes.
    pub addresses: Vec<String>,
}

impl fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token for {:?} at {:?}", self.authority, self.addresses)
    }
}

impl Token {
    /// # Errors
    /// `Local`: no address, too many, or one too long.
    pub fn make(
        authority: Fingerprint,
        addresses: Vec<String>,
        now: Stamp,
        valid: Duration,
    ) -> Result<Token, NetError> {
        let fits = |address: &String| (1..=255).contains(&address.len());
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX || !addresses.iter().all(fits) {
            let why = format!("a token has 1 to {ADDRESSES_MAX} addresses of at most 255 bytes");
            return Err(NetError::Local(why));
        }
        let seconds = (now.0 / 1_000_000_000).saturating_add(valid.as_secs());
        let expires = Stamp(seconds.saturating_mul(1_000_000_000));
        Ok(Token { authority, secret: env::random(), expires, addresses })
    }

    /// What the store keeps of it, from which nobody can make it again.
    pub fn digest(&self) -> [u8; 32] {
        Token::digest_of(&self.secret)
    }

    /// The same of a secret that somebody showed.
    pub fn digest_of(secret: &[u8]) -> [u8; 32] {
        Fingerprint::of(secret).0
    }

    /// What its bearer shows.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    pub fn is_expired(&self, now: Stamp) -> bool {
        self.expires < now
    }

    /// # Errors
    /// `Unproven`, with when it ended.
    pub fn check(&self, now: Stamp) -> Result<(), NetError> {
        if !self.is_expired(now) {
            return Ok(());
        }
        let ended = date(self.expires);
        Err(NetError::Unproven(format!(
            "the token ended on {ended}: make a new one with 'tsfs cluster invite'"
        )))
    }
}

impl fmt::Display for Token {
    /// All of it: whoever reads it may use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.authority.0);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&(self.expires.0 / 1_000_000_000).to_le_bytes());
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address.as_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        write!(f, "{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Token, NetError> {
        let wrong = |what: &str| NetError::Unproven(format!("this is no token of tsfs: {what}"));
        let cut = || wrong("a part is missing: copy all of it");
        let text = text.trim();
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| wrong("one begins with 'tsfs-'"))?;
        let bytes = BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| cut())?;
        if let Some(version) = bytes.first().filter(|version| **version != VERSION) {
            let what = format!("version {version}, this program reads {VERSION}: update tsfs");
            return Err(wrong(&what));
        }
        let (all, checksum) = bytes.split_last_chunk().ok_or_else(cut)?;
        if crc32c::crc32c(all) != u32::from_le_bytes(*checksum) {
            return Err(cut());
        }
        read(&all[1..]).ok_or_else(|| wrong("it has not the right form"))
    }
}

/// What follows the version.
fn read(bytes: &[u8]) -> Option<Token> {
    let (authority, bytes) = bytes.split_first_chunk()?;
    let (secret, bytes) = bytes.split_first_chunk()?;
    let (seconds, bytes) = bytes.split_first_chunk()?;
    let (&count, mut bytes) = bytes.split_first()?;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let (&length, rest) = bytes.split_first()?;
        let (address, rest) = rest.split_at_checked(usize::from(length))?;
        addresses.push(String::from_utf8(address.to_vec()).ok()?);
        bytes = rest;
    }
    let expires = Stamp(u64::from_le_bytes(*seconds).saturating_mul(1_000_000_000));
    let whole = bytes.is_empty() && (1..=ADDRESSES_MAX).contains(&addresses.len());
    whole.then_some(Token {
        authority: Fingerprint(*authority),
        secret: *secret,
        expires,
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Stamp = Stamp(1_800_000_000_000_000_000);

    fn token() -> Token {
        let addresses = vec!["n1.example.org:7000".to_owned(), "[2001:db8::1]:7000".to_owned()];
        Token::make(Fingerprint([7; 32]), addresses, NOW, Duration::from_secs(3600)).unwrap()
    }

    #[test]
    fn a_token_comes_back_from_its_text() {
        let token = token();
        let text = format!("  {token}\n");
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(Token::digest_of(token.secret()), token.digest());
        assert!(!format!("{token:?}").contains(&format!("{:?}", token.secret())));
        assert!(token.check(NOW).is_ok());
        let late = token.check(Stamp(NOW.0 + 3_601_000_000_000)).unwrap_err();
        assert!(late.to_string().contains("2027-01-15"), "{late}");
    }

    #[test]
    fn what_was_not_copied_whole_is_told() {
        let text = token().to_string();
        for wrong in [&text[..text.len() - 3], &text[5..], &text.to_lowercase(), "tsfs-", ""] {
            let error = wrong.parse::<Token>().unwrap_err().to_string();
            assert!(error.starts_with("this is no token of tsfs: "), "{error}");
        }
        let newer = format!("tsfs-{}", BASE64URL_NOPAD.encode(&[2; 90]));
        let error = newer.parse::<Token>().unwrap_err().to_string();
        assert!(error.contains("version 2"), "{error}");
    }

    #[test]
    fn a_token_without_an_address_leads_nowhere() {
        let make = |addresses| Token::make(Fingerprint([7; 32]), addresses, NOW, Duration::ZERO);
        assert!(make(Vec::new()).is_err());
        assert!(make(vec!["x".repeat(256)]).is_err());
        assert!(make(vec!["x".to_owned(); ADDRESSES_MAX + 1]).is_err());
    }
}

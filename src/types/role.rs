//! What a node does for its cluster: a set of roles.

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// One thing that a node does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Keeps the log and the table, and gives out stamps.
    Ts,
    /// Keeps blocks.
    Data,
    /// Keeps sessions, grants and locks.
    Lock,
    /// Watches the others, and decides what is repaired.
    Monitor,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Ts, Role::Data, Role::Lock, Role::Monitor];

    pub fn name(self) -> &'static str {
        match self {
            Role::Ts => "ts",
            Role::Data => "data",
            Role::Lock => "lock",
            Role::Monitor => "monitor",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// At least one role. Stored as a byte: 1 ts, 2 data, 4 lock, 8 monitor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Roles(u8);

impl Roles {
    pub const ALL: Roles = Roles(0b1111);

    /// `None` for none of them, and for bits that stand for nothing.
    fn from_bits(bits: u8) -> Option<Roles> {
        (bits != 0 && bits & !Roles::ALL.0 == 0).then_some(Roles(bits))
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl<'de> Deserialize<'de> for Roles {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Roles, D::Error> {
        let bits = u8::deserialize(from)?;
        Roles::from_bits(bits).ok_or_else(|| serde::de::Error::custom("no roles of a node"))
    }
}

impl FromStr for Roles {
    type Err = String;

    /// From names with commas between them.
    fn from_str(text: &str) -> Result<Roles, String> {
        let mut bits = 0;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let role = Role::ALL.into_iter().find(|role| role.name() == word);
            let role = role.ok_or_else(|| {
                let known = Role::ALL.map(Role::name).join(", ");
                format!("'{word}' is no role; there are {known}")
            })?;
            bits |= role.bit();
        }
        Roles::from_bits(bits).ok_or_else(|| "a node has at least one role".to_owned())
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iter().map(Role::name).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_back_and_refuse() {
        for text in ["ts,data,lock,monitor", "data", "ts,monitor"] {
            let roles: Roles = text.parse().expect("these are roles");
            assert_eq!(roles.to_string(), text);
            let bytes = postcard::to_stdvec(&roles).expect("a byte");
            assert_eq!(postcard::from_bytes(&bytes), Ok(roles));
        }
        assert_eq!(
            " lock , ts".parse::<Roles>().map(|roles| roles.to_string()),
            Ok("ts,lock".into())
        );
        for (text, why) in [("", "at least one"), ("ts,date", "'date' is no role")] {
            let error = text.parse::<Roles>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for bits in [0u8, 16, 255] {
            assert!(postcard::from_bytes::<Roles>(&[bits]).is_err(), "{bits}");
        }
    }
}

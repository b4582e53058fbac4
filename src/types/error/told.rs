//! An error as it is sent between machines and kept in rows: a number, a text, and what belongs to some of them.
//!
//! Numbers are only ever added. One that a program does not know becomes `Io` with its text: it still says what happened.

use crate::types::FsError;
use crate::types::NodeId;
use crate::types::Stamp;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Different texts of fixed errors that are kept; a peer that sends more of them is not one of ours.
const TEXTS_MAX: usize = 1024;

/// `docs/format.md` has the numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    code: u8,
    text: String,
    numbers: (u64, u64),
}

impl Serialize for FsError {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Told::from(self.clone()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for FsError {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FsError, D::Error> {
        Told::deserialize(from).map(FsError::from)
    }
}

impl From<FsError> for Told {
    fn from(error: FsError) -> Told {
        let (code, text, numbers) = match error {
            FsError::NotFound => (1, String::new(), (0, 0)),
            FsError::Exists => (2, String::new(), (0, 0)),
            FsError::NotDirectory => (3, String::new(), (0, 0)),
            FsError::IsDirectory => (4, String::new(), (0, 0)),
            FsError::NotEmpty => (5, String::new(), (0, 0)),
            FsError::NameTooLong => (6, String::new(), (0, 0)),
            FsError::LinkTooLong => (7, String::new(), (0, 0)),
            FsError::TooManyLinks => (8, String::new(), (0, 0)),
            FsError::FileTooBig => (9, String::new(), (0, 0)),
            FsError::Invalid(text) => (10, text.to_owned(), (0, 0)),
            FsError::NotPermitted(text) => (11, text.to_owned(), (0, 0)),
            FsError::Denied => (12, String::new(), (0, 0)),
            FsError::ReadOnly => (13, String::new(), (0, 0)),
            FsError::NoAttribute => (14, String::new(), (0, 0)),
            FsError::AttributeTooBig(text) => (15, text.to_owned(), (0, 0)),
            FsError::BufferTooSmall => (16, String::new(), (0, 0)),
            FsError::NoSpace => (17, String::new(), (0, 0)),
            FsError::NotSupported(text) => (18, text.to_owned(), (0, 0)),
            FsError::BadHandle => (19, String::new(), (0, 0)),
            FsError::Stale => (20, String::new(), (0, 0)),
            FsError::NoData => (21, String::new(), (0, 0)),
            FsError::BeforeHorizon { asked, oldest } => (22, String::new(), (asked.0, oldest.0)),
            FsError::BadInstant(text) => (23, text, (0, 0)),
            FsError::Refused(text) => (24, text, (0, 0)),
            FsError::Fenced => (25, String::new(), (0, 0)),
            FsError::Closing => (26, String::new(), (0, 0)),
            FsError::Lost(text) => (27, text, (0, 0)),
            FsError::Damaged(text) => (28, text, (0, 0)),
            FsError::Io(text) => (29, text, (0, 0)),
            FsError::NotLeader { leader } => {
                (30, String::new(), (leader.map_or(0, |node| node.0), 0))
            }
            FsError::Unreachable(text) => (31, text, (0, 0)),
            FsError::Locked => (32, String::new(), (0, 0)),
            FsError::NoLocks => (33, String::new(), (0, 0)),
            FsError::Deadlock => (34, String::new(), (0, 0)),
            FsError::Interrupted => (35, String::new(), (0, 0)),
        };
        Told { code, text, numbers }
    }
}

impl From<Told> for FsError {
    fn from(told: Told) -> FsError {
        let Told { code, text, numbers } = told;
        match code {
            1 => FsError::NotFound,
            2 => FsError::Exists,
            3 => FsError::NotDirectory,
            4 => FsError::IsDirectory,
            5 => FsError::NotEmpty,
            6 => FsError::NameTooLong,
            7 => FsError::LinkTooLong,
            8 => FsError::TooManyLinks,
            9 => FsError::FileTooBig,
            10 => FsError::Invalid(kept(text)),
            11 => FsError::NotPermitted(kept(text)),
            12 => FsError::Denied,
            13 => FsError::ReadOnly,
            14 => FsError::NoAttribute,
            15 => FsError::AttributeTooBig(kept(text)),
            16 => FsError::BufferTooSmall,
            17 => FsError::NoSpace,
            18 => FsError::NotSupported(kept(text)),
            19 => FsError::BadHandle,
            20 => FsError::Stale,
            21 => FsError::NoData,
            22 => FsError::BeforeHorizon { asked: Stamp(numbers.0), oldest: Stamp(numbers.1) },
            23 => FsError::BadInstant(text),
            24 => FsError::Refused(text),
            25 => FsError::Fenced,
            26 => FsError::Closing,
            27 => FsError::Lost(text),
            28 => FsError::Damaged(text),
            30 => FsError::NotLeader { leader: (numbers.0 != 0).then_some(NodeId(numbers.0)) },
            31 => FsError::Unreachable(text),
            32 => FsError::Locked,
            33 => FsError::NoLocks,
            34 => FsError::Deadlock,
            35 => FsError::Interrupted,
            29 => FsError::Io(text),
            _ => FsError::Io(format!("error {code} of a newer tsfs: {text}")),
        }
    }
}

/// The same text for as long as the program runs: errors made here have fixed ones. Each text is kept once, and no more of
/// them than our own programs have.
fn kept(text: String) -> &'static str {
    static TEXTS: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let texts = texts.get_or_insert_default();
    if let Some(known) = texts.get(text.as_str()) {
        return known;
    }
    if texts.len() >= TEXTS_MAX {
        return "refused, with one reason too many to remember";
    }
    let text: &'static str = Box::leak(text.into_boxed_str());
    texts.insert(text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_back_and_unknown_ones_say_what_they_said() {
        let errors = [
            FsError::NotFound,
            FsError::Invalid("a reason"),
            FsError::NotPermitted("another"),
            FsError::BeforeHorizon { asked: Stamp(3), oldest: Stamp(9) },
            FsError::Refused("text".to_owned()),
            FsError::NotLeader { leader: None },
            FsError::NotLeader { leader: Some(NodeId(3)) },
            FsError::Unreachable("nobody".to_owned()),
            FsError::Locked,
        ];
        for error in errors {
            let bytes = postcard::to_stdvec(&error).expect("errors have bytes");
            assert_eq!(postcard::from_bytes::<FsError>(&bytes), Ok(error));
        }
        let every = (1..=35).map(|code| Told { code, text: "x".to_owned(), numbers: (1, 2) });
        for told in every {
            assert_eq!(Told::from(FsError::from(told.clone())).code, told.code);
        }
        let newer = Told { code: 200, text: "what".to_owned(), numbers: (0, 0) };
        assert_eq!(FsError::from(newer), FsError::Io("error 200 of a newer tsfs: what".into()));
    }
}

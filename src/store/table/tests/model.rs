//! The versioned map as simply as it can be written: the whole state, once for every stamp.

use crate::series::Groups;
use crate::series::Past;
use crate::types::Stamp;
use std::collections::BTreeMap;

pub(super) type Key = Vec<u8>;
pub(super) type State = BTreeMap<Key, Vec<u8>>;

/// Keys of the model begin with `D` and a group of one byte, or with anything else and have none.
pub(super) fn groups() -> Groups {
    Groups { prefix: |key| (key.first() == Some(&b'D') && key.len() >= 2).then_some(2) }
}

#[derive(Default)]
pub(super) struct Model {
    /// What each stamp shows. The last one is the present step's.
    pub states: BTreeMap<Stamp, State>,
    /// Since when the present value of a key holds.
    since: BTreeMap<Key, Stamp>,
    /// What the present step ended: when it began, and what it was.
    ended: BTreeMap<Key, (Stamp, Vec<u8>)>,
}

impl Model {
    pub(super) fn now(&self) -> State {
        self.states.last_key_value().map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// Begins the step of this stamp.
    pub(super) fn step(&mut self, stamp: Stamp) {
        let now = self.now();
        self.states.insert(stamp, now);
        self.ended.clear();
    }

    pub(super) fn change(&mut self, key: &Key, value: Option<&Vec<u8>>, past: Past) {
        let stamp = *self.states.last_key_value().unwrap().0;
        let former = self.states[&stamp].get(key).cloned();
        let since = self.since.get(key).copied();
        let from = match (past, &former, since) {
            (Past::Keep, Some(former), _) if Some(former) == value => return,
            (Past::Forget, Some(_), Some(since)) => since,
            (_, Some(former), Some(since)) if since < stamp => {
                self.ended.insert(key.clone(), (since, former.clone()));
                stamp
            }
            _ => stamp,
        };
        let from = match self.ended.get(key) {
            Some((since, former)) if from == stamp && Some(former) == value => {
                let since = *since;
                self.ended.remove(key);
                since
            }
            _ => from,
        };
        self.show(key, from, Stamp::MAX, value);
        match value {
            Some(_) => self.since.insert(key.clone(), from),
            None => self.since.remove(key),
        };
    }

    /// Lets the key show `value` during `[from, to)`.
    pub(super) fn show(&mut self, key: &Key, from: Stamp, to: Stamp, value: Option<&Vec<u8>>) {
        for (_, state) in self.states.range_mut(from..to) {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
    }

    /// What the key showed at each stamp, oldest first, with equal neighbours as one.
    pub(super) fn runs(&self, key: &[u8]) -> Vec<(Stamp, Option<Vec<u8>>)> {
        let mut runs = vec![(Stamp::ZERO, None)];
        for (stamp, state) in &self.states {
            let value = state.get(key).cloned();
            if runs.last().unwrap().1 != value {
                runs.push((*stamp, value));
            }
        }
        runs
    }
}

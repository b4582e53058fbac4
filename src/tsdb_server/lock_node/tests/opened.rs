//! Sessions that are asked for again, as the answer was lost.

use super::*;
use crate::env;

/// What is begun, for the first time.
pub(super) fn begin(world: &World, name: &str) -> (SessionId, Option<Whole>) {
    let opening = u64::from_le_bytes(env::random());
    let (welcome, _) = world.locks.open_session(name, opening).unwrap();
    (welcome.session, welcome.whole)
}

#[test]
fn who_asks_again_for_a_session_is_told_of_the_one_that_he_began() {
    let world = World::new();
    let open = |opening| world.locks.open_session("one", opening).unwrap().0;
    let first = open(7);
    let again = open(7);
    assert_eq!((again.session, again.epoch), (first.session, first.epoch));
    assert!(first.whole.is_some() && again.whole == first.whole, "it is alone");
    let other = open(8);
    assert_ne!(other.session, first.session, "another mount of the same name");
    assert_eq!(world.locks.clients().unwrap().len(), 2);
    // One that has ended since is not told of.
    world.node.administer(Op::EndSession { session: first.session }).unwrap();
    let after = open(7);
    assert!(![first.session, other.session].contains(&after.session));
    assert_eq!(open(7).session, after.session);
}

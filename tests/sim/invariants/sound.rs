//! The rows of a member break no rule: the tree hangs together, each inode has one owner, locks bar nobody's, every block that
//! a row names is there and counted, every version can be read.

use crate::member::Member;
use tsfs::meta;
use tsfs::meta::key;
use tsfs::series;
use tsfs::types::Stamp;

pub(crate) fn check(member: &Member) {
    if member.progress().stamp == Stamp::ZERO {
        return;
    }
    let mut faults = Vec::new();
    series::check::check(&*member.table, key::GROUPS, &mut |_, _| {}, &mut |fault| {
        faults.push(fault.to_string());
    })
    .unwrap();
    meta::check::check(&*member.table, &mut |_, _| {}, &mut |fault| faults.push(fault.to_string()))
        .unwrap();
    let at = member.progress().index.0;
    assert!(faults.is_empty(), "node {} at entry {at}:\n{}", member.node.0, faults.join("\n"));
}

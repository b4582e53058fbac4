//! Keys come back, refuse what is none, sort as their parts do, and none begins another.

use super::*;
use crate::types::NodeId;

fn ino(raw: u64) -> Ino {
    Ino::new(raw).expect("tests use numbers above zero")
}

/// Keys of every kind, in the order their bytes must have.
fn sorted() -> Vec<Key> {
    let dirent =
        |dir, hash, name: &str| Key::Dirent { dir: ino(dir), hash, name: name.as_bytes().to_vec() };
    let extents = |i, generation, region| Key::Extents {
        ino: ino(i),
        generation: Generation(generation),
        region: Region(region),
    };
    let xattr = |i, name: &str| Key::Xattr { ino: ino(i), name: name.as_bytes().to_vec() };
    vec![
        dirent(1, 16, "a"),
        dirent(1, 16, "ab"),
        dirent(1, 16, "b"),
        dirent(1, 17, "a"),
        dirent(1, i64::MAX as u64, "\u{1}"),
        dirent(2, 16, "a"),
        dirent(256, 16, "a"),
        extents(1, 0, 0),
        extents(1, 0, 1),
        extents(1, 0, u32::MAX),
        extents(1, 1, 0),
        extents(2, 0, 0),
        Key::Inode { ino: ino(1) },
        Key::Inode { ino: ino(2) },
        Key::Inode { ino: ino(u64::MAX) },
        xattr(1, "user.a"),
        xattr(1, "user.ab"),
        xattr(2, "user.a"),
    ]
}

fn states() -> Vec<StateKey> {
    let (session, stamp, name) = (SessionId(7), Stamp(9), b"monday".to_vec());
    vec![
        StateKey::Store,
        StateKey::Next,
        StateKey::Grant,
        StateKey::Shared { epoch: 7, ino: Ino::ROOT },
        StateKey::Range { last: ino(9) },
        StateKey::RangeOf { session, last: ino(9) },
        StateKey::Session { session },
        StateKey::Orphan { session, ino: ino(5) },
        StateKey::Lives { block: BlockId { session, number: 3 } },
        StateKey::Mark { name: name.clone() },
        StateKey::MarkAt { stamp, name },
        StateKey::Retention,
        StateKey::Horizon,
        StateKey::Sweep(Sweep::Extents { ino: ino(5), generation: Generation(2) }),
        StateKey::Sweep(Sweep::Xattrs { ino: ino(5) }),
        StateKey::Kept { mark: stamp, from: Stamp(3), key: inode(ino(5)).to_vec() },
        StateKey::Unmarked { mark: stamp },
        StateKey::Totals,
        StateKey::Locks { ino: ino(5), session: SessionId(4) },
        StateKey::LocksOf { session: SessionId(4), ino: ino(5) },
        StateKey::Cluster(ClusterKey::NextNode),
        StateKey::Cluster(ClusterKey::Authority),
        StateKey::Cluster(ClusterKey::Invite { digest: [7; 32] }),
        StateKey::Cluster(ClusterKey::Node { node: NodeId(3) }),
        StateKey::Cluster(ClusterKey::Placement),
    ]
}

#[test]
fn keys_come_back() {
    for key in sorted() {
        assert_eq!(Key::decode(&key.encode()).as_ref(), Some(&key));
    }
    for key in states() {
        assert_eq!(StateKey::decode(&key.encode()), Some(key));
    }
}

#[test]
fn keys_sort_as_their_parts_do() {
    let keys: Vec<Vec<u8>> = sorted().iter().map(|key| key.encode().to_vec()).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert!(sorted().is_sorted());
}

#[test]
fn no_key_begins_another() {
    let keys: Vec<Vec<u8>> = sorted().iter().map(|key| key.encode().to_vec()).collect();
    for (a, b) in keys.iter().zip(&keys[1..]) {
        assert!(!b.starts_with(a), "{a:?} begins {b:?}");
    }
    let kinds: std::collections::HashSet<u8> = states().iter().map(|key| key.encode()[0]).collect();
    let shared = 1 + 4;
    assert_eq!(
        kinds.len(),
        states().len() - shared,
        "each kind has its own letter; the sweeps share one, and so do the rows of the cluster"
    );
}

#[test]
fn what_is_no_key_is_refused() {
    for key in sorted() {
        let bytes = key.encode();
        for cut in 0..bytes.len() {
            assert_eq!(Key::decode(&bytes[..cut]), None, "{key:?} cut at {cut}");
        }
        assert_eq!(Key::decode(&[&bytes[..], b"x"].concat()), None, "{key:?} with a tail");
    }
    for key in states() {
        let bytes = key.encode();
        assert_eq!(StateKey::decode(&[&bytes[..], &[1]].concat()), None, "{key:?} with a tail");
        assert_eq!(StateKey::decode(&bytes[..bytes.len() - 1]), None, "{key:?} cut");
    }
    assert_eq!(Key::decode(&[b'I', 0, 0, 0, 0, 0, 0, 0, 0]), None, "inode zero");
    assert_eq!(Key::decode(&dirent(ino(1), 15, b"a")), None, "a hash that is a reserved cookie");
    assert_eq!(Key::decode(&dirent(ino(1), 50, b"a\0b")), None, "a zero in a name");
    assert_eq!(Key::decode(&dirent(ino(1), 50, b"")), None, "an empty name");
}

#[test]
fn the_longest_key_fits() {
    let name = [0xff; NAME_BYTES_MAX];
    assert_eq!(dirent(ino(1), 3, &name).len(), KEY_BYTES_MAX);
}

#[test]
fn ranges_hold_exactly_their_rows() {
    let keys: Vec<Vec<u8>> = sorted().iter().map(|key| key.encode().to_vec()).collect();
    let inside = |range: KeyRange| keys.iter().filter(|key| range.contains(key)).count();
    assert_eq!(inside(dirents(ino(1), 0)), 5);
    assert_eq!(inside(dirents(ino(1), 15)), 5);
    assert_eq!(inside(dirents(ino(1), 16)), 2);
    assert_eq!(inside(dirents(ino(1), i64::MAX as u64)), 0);
    assert_eq!(inside(dirents(ino(1), u64::MAX)), 0);
    assert_eq!(inside(extents_from(ino(1), Generation(0), Region(0))), 3);
    assert_eq!(inside(extents_from(ino(1), Generation(0), Region(1))), 2);
    assert_eq!(inside(xattrs(ino(1))), 2);
    assert_eq!(inside(inodes()), 3);
    assert_eq!(inside(all_dirents()) + inside(all_extents()) + inside(all_xattrs()), 15);
}

#[test]
fn hashes_are_cookies() {
    let hash = NameHash::new(*b"0123456789abcdef");
    for n in 0..10_000u32 {
        let cookie = hash.of(&n.to_be_bytes());
        assert!((HASH_MIN..=i64::MAX as u64).contains(&cookie));
    }
    assert_ne!(hash.of(b"a"), NameHash::new([0; 16]).of(b"a"), "the key decides");
}

#[test]
fn clients_may_not_read_what_makes_certificates() {
    let cluster = |key: ClusterKey| is_for_nodes_only(&key.encode());
    assert!(cluster(ClusterKey::Authority));
    assert!(cluster(ClusterKey::Invite { digest: [0; 32] }));
    assert!(!cluster(ClusterKey::Node { node: NodeId(1) }));
    assert!(!is_for_nodes_only(&StateKey::Totals.encode()) && !is_for_nodes_only(b"c"));
    let node = ClusterKey::Node { node: NodeId(1) }.encode();
    assert!(ClusterKey::nodes().contains(&node) && !ClusterKey::invites().contains(&node));
}

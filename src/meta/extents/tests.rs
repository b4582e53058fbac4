//! Goal: whatever edits are made, a row reads as an array of bytes with the same edits. Method: random edits on
//! both, compared after each.

use super::*;
use crate::types::Ino;
use crate::types::Region;
use proptest::prelude::Just;
use proptest::prelude::Strategy;
use proptest::prop_oneof;
use proptest::proptest;

/// The edits stay in a short stretch, so that they meet often.
const STRETCH: u32 = 64;

fn block(number: u64, offset: u32) -> Source {
    let block = BlockId { session: SessionId(1), number };
    Source::Block { block, place: Place::Payload, offset }
}

fn key() -> key::KeyBytes {
    key::extents(Ino::ROOT, crate::types::Generation(0), Region(0))
}

/// What byte `offset` of a block is, in these tests.
fn byte_of(number: u64, offset: u32) -> u16 {
    256 + (number * 1000) as u16 + offset as u16
}

#[derive(Clone, Debug)]
enum Edit {
    Inline,
    Block(u64, u32),
    Clear,
    Seal,
}

fn edits() -> impl Strategy<Value = Vec<(u32, u32, Edit)>> {
    let edit = prop_oneof![
        Just(Edit::Inline),
        (0..3u64, 0..4u32).prop_map(|(number, offset)| Edit::Block(number, offset)),
        Just(Edit::Clear),
        Just(Edit::Seal),
    ];
    let one = (0..STRETCH, 1..STRETCH, edit).prop_map(|(start, len, edit)| {
        let len = len.min(STRETCH - start);
        (start, len, edit)
    });
    proptest::collection::vec(one, 1..40)
}

/// Each byte of the stretch: zero for a hole.
fn read(extents: &Extents, sealed: &[Vec<u8>]) -> Vec<u16> {
    let mut bytes = vec![0; STRETCH as usize];
    for extent in extents.within(0..STRETCH) {
        for n in 0..extent.len {
            bytes[(extent.start + n) as usize] = match &extent.source {
                Source::Inline(inline) => u16::from(inline[n as usize]),
                Source::Block { block, offset, .. } if block.session == SessionId(0) => {
                    u16::from(sealed[block.number as usize][(offset + n) as usize])
                }
                Source::Block { block, offset, .. } => byte_of(block.number, offset + n),
            };
        }
    }
    bytes
}

proptest! {
    #[test]
    fn a_row_reads_as_the_bytes_it_stands_for(edits in edits()) {
        let mut extents = Extents::default();
        let mut model = vec![0u16; STRETCH as usize];
        let mut sealed = Vec::new();
        for (n, (start, len, edit)) in edits.into_iter().enumerate() {
            let range = start as usize..(start + len) as usize;
            let held = model[range.clone()].iter().filter(|byte| **byte != 0).count() as u32;
            match edit {
                Edit::Inline => {
                    let bytes: Vec<u8> = (0..len).map(|at| 1 + ((n as u32 * 7 + at) % 250) as u8).collect();
                    for (slot, byte) in model[range].iter_mut().zip(&bytes) {
                        *slot = u16::from(*byte);
                    }
                    assert_eq!(extents.put(start, len, Source::Inline(bytes.into())), held);
                }
                Edit::Block(number, offset) => {
                    for (at, slot) in model[range].iter_mut().enumerate() {
                        *slot = byte_of(number, offset + at as u32);
                    }
                    assert_eq!(extents.put(start, len, block(number, offset)), held);
                }
                Edit::Clear => {
                    model[range].fill(0);
                    assert_eq!(extents.clear(start..start + len), held);
                }
                Edit::Seal => {
                    let number = sealed.len() as u64;
                    sealed.push(extents.seal(BlockId { session: SessionId(0), number }));
                    assert_eq!(extents.inline_bytes(), 0);
                }
            }
            assert_eq!(read(&extents, &sealed), model);
            assert_eq!(extents.bytes(), model.iter().filter(|byte| **byte != 0).count() as u64);
            let row = extents.to_row();
            assert_eq!(Extents::from_row(&key(), &row).as_ref(), Ok(&extents));
        }
    }
}

#[test]
fn neighbours_that_continue_each_other_are_one() {
    let mut extents = Extents::default();
    extents.put(0, 10, block(1, 0));
    extents.put(20, 10, block(1, 20));
    extents.put(10, 10, block(1, 10));
    assert_eq!(extents.iter().count(), 1);
    extents.put(5, 10, Source::Inline(Bytes::from_static(b"0123456789")));
    assert_eq!(extents.iter().count(), 3);
    extents.put(15, 2, Source::Inline(Bytes::from_static(b"ab")));
    assert_eq!(extents.iter().count(), 3, "inline neighbours are one");
}

#[test]
fn an_edit_in_the_middle_is_a_small_splice() {
    let mut extents = Extents::default();
    for n in 0..200 {
        extents.put(n * 4096, 4096, block(1000 + u64::from(n), 0));
    }
    let before = extents.to_row();
    extents.put(100 * 4096 + 100, 50, block(5000, 0));
    let after = extents.to_row();
    let front = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let back = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    assert!(before.len() - front - back <= 16, "{front} and {back} of {}", before.len());
}

#[test]
fn damage_is_found_and_named() {
    let mut extents = Extents::default();
    extents.put(0, 3, Source::Inline(Bytes::from_static(b"abc")));
    extents.put(REGION_BYTES as u32 - 1, 1, block(1, 0));
    let row = extents.to_row();
    for cut in 0..row.len() {
        let part = Extents::from_row(&key(), &row.slice(..cut));
        let whole_extents = cut == 1 || cut == 6;
        assert_eq!(part.is_err(), !whole_extents, "cut at {cut}");
    }
    let mut overlap = row.to_vec();
    overlap.extend_from_slice(&row[1..6]);
    let error = Extents::from_row(&key(), &overlap.into()).unwrap_err().to_string();
    assert!(error.contains("extents of inode 1") && error.contains("overlap"), "{error}");
}

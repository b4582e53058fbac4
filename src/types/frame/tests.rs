//! Frames come back, say when they do not, and never panic.

use super::*;
use proptest::prelude::*;

fn pack(raw: &[u8], level: i32) -> Bytes {
    Frame::pack(&Bytes::copy_from_slice(raw), level).to_bytes()
}

/// Bytes that do not compress (SplitMix64).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn text(len: usize) -> Vec<u8> {
    (0..).flat_map(|n: u32| format!("line {n} of some text\n").into_bytes()).take(len).collect()
}

#[test]
fn all_sizes_come_back() {
    for len in [0, 1, 8, 9, 10, 100, 4096, PROBE_FROM_BYTES, 100_000, BLOCK_BYTES_MAX] {
        for raw in [noise(len), text(len), vec![0; len]] {
            for level in [-1, 1, 3] {
                let frame = pack(&raw, level);
                assert!(frame.len() <= HEADER_BYTES + raw.len());
                assert_eq!(unpack(&frame).unwrap(), raw);
                assert_eq!(verify(&frame).unwrap().raw_bytes, len);
            }
        }
    }
}

#[test]
fn text_shrinks_and_noise_is_stored_plain_without_a_copy() {
    let frame = pack(&text(100_000), 3);
    assert!(frame.len() < 30_000, "{} bytes", frame.len());
    let frame = pack(&noise(100_000), 3);
    assert_eq!(frame.len(), HEADER_BYTES + 100_000);
    let raw = unpack(&frame).unwrap();
    assert_eq!(raw.as_ptr(), frame[HEADER_BYTES..].as_ptr());
}

#[test]
fn noise_is_packed_without_a_copy_and_bytes_become_the_frame_they_were() {
    let raw = Bytes::from(noise(100_000));
    let frame = Frame::pack(&raw, 3);
    assert_eq!(frame.parts()[1].as_ptr(), raw.as_ptr());
    for raw in [raw, text(100_000).into(), Bytes::new()] {
        let frame = Frame::pack(&raw, 3);
        assert_eq!(Frame::from_bytes(&frame.to_bytes()).unwrap(), frame);
        assert_eq!(frame.checksum(), verify(&frame.to_bytes()).unwrap().checksum);
        assert_eq!(frame.len(), frame.to_bytes().len());
    }
    assert!(Frame::from_bytes(&Bytes::from_static(b"no frame at all")).is_err());
}

#[test]
fn a_compressible_end_behind_noise_is_not_overlooked() {
    let mut raw = noise(PROBE_PART_BYTES);
    raw.extend(text(500_000));
    assert!(pack(&raw, 3).len() < 200_000);
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let frame = pack(b"abc", 3);
    assert_eq!(frame[..], [1, 0, 3, 0, 0, 186, 152, 135, 167, b'a', b'b', b'c']);
    let frame = pack(&[7; 1000], 3);
    assert_eq!(frame[..5], [1, 1, 0xe8, 3, 0]);
    assert_eq!(frame[9..13], 0xfd2f_b528_u32.to_le_bytes(), "zstd's own magic number follows");
}

#[test]
fn a_frame_of_another_version_names_it() {
    let mut frame = pack(b"abc", 3).to_vec();
    frame[0] = 9;
    let error = unpack(&frame.into()).unwrap_err().to_string();
    assert!(error.contains("version 9"), "{error}");
}

#[test]
fn a_length_that_lies_is_refused_even_with_a_right_checksum() {
    for lie in [999_u32, 1001, BLOCK_BYTES_MAX as u32, BLOCK_BYTES_MAX as u32 + 1] {
        let mut frame = pack(&[7; 1000], 3).to_vec();
        frame[2..5].copy_from_slice(&lie.to_le_bytes()[..3]);
        let sum = checksum(&frame, &frame[HEADER_BYTES..]);
        frame[5..9].copy_from_slice(&sum.to_le_bytes());
        assert!(unpack(&frame.into()).is_err(), "{lie}");
    }
}

proptest! {
    #[test]
    fn any_change_is_noticed(raw in proptest::collection::vec(0_u8..4, 0..3000), at: prop::sample::Index, bit in 0_u8..8) {
        let mut frame = pack(&raw, 1).to_vec();
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        prop_assert!(unpack(&frame.into()).is_err());
    }

    #[test]
    fn any_cut_is_noticed(raw in proptest::collection::vec(0_u8..4, 1..3000), at: prop::sample::Index) {
        let frame = pack(&raw, 1);
        prop_assert!(unpack(&frame.slice(..at.index(frame.len()))).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(junk in proptest::collection::vec(any::<u8>(), 0..300), seal: bool) {
        let mut frame = junk;
        if seal && frame.len() >= HEADER_BYTES {
            frame[0] = VERSION;
            frame[1] %= 2;
            let sum = checksum(&frame, &frame[HEADER_BYTES..]);
            frame[5..9].copy_from_slice(&sum.to_le_bytes());
        }
        if let Ok(raw) = unpack(&frame.clone().into()) {
            prop_assert_eq!(raw.len(), header(&frame).unwrap().raw_bytes);
        }
    }
}

#[test]
fn a_plain_frame_is_plain_however_well_it_would_shrink() {
    let raw = vec![7; 5000];
    let frame = plain(&raw);
    assert_eq!(frame.len(), HEADER_BYTES + raw.len());
    assert_eq!(unpack(&frame).unwrap(), raw);
}

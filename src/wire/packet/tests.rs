//! Packets come back however they are cut, and bytes that are none are refused without harm.

use super::*;
use proptest::prelude::*;

fn any_packet() -> impl Strategy<Value = Packet> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
    (0..Form::ALL.len(), any::<u16>(), any::<u64>(), bytes(), bytes()).prop_map(
        |(form, kind, id, meta, tail)| Packet {
            form: Form::ALL[form],
            kind,
            id,
            meta: meta.into(),
            tail: tail.into(),
        },
    )
}

fn encoded(packets: &[Packet]) -> Vec<u8> {
    packets.iter().map(|packet| packet.encode().unwrap().concat()).collect::<Vec<_>>().concat()
}

/// All packets of bytes that arrive in pieces of these sizes, over and over.
fn decoded(bytes: &[u8], pieces: &[usize]) -> Result<Vec<Packet>, BadPacket> {
    let (mut decoder, mut found) = (Decoder::new(META_BYTES_MAX), Vec::new());
    let (mut rest, mut pieces) = (bytes, pieces.iter().cycle());
    while !rest.is_empty() {
        let size = (*pieces.next().unwrap()).min(rest.len());
        let (mut piece, after) = rest.split_at(size);
        while let Some(packet) = decoder.take(&mut piece)? {
            found.push(packet);
        }
        assert!(piece.is_empty(), "what is not taken would be lost");
        rest = after;
    }
    Ok(found)
}

proptest! {
    #[test]
    fn packets_come_back_however_they_are_cut(
        packets in proptest::collection::vec(any_packet(), 0..6),
        pieces in proptest::collection::vec(1..400usize, 1..8),
    ) {
        prop_assert_eq!(decoded(&encoded(&packets), &pieces).unwrap(), packets);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        pieces in proptest::collection::vec(1..50usize, 1..4),
    ) {
        // Neither a panic nor a packet: no 200 bytes of chance have the checksum.
        prop_assert!(decoded(&bytes, &pieces).is_err() || bytes.len() < HEADER_BYTES);
    }

    #[test]
    fn a_header_with_one_wrong_bit_is_refused(packet in any_packet(), bit in 0..HEADER_BYTES * 8) {
        let mut bytes = encoded(&[packet]);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(decoded(&bytes, &[64]).is_err());
    }
}

#[test]
fn a_packet_beyond_the_limits_is_neither_made_nor_read() {
    let packet = |meta: usize, tail: usize| Packet {
        form: Form::Tell,
        kind: 0,
        id: 0,
        meta: vec![0; meta].into(),
        tail: vec![0; tail].into(),
    };
    assert!(packet(META_BYTES_MAX + 1, 0).encode().is_err());
    assert!(packet(0, TAIL_BYTES_MAX + 1).encode().is_err());
    let largest = encoded(&[packet(META_BYTES_MAX, TAIL_BYTES_MAX)]);
    assert_eq!(decoded(&largest, &[1 << 20]).unwrap().len(), 1);

    // A stranger may send little before it is known who it is: refused by the header, before there is room for more.
    let mut stranger = Decoder::new(100);
    let bytes = encoded(&[packet(10, 101)]);
    let refused = stranger.take(&mut &bytes[..HEADER_BYTES]);
    assert_eq!(refused, Err(BadPacket::TooBig { meta: 10, tail: 101, limit: 100 }));
    assert_eq!(stranger.take(&mut &bytes[..]), refused, "there is no way back into step");
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let packet = Packet {
        form: Form::Ask,
        kind: 0x0201,
        id: 0x0807_0605_0403_0201,
        meta: Bytes::from_static(b"me"),
        tail: Bytes::from_static(b"tail"),
    };
    let bytes = encoded(&[packet]);
    assert_eq!(bytes[..20], [1, 5, 1, 2, 2, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[20..24], crc32c::crc32c(&bytes[..20]).to_le_bytes());
    assert_eq!(&bytes[24..], b"metail");
}

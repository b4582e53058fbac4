//! One value told as a change of another: how a past version is kept without its bytes.
//!
//! Three forms. *Edits* suit records of which a few fields changed, a *patch* suits texts; an *image* is the value
//! itself. Not here: which version is told by which.

use crate::series::row::put_varint;
use crate::series::row::take_varint;
use zstd::zstd_safe::CCtx;
use zstd::zstd_safe::CParameter;
use zstd::zstd_safe::DCtx;
use zstd::zstd_safe::DParameter;
use zstd::zstd_safe::FrameFormat;
use zstd::zstd_safe::compress_bound;

/// How a past version is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// The value.
    Image = 0,
    /// `copy, skip, insert, bytes…` repeated, three varints: copy so many bytes of the base, skip so many, put these.
    /// What is left of the base follows.
    Edits = 1,
    /// A varint, the length of the value; then a zstd frame without its magic number, with the base as its prefix.
    Patch = 2,
}

impl Form {
    pub(crate) fn from_bits(bits: u8) -> Option<Form> {
        match bits {
            0 => Some(Form::Image),
            1 => Some(Form::Edits),
            2 => Some(Form::Patch),
            _ => None,
        }
    }
}

/// Two changes with fewer equal bytes between them are one: a new edit costs three bytes.
const EQUAL_BYTES_MIN: usize = 4;
/// Shorter values are kept as they are. Neighbouring rows are compressed together on disk, where a chain of small deltas
/// measures the same as small images (39 bytes a version); reading one at t costs 9 µs instead of 22.
const DELTA_FROM_BYTES: usize = 256;
/// Edits up to this long are good enough. Beyond, compressing may find what moved.
const PATCH_FROM_BYTES: usize = 128;
/// Patches are small; a higher level finds little more.
const PATCH_LEVEL: i32 = 3;
/// No value is longer, in bytes: far above any row. Bounds what a damaged row can make us allocate.
pub(crate) const VALUE_BYTES_MAX: usize = 16 << 20;

/// `value` as a change of `base`, where it is long and that is shorter by a quarter at least; otherwise `None`: keep an image.
pub(crate) fn encode(base: &[u8], value: &[u8]) -> Option<(Form, Vec<u8>)> {
    if value.len() < DELTA_FROM_BYTES {
        return None;
    }
    let edits = edits(base, value);
    let best = match edits.len() {
        0..=PATCH_FROM_BYTES => (Form::Edits, edits),
        _ => match patch(base, value) {
            Some(patch) if patch.len() < edits.len() => (Form::Patch, patch),
            _ => (Form::Edits, edits),
        },
    };
    (best.1.len() <= value.len() / 4 * 3).then_some(best)
}

/// The value that `body` tells, or `None` where it does not fit its base.
pub(crate) fn decode(form: Form, base: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    match form {
        Form::Image => Some(body.to_vec()),
        Form::Edits => apply_edits(base, body),
        Form::Patch => apply_patch(base, body),
    }
}

fn common(left: impl Iterator<Item = u8>, right: impl Iterator<Item = u8>) -> usize {
    left.zip(right).take_while(|(left, right)| left == right).count()
}

fn edits(base: &[u8], value: &[u8]) -> Vec<u8> {
    let start = common(base.iter().copied(), value.iter().copied());
    let (base, value) = (&base[start..], &value[start..]);
    let end = common(base.iter().rev().copied(), value.iter().rev().copied());
    let (base, value) = (&base[..base.len() - end], &value[..value.len() - end]);
    let mut out = Vec::with_capacity(value.len() + 8);
    let mut edit = |copy: usize, skip: usize, insert: &[u8]| {
        put_varint(&mut out, copy as u64);
        put_varint(&mut out, skip as u64);
        put_varint(&mut out, insert.len() as u64);
        out.extend_from_slice(insert);
    };
    if base.len() != value.len() {
        edit(start, base.len(), value);
        return out;
    }
    // Same length: fields changed where they stand.
    let (mut copy, mut at) = (start, 0);
    while at < value.len() {
        let changed = at;
        let mut equal = 0;
        while at < value.len() && equal < EQUAL_BYTES_MIN {
            equal = if base[at] == value[at] { equal + 1 } else { 0 };
            at += 1;
        }
        let until = at - equal;
        edit(copy, until - changed, &value[changed..until]);
        at += common(base[at..].iter().copied(), value[at..].iter().copied());
        copy = at - until;
    }
    out
}

fn apply_edits(mut base: &[u8], mut body: &[u8]) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(base.len() + body.len());
    let count =
        |body: &mut &[u8]| take_varint(body).and_then(|number| usize::try_from(number).ok());
    while !body.is_empty() {
        let (copy, skip, insert) = (count(&mut body)?, count(&mut body)?, count(&mut body)?);
        let (copied, rest) = base.split_at_checked(copy)?;
        value.extend_from_slice(copied);
        base = rest.get(skip..)?;
        let (inserted, rest) = body.split_at_checked(insert)?;
        value.extend_from_slice(inserted);
        body = rest;
    }
    value.extend_from_slice(base);
    Some(value)
}

/// `None` where zstd fails, which an image answers as well.
fn patch(base: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let mut context = CCtx::try_create()?;
    context.set_parameter(CParameter::CompressionLevel(PATCH_LEVEL)).ok()?;
    context.set_parameter(CParameter::Format(FrameFormat::Magicless)).ok()?;
    context.set_parameter(CParameter::ContentSizeFlag(false)).ok()?;
    context.ref_prefix(base).ok()?;
    let mut body = Vec::with_capacity(10 + compress_bound(value.len()));
    put_varint(&mut body, value.len() as u64);
    let mut frame = Vec::with_capacity(compress_bound(value.len()));
    context.compress2(&mut frame, value).ok()?;
    body.extend_from_slice(&frame);
    Some(body)
}

fn apply_patch(base: &[u8], mut body: &[u8]) -> Option<Vec<u8>> {
    let length = take_varint(&mut body).and_then(|length| usize::try_from(length).ok())?;
    if length > VALUE_BYTES_MAX {
        return None;
    }
    let mut context = DCtx::try_create()?;
    context.set_parameter(DParameter::Format(FrameFormat::Magicless)).ok()?;
    context.ref_prefix(base).ok()?;
    let mut value = Vec::with_capacity(length);
    context.decompress(&mut value, body).ok()?;
    (value.len() == length).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::Strategy;
    use proptest::prelude::any;

    fn told(base: &[u8], value: &[u8]) -> (Form, usize) {
        let (form, body) = encode(base, value).unwrap();
        assert_eq!(decode(form, base, &body).as_deref(), Some(value));
        (form, body.len())
    }

    #[test]
    fn a_changed_field_costs_its_bytes() {
        let base: Vec<u8> = (0..300).map(|n| n as u8).collect();
        let mut value = base.clone();
        value[40..43].copy_from_slice(b"new");
        value[280] = 0;
        assert_eq!(told(&base, &value), (Form::Edits, 3 + 3 + 4 + 1));
        value.extend_from_slice(b"more");
        assert_eq!(told(&base, &base), (Form::Edits, 0));
        assert!(told(&base, &value).1 < 225);
    }

    #[test]
    fn text_that_moved_is_a_patch() {
        let base: Vec<u8> =
            (0..200).flat_map(|n| format!("line {}\n", n * n).into_bytes()).collect();
        let value = [&base[1000..], b"between", &base[..1000]].concat();
        let (form, len) = told(&base, &value);
        assert_eq!(form, Form::Patch);
        assert!(len < 60, "{len}");
    }

    #[test]
    fn what_has_nothing_in_common_is_an_image() {
        let noise: Vec<u8> = (0..500u32).map(|n| (n * n / 7) as u8).collect();
        assert_eq!(encode(&[1; 500], &noise), None);
        assert_eq!(encode(b"", b"x"), None);
    }

    #[test]
    fn a_body_that_does_not_fit_is_refused() {
        for body in [&[5, 0, 0][..], &[0, 5, 0], &[0, 0, 5, 1], &[0x80], &[1, 1]] {
            assert_eq!(decode(Form::Edits, b"abc", body), None, "{body:?}");
        }
        assert_eq!(decode(Form::Patch, b"abc", b"\x05nonsense"), None);
        assert_eq!(decode(Form::Patch, b"abc", b"\xff\xff\xff\xff\xff\x7f"), None);
    }

    #[test]
    fn any_change_comes_back() {
        let part = || proptest::collection::vec(any::<u8>(), 0..300);
        let small = || proptest::collection::vec(0u8..3, 0..40);
        let parts = (part(), part(), small(), small(), part());
        proptest::proptest!(|((a, b, c, d, e) in parts.prop_map(|parts| parts))| {
            let base = [&a[..], &b, &c, &d].concat();
            let value = [&a[..], &d, &c, &b, &e].concat();
            for (base, value) in [(&base, &value), (&value, &base), (&c, &d), (&base, &base)] {
                if let Some((form, body)) = encode(base, value) {
                    assert_eq!(decode(form, base, &body).as_ref(), Some(value));
                }
                assert_eq!(apply_edits(base, &edits(base, value)).as_ref(), Some(value));
                let patch = patch(base, value).unwrap();
                assert_eq!(apply_patch(base, &patch).as_ref(), Some(value));
            }
        });
    }
}

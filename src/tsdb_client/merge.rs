//! One ordered sequence of rows from layers that hide each other, page by page of the lowest.

use crate::series::Direction;
use crate::series::KeyRange;
use crate::wire::Page;
use bytes::Bytes;
use std::cmp::Ordering;
use std::iter::Peekable;

/// A row of a layer: `None` where it is removed.
pub(super) type LayerRow = (Bytes, Option<Bytes>);

/// Rows of `upper` and, where it says nothing about their key, rows of `lower`. Both are in the order of `direction`.
pub(super) struct Over<U: Iterator, L: Iterator> {
    upper: Peekable<U>,
    lower: Peekable<L>,
    direction: Direction,
}

impl<U, L> Over<U, L>
where
    U: Iterator<Item = LayerRow>,
    L: Iterator<Item = LayerRow>,
{
    pub(super) fn new(upper: U, lower: L, direction: Direction) -> Over<U, L> {
        Over { upper: upper.peekable(), lower: lower.peekable(), direction }
    }
}

impl<U, L> Iterator for Over<U, L>
where
    U: Iterator<Item = LayerRow>,
    L: Iterator<Item = LayerRow>,
{
    type Item = LayerRow;

    fn next(&mut self) -> Option<LayerRow> {
        let (Some((upper, _)), Some((lower, _))) = (self.upper.peek(), self.lower.peek()) else {
            return self.upper.next().or_else(|| self.lower.next());
        };
        let order = match self.direction {
            Direction::Forward => upper.cmp(lower),
            Direction::Backward => lower.cmp(upper),
        };
        match order {
            Ordering::Less => self.upper.next(),
            Ordering::Greater => self.lower.next(),
            Ordering::Equal => {
                self.lower.next();
                self.upper.next()
            }
        }
    }
}

/// Orders rows that come forward.
pub(super) fn directed<'a>(
    rows: impl DoubleEndedIterator<Item = LayerRow> + 'a,
    direction: Direction,
) -> Box<dyn Iterator<Item = LayerRow> + 'a> {
    match direction {
        Direction::Forward => Box::new(rows),
        Direction::Backward => Box::new(rows.rev()),
    }
}

/// The part of `range` that `page`, the answer to a scan of it, speaks about; and what is left of the range.
pub(super) fn split(
    range: &KeyRange,
    page: &Page,
    direction: Direction,
) -> (KeyRange, Option<KeyRange>) {
    let Some((last, _)) = page.rows.last().filter(|_| page.more) else {
        return (range.clone(), None);
    };
    let (start, end) = (range.start.clone(), range.end.clone());
    match direction {
        Direction::Forward => {
            let middle = [last, &[0][..]].concat();
            (KeyRange { start, end: middle.clone() }, Some(KeyRange { start: middle, end }))
        }
        Direction::Backward => {
            let middle = last.to_vec();
            (KeyRange { start: middle.clone(), end }, Some(KeyRange { start, end: middle }))
        }
    }
}

/// The rows of a page as a layer.
pub(super) fn lowest(page: Page) -> impl Iterator<Item = LayerRow> {
    page.rows.into_iter().map(|(key, value)| (key, Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn row(key: &'static str, value: Option<&'static str>) -> LayerRow {
        (Bytes::from_static(key.as_bytes()), value.map(|v| Bytes::from_static(v.as_bytes())))
    }

    #[test]
    fn upper_rows_hide_lower_ones_in_both_directions() {
        let upper = [row("b", None), row("c", Some("new")), row("e", Some("own"))];
        let lower = [row("a", Some("1")), row("b", Some("2")), row("c", Some("3"))];
        let expected =
            [row("a", Some("1")), row("b", None), row("c", Some("new")), row("e", Some("own"))];
        for direction in [Direction::Forward, Direction::Backward] {
            let both = Over::new(
                directed(upper.clone().into_iter(), direction),
                directed(lower.clone().into_iter(), direction),
                direction,
            );
            assert_eq!(
                both.collect::<Vec<_>>(),
                directed(expected.clone().into_iter(), direction).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn pages_cut_a_range_without_gap_or_overlap() {
        let keys: BTreeMap<&[u8], ()> = [&b"a"[..], b"ab", b"b", b"c"].map(|key| (key, ())).into();
        for direction in [Direction::Forward, Direction::Backward] {
            let mut seen = Vec::new();
            let mut rest = Some(KeyRange::prefix(b""));
            while let Some(range) = rest {
                let inside: Vec<&[u8]> =
                    keys.keys().copied().filter(|key| range.contains(key)).collect();
                let next = match direction {
                    Direction::Forward => inside.first(),
                    Direction::Backward => inside.last(),
                };
                let rows = next
                    .map(|key| (Bytes::copy_from_slice(key), Bytes::new()))
                    .into_iter()
                    .collect();
                let page = Page { rows, more: inside.len() > 1 };
                let (span, after) = split(&range, &page, direction);
                seen.extend(inside.iter().filter(|key| span.contains(key)).map(|key| key.to_vec()));
                rest = after;
            }
            if direction == Direction::Backward {
                seen.reverse();
            }
            assert_eq!(seen, keys.keys().map(|key| key.to_vec()).collect::<Vec<_>>());
        }
    }
}

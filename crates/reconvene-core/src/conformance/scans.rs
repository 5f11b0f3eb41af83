//! Checks of range reads: order, bounds, and what lies next to a range.

use super::StoreFactory;
use super::trial::{Row, Trial, document, head, value, workspace};
use crate::ids::{ChangeHash, DocumentKind, FeedSeq, PeerId, WorkspaceId};
use crate::keys::{Key, KeyRange};
use crate::storage::{Direction, Scan};

/// The greatest number of a workspace or document: sixteen bytes of 0xFF.
const LAST: u128 = u128::MAX;

const DIRECTIONS: [Direction; 2] = [Direction::Ascending, Direction::Descending];

fn heads(workspace_number: u128) -> KeyRange {
    KeyRange::heads(&workspace(workspace_number))
}

pub(super) fn both_directions<F: StoreFactory>(trial: &mut Trial<F>) {
    let numbers = [0, 1, 2, 255, 256, 257, 0xffff, LAST - 1, LAST];
    let rows: Vec<Row> = numbers
        .iter()
        .zip(1..)
        .map(|(number, tag)| (head(5, *number), value(tag, 12)))
        .collect();
    // Written in another order than they are read in.
    for row in rows.iter().rev().step_by(2).chain(rows.iter().step_by(2)) {
        trial.apply(std::slice::from_ref(row), &[]);
    }
    trial.apply(&rows, &[]);
    trial.expect_range(&heads(5), &rows);
    trial.expect_range(&KeyRange::new(Vec::new(), None), &rows);
}

/// Every combination of bounds against values of known sizes, empty and large ones among them.
pub(super) fn bounds_and_more<F: StoreFactory>(trial: &mut Trial<F>) {
    let sizes = [0, 10, 0, 9_000, 1, 100_000, 10, 0];
    let rows: Vec<Row> = sizes
        .iter()
        .zip(1..)
        .map(|(bytes, tag)| (head(5, u128::from(tag)), value(tag, *bytes)))
        .collect();
    trial.apply(&rows, &[]);
    trial.apply(&[(head(6, 0), value(99, 10))], &[]);
    let bytes_bounds = [
        0,
        1,
        9,
        10,
        11,
        9_009,
        9_010,
        9_011,
        109_011,
        109_012,
        200_000,
        usize::MAX,
    ];
    for direction in DIRECTIONS {
        let mut ordered = rows.clone();
        if direction == Direction::Descending {
            ordered.reverse();
        }
        for rows_max in [0, 1, 2, 7, 8, 9, usize::MAX] {
            for bytes_max in bytes_bounds {
                let scan = Scan {
                    range: heads(5),
                    direction,
                    rows_max,
                    bytes_max,
                };
                expect_bounded(trial, &scan, &ordered);
            }
        }
        for bytes_max in [0, usize::MAX] {
            let scan = Scan {
                range: heads(7),
                direction,
                rows_max: 0,
                bytes_max,
            };
            expect_bounded(trial, &scan, &[]);
        }
    }
}

/// Compares a scan with the records of its range, given in its order.
fn expect_bounded<F: StoreFactory>(trial: &Trial<F>, scan: &Scan, ordered: &[Row]) {
    let mut bytes = 0;
    let mut taken = 0;
    for (_, value) in ordered {
        if taken == scan.rows_max || (taken > 0 && bytes >= scan.bytes_max) {
            break;
        }
        bytes += value.len();
        taken += 1;
    }
    let found = trial.scan(scan);
    trial.expect_same(&found.rows, &ordered[..taken], &format!("{scan:?}"));
    let more = taken < ordered.len();
    trial.ensure_eq(found.more, more, &format!("more of {scan:?}"));
}

pub(super) fn range_bounds<F: StoreFactory>(trial: &mut Trial<F>) {
    let rows: Vec<Row> = (1..=5)
        .map(|n| (head(5, n * 2), value(n as u64, 12)))
        .collect();
    trial.apply(&rows, &[]);
    trial.apply(
        &[(head(4, LAST), value(7, 1)), (head(6, 0), value(8, 1))],
        &[],
    );
    let range = heads(5);
    for (index, (key, _)) in rows.iter().enumerate() {
        trial.expect_range(&range.after(key), &rows[index + 1..]);
        trial.expect_range(&range.before(key), &rows[..index]);
    }
    for number in 0..=11 {
        // A key that may not exist bounds just as well as one that does.
        let key = head(5, number);
        let after = (number / 2) as usize;
        trial.expect_range(&range.after(&key), &rows[after.min(5)..]);
        let before = (number.div_ceil(2) as usize).saturating_sub(1);
        trial.expect_range(&range.before(&key), &rows[..before.min(5)]);
    }
    trial.expect_range(&range.after(&head(5, 4)).before(&head(5, 8)), &rows[2..3]);
    // Bounds outside the range do not widen it.
    trial.expect_range(&range.after(&head(3, 1)), &rows);
    trial.expect_range(&range.before(&head(7, 1)), &rows);
    // A range that ends where it begins, or before, is empty.
    trial.expect_range(&range.after(&head(5, 8)).before(&head(5, 4)), &[]);
    trial.expect_range(&range.after(&head(5, 4)).before(&head(5, 4)), &[]);
    trial.expect_range(&range.after(&head(6, 1)), &[]);
    trial.expect_range(&range.before(&head(4, 1)), &[]);
    let start = head(5, 4).as_bytes().to_vec();
    trial.expect_range(&KeyRange::new(start.clone(), Some(start)), &[]);
    // Without an end, a range goes on to the last record of the store.
    let mut rest = rows[1..].to_vec();
    rest.push((head(6, 0), value(8, 1)));
    trial.expect_range(&KeyRange::new(head(5, 3).as_bytes().to_vec(), None), &rest);
}

pub(super) fn neighbouring_workspaces<F: StoreFactory>(trial: &mut Trial<F>) {
    let numbers = [
        0,
        1,
        0xfe,
        0xff,
        0x100,
        0xffff,
        0x1_0000,
        u128::MAX >> 8,
        (u128::MAX >> 8) + 1,
        LAST - 0xff,
        LAST - 1,
        LAST,
    ];
    let mut expected = Vec::new();
    for (number, tag) in numbers.into_iter().zip(1..) {
        let rows = [0, 1, LAST].map(|document| (head(number, document), value(tag, 20)));
        trial.apply(&rows, &[]);
        let id = workspace(number);
        let feed = [FeedSeq(0), FeedSeq(1), FeedSeq(0xff), FeedSeq(u64::MAX)]
            .map(|seq| (Key::feed(&id, seq), value(tag + 100, 10)));
        trial.apply(&feed, &[]);
        expected.push((id, rows, feed));
    }
    for (id, rows, feed) in &expected {
        trial.expect_range(&KeyRange::heads(id), rows);
        trial.expect_range(&KeyRange::feed_after(id, FeedSeq(0)), &feed[1..]);
        trial.expect_range(&KeyRange::feed_after(id, FeedSeq(0xff)), &feed[3..]);
    }
    let (middle, _, _) = &expected[5];
    let deletes = [0, 1, LAST].map(|number| Key::head(middle, &document(number)));
    trial.apply(&[], &deletes);
    for (id, rows, _) in &expected {
        let left: &[Row] = if id == middle { &[] } else { rows };
        trial.expect_range(&KeyRange::heads(id), left);
    }
}

pub(super) fn kinds_do_not_mix<F: StoreFactory>(trial: &mut Trial<F>) {
    let ids: Vec<WorkspaceId> = [0, 5, LAST].map(workspace).to_vec();
    let peers = [0, 7, 0xff].map(|byte| PeerId::from_bytes([byte; 32]));
    let mut all: Vec<Row> = Vec::new();
    for id in &ids {
        for (document, byte) in [0, 5, LAST].map(document).iter().zip([0, 7, 0xff]) {
            let hash = ChangeHash::from_bytes([byte; 32]);
            let keys = [
                Key::head(id, document),
                Key::change(id, document, &hash),
                Key::index(id, DocumentKind(byte), document),
                Key::feed(id, FeedSeq(u64::from(byte))),
            ];
            all.extend(keys.map(|key| (key, value(0, 8))));
        }
        for peer in &peers {
            all.push((Key::peer(id, peer), value(0, 8)));
            all.push((Key::share(peer, id), value(0, 8)));
        }
        let keys = [Key::feed_head(id), Key::index_state(id), Key::workspace(id)];
        all.extend(keys.map(|key| (key, value(0, 8))));
    }
    for byte in [0, 1, 0xff] {
        all.push((Key::meta(byte), value(0, 8)));
        all.push((Key::member(&[byte; 32]), value(0, 8)));
        all.push((Key::invite(&[byte; 32]), value(0, 8)));
    }
    for (row, tag) in all.iter_mut().zip(1..) {
        row.1 = value(tag, 3 + tag as usize % 90);
    }
    trial.apply(&all, &[]);
    all.sort();
    trial.expect_range(&KeyRange::new(Vec::new(), None), &all);

    let expect = |trial: &Trial<F>, range: KeyRange| {
        let inside: Vec<Row> = all
            .iter()
            .filter(|(key, _)| {
                range.start() <= key.as_bytes()
                    && range.end().is_none_or(|end| key.as_bytes() < end)
            })
            .cloned()
            .collect();
        trial.ensure(!inside.is_empty(), || format!("{range:?} holds no record"));
        trial.expect_range(&range, &inside);
    };
    for id in &ids {
        expect(trial, KeyRange::heads(id));
        expect(trial, KeyRange::feed_after(id, FeedSeq(3)));
        expect(trial, KeyRange::changes(id, &document(LAST)));
        expect(trial, KeyRange::index(id, DocumentKind(0xff)));
        expect(trial, KeyRange::peers(id));
    }
    for peer in &peers {
        expect(trial, KeyRange::shares_of(peer));
    }
    expect(trial, KeyRange::shares());
    expect(trial, KeyRange::workspaces());
}

/// Pages through more rows than any page holds, forwards and backwards.
pub(super) fn many_small_rows<F: StoreFactory>(trial: &mut Trial<F>) {
    let rows: Vec<Row> = (0..5_000)
        .map(|n| (head(5, n << 64 | n), value(n as u64, n as usize % 60)))
        .collect();
    for chunk in rows.chunks(1_250) {
        trial.apply(chunk, &[]);
    }
    trial.barrier();
    for direction in DIRECTIONS {
        let mut found: Vec<Row> = Vec::new();
        let mut range = heads(5);
        loop {
            let page = trial.scan(&Scan {
                range: range.clone(),
                direction,
                rows_max: 333,
                bytes_max: 8 * 1024,
            });
            found.extend(page.rows);
            if !page.more {
                break;
            }
            let Some((last, _)) = found.last() else {
                trial.ensure(false, || "an empty page claims more".to_owned());
                return;
            };
            range = match direction {
                Direction::Ascending => range.after(last),
                Direction::Descending => range.before(last),
            };
        }
        if direction == Direction::Descending {
            found.reverse();
        }
        trial.ensure(found == rows, || {
            format!(
                "{direction:?} pages of 5,000 rows hold {} rows, or others",
                found.len()
            )
        });
    }
}

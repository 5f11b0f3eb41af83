//! Every rule for columns and operations, broken once.

use super::{Parts, parse_with, seal};
use crate::guard::pieces::{signed, unsigned};
use crate::guard::{ChangePart, Column, GuardError, parse_change};
use crate::limits::{
    CHANGE_NAMES_BYTES_MAX, KEY_BYTES_MAX, OPERATION_COUNTER_MAX, OPERATIONS_PER_CHANGE_MAX,
    PREDECESSORS_PER_CHANGE_MAX, SCALAR_BYTES_MAX,
};

const OBJECT_ACTOR: u64 = 0x01;
const OBJECT_COUNTER: u64 = 0x02;
const KEY_ACTOR: u64 = 0x11;
const KEY_COUNTER: u64 = 0x13;
const KEY_STRING: u64 = 0x15;
const INSERT: u64 = 0x34;
const ACTION: u64 = 0x42;
const VALUE_METADATA: u64 = 0x56;
const VALUE: u64 = 0x57;
const PREDECESSOR_COUNT: u64 = 0x70;
const PREDECESSOR_ACTOR: u64 = 0x71;
const PREDECESSOR_COUNTER: u64 = 0x73;
const EXPAND: u64 = 0x94;
const MARK_NAME: u64 = 0xa5;

/// Sets, adds or, given nothing, takes out columns of the default operation.
fn with(columns: &[(u64, &[u8])]) -> impl FnOnce(&mut Parts) {
    move |parts| {
        for (id, data) in columns {
            parts.columns.retain(|(known, ..)| known != id);
            if !data.is_empty() {
                parts.columns.push((*id, None, data.to_vec()));
            }
        }
        parts.columns.sort();
    }
}

/// A change of three operations that put nothing to the keys `a`, `b` and `c` of the root, and then
/// whatever `columns` sets.
fn three(columns: &[(u64, &[u8])]) -> Result<(), GuardError> {
    let parsed = parse_with(|parts| {
        parts.other_actors.clear();
        parts.columns.clear();
        with(&[
            (KEY_STRING, b"\x7d\x01a\x01b\x01c"),
            (INSERT, &[3]),
            (ACTION, &[3, 1]),
            (VALUE_METADATA, &[3, 0]),
            (PREDECESSOR_COUNT, &[3, 0]),
        ])(parts);
        with(columns)(parts);
    });
    parsed.map(|header| assert_eq!(header.operations, 3))
}

/// The rule a change of [`three`] breaks, as an error's text.
#[track_caller]
fn refused(columns: &[(u64, &[u8])]) -> String {
    three(columns).unwrap_err().to_string()
}

#[track_caller]
fn not_canonical(columns: &[(u64, &[u8])], column: Column) {
    match three(columns) {
        Err(GuardError::NotCanonical { part, .. }) => assert_eq!(part, ChangePart::Column(column)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sequence_of_entries_has_one_encoding() {
    three(&[]).unwrap();
    // Keys: a literal cut in two, a run of one, a repeated value in a literal, a run continued by
    // a run and by a literal, and a literal continued by a run.
    for keys in [
        &b"\x7f\x01a\x7e\x01b\x01c"[..],
        b"\x01\x01a\x7e\x01b\x01c",
        b"\x7d\x01a\x01b\x01b",
        b"\x02\x01a\x7f\x01a",
        b"\x02\x01a\x02\x01a",
        b"\x7f\x01a\x02\x01a",
        b"\x00\x00\x7d\x01a\x01b\x01c",
    ] {
        not_canonical(&[(KEY_STRING, keys)], Column::KeyString);
    }
    three(&[(KEY_STRING, b"\x02\x01a\x7f\x01b")]).unwrap();
    three(&[(KEY_STRING, b"\x7f\x01a\x02\x01b")]).unwrap();
    three(&[(KEY_STRING, b"\x03\x01a")]).unwrap();
    // Two runs of absent values; a column of nothing else.
    not_canonical(&[(MARK_NAME, &[0, 3])], Column::MarkName);
    not_canonical(&[(MARK_NAME, &[0, 1, 0, 2])], Column::MarkName);
    // Flags: an empty run within, and a column that says nothing.
    not_canonical(&[(INSERT, &[1, 0, 2])], Column::Insert);
    not_canonical(&[(EXPAND, &[3])], Column::Expand);
    let longer = refused(&[(ACTION, &[0x83, 0, 1])]);
    assert!(longer.contains("LEB128"), "{longer}");
}

#[test]
fn every_column_has_one_entry_per_operation() {
    let missing = |column| GuardError::EntryMissing {
        part: ChangePart::Column(column),
    };
    let more = |column| GuardError::EntryTooMany {
        part: ChangePart::Column(column),
    };
    for (column, id, fewer, excess) in [
        (
            Column::KeyString,
            KEY_STRING,
            &b"\x02\x01a"[..],
            &b"\x04\x01a"[..],
        ),
        (Column::Insert, INSERT, &[2], &[4]),
        (Column::ValueMetadata, VALUE_METADATA, &[2, 0], &[4, 0]),
        (
            Column::PredecessorCount,
            PREDECESSOR_COUNT,
            &[2, 0],
            &[4, 0],
        ),
    ] {
        assert_eq!(three(&[(id, fewer)]), Err(missing(column)));
        assert_eq!(three(&[(id, excess)]), Err(more(column)));
        let mut appended = fewer.to_vec();
        appended.extend_from_slice(b"\x7e\x01\x01\x02\x02");
        assert!(three(&[(id, &appended)]).is_err());
    }
    for (column, id) in [
        (Column::ValueMetadata, VALUE_METADATA),
        (Column::PredecessorCount, PREDECESSOR_COUNT),
    ] {
        assert_eq!(three(&[(id, &[])]), Err(missing(column)));
        assert!(three(&[(id, &[0, 3])]).is_err());
    }
    // Automerge writes the flags of insertion also where all are false, and no column alone.
    assert_eq!(three(&[(INSERT, &[])]), Err(missing(Column::Insert)));
    let empty = parse_with(|parts| {
        parts.other_actors.clear();
        parts.columns.clear();
        with(&[(INSERT, &[3])])(parts);
    });
    assert_eq!(empty, Err(more(Column::Insert)));
    // A huge run is refused by its length and not walked.
    let mut huge = Vec::new();
    signed(&mut huge, i64::MAX);
    huge.push(1);
    let part = ChangePart::Operations;
    assert_eq!(
        three(&[(ACTION, &huge)]),
        Err(GuardError::TooMany {
            part,
            count: i64::MAX as u64,
            count_max: OPERATIONS_PER_CHANGE_MAX
        })
    );
    let mut huge = Vec::new();
    signed(&mut huge, i64::MIN);
    huge.push(1);
    assert!(matches!(
        three(&[(ACTION, &huge)]),
        Err(GuardError::TooMany { .. })
    ));
    huge = vec![0];
    unsigned(&mut huge, u64::MAX);
    assert!(three(&[(KEY_STRING, &huge)]).is_err());
}

#[test]
fn operations_are_taken_up_to_their_bound() {
    let many = |operations: usize, start_op: u64| {
        let mut run = Vec::new();
        signed(&mut run, operations as i64);
        let run = |entry: &[u8]| [&run[..], entry].concat();
        let mut flags = Vec::new();
        unsigned(&mut flags, operations as u64);
        parse_with(|parts| {
            parts.other_actors.clear();
            parts.columns.clear();
            parts.start_op = start_op;
            with(&[
                (KEY_STRING, &run(b"\x01a")),
                (INSERT, &flags),
                (ACTION, &run(&[1])),
                (VALUE_METADATA, &run(&[0])),
                (PREDECESSOR_COUNT, &run(&[0])),
            ])(parts);
        })
    };
    let max = OPERATIONS_PER_CHANGE_MAX;
    let largest = many(max, OPERATION_COUNTER_MAX + 1 - max as u64).unwrap();
    assert_eq!(largest.max_op(), OPERATION_COUNTER_MAX);
    assert!(many(max, OPERATION_COUNTER_MAX + 2 - max as u64).is_err());
    let refused = many(max + 1, 1).unwrap_err();
    assert!(refused.is_too_large());
    assert!(
        refused.to_string().contains("10001 operations"),
        "{refused}"
    );
}

#[test]
fn predecessors_are_ascending_earlier_and_bounded() {
    // One operation that supersedes others, by the columns of actors and counters.
    let superseding = |count: u64, actors: &[u8], counters: &[u8]| {
        let mut counts = vec![0x7f];
        unsigned(&mut counts, count);
        let parsed = parse_with(with(&[
            (PREDECESSOR_COUNT, &counts),
            (PREDECESSOR_ACTOR, actors),
            (PREDECESSOR_COUNTER, counters),
        ]));
        parsed.map(|_| ())
    };
    // The actors in order are 1, the own one (0), and 2.
    superseding(3, &[0x7d, 1, 0, 2], &[0x7f, 5, 2, 0]).unwrap();
    assert!(superseding(3, &[0x7d, 0, 1, 2], &[0x7f, 5, 2, 0]).is_err());
    assert!(superseding(3, &[0x7d, 1, 2, 0], &[0x7f, 5, 2, 0]).is_err());
    superseding(3, &[0x7d, 2, 0, 1], &[0x7d, 5, 1, 2]).unwrap();
    assert!(superseding(3, &[0x7d, 1, 0, 2], &[0x7d, 5, 0x7f, 2]).is_err());
    assert!(superseding(2, &[2, 1], &[0x7e, 5, 0]).is_err());
    let out_of_range = |column, value| {
        Err(GuardError::OutOfRange {
            part: ChangePart::Column(column),
            value,
        })
    };
    let (actor, counter) = (Column::PredecessorActor, Column::PredecessorCounter);
    assert_eq!(
        superseding(2, &[0x7e, 1, 3], &[2, 1]),
        out_of_range(actor, 3)
    );
    assert_eq!(
        superseding(2, &[0x7e, 1, 2], &[0x7e, 0, 1]),
        out_of_range(counter, 0)
    );
    assert_eq!(
        superseding(2, &[0x7e, 1, 2], &[0x7e, 1, 0xe7, 7]),
        out_of_range(counter, 1000)
    );
    superseding(2, &[0x7e, 1, 2], &[0x7e, 1, 0xe6, 7]).unwrap();
    assert!(superseding(2, &[0x7e, 1, 2], &[0x7e, 1, 0x7e]).is_err());
    let mut near_the_end = vec![0x7e, 1];
    signed(&mut near_the_end, i64::MAX);
    assert_eq!(
        superseding(2, &[0x7e, 1, 2], &near_the_end),
        out_of_range(counter, i64::MAX as u64)
    );
    // An actor that no operation names.
    assert!(matches!(
        superseding(1, &[0x7f, 2], &[0x7f, 1]),
        Err(GuardError::UnusedActor { .. })
    ));
    for (actors, counters) in [(&[0x7e, 1, 2][..], &[][..]), (&[], &[2, 1])] {
        assert!(superseding(2, actors, counters).is_err());
        assert!(superseding(0, actors, counters).is_err());
    }
    let refused = superseding(PREDECESSORS_PER_CHANGE_MAX as u64 + 1, &[2, 1], &[2, 1]);
    assert!(refused.unwrap_err().is_too_large());
    let all = superseding(u64::MAX, &[2, 1], &[2, 1]);
    assert!(all.unwrap_err().is_too_large());
}

#[test]
fn objects_and_keys_are_whole_and_earlier() {
    assert!(refused(&[(OBJECT_ACTOR, &[3, 0])]).contains("half an object"));
    assert!(refused(&[(OBJECT_COUNTER, &[3, 1])]).contains("half an object"));
    three(&[(OBJECT_ACTOR, &[3, 0]), (OBJECT_COUNTER, &[3, 1])]).unwrap();
    three(&[
        (OBJECT_ACTOR, &[0, 1, 2, 0]),
        (OBJECT_COUNTER, &[0, 1, 2, 1]),
    ])
    .unwrap();
    for counter in [&[3, 0][..], &[3, 0xe8, 7]] {
        assert!(refused(&[(OBJECT_ACTOR, &[3, 0]), (OBJECT_COUNTER, counter)]).contains("range"));
    }
    assert!(refused(&[(OBJECT_ACTOR, &[3, 1]), (OBJECT_COUNTER, &[3, 1])]).contains("1 is out"));
    // The first operation may not name the second, the second may name the first.
    let object =
        |counter: &[u8]| three(&[(OBJECT_ACTOR, &[0, 1, 2, 0]), (OBJECT_COUNTER, counter)]);
    object(&[0, 1, 2, 0xe8, 7]).unwrap();
    assert!(object(&[0, 1, 2, 0xe9, 7]).is_err());

    let keys = |string: &[u8], actor: &[u8], counter: &[u8]| {
        three(&[
            (OBJECT_ACTOR, &[3, 0]),
            (OBJECT_COUNTER, &[3, 1]),
            (KEY_STRING, string),
            (KEY_ACTOR, actor),
            (KEY_COUNTER, counter),
            (INSERT, &[0, 3]),
        ])
        .map_err(|error| error.to_string())
    };
    keys(b"", &[3, 0], &[0x7f, 2, 2, 0]).unwrap();
    keys(b"", &[0, 1, 2, 0], &[0x7d, 0, 2, 1]).unwrap();
    for (string, actor, counter) in [
        (&b""[..], &[][..], &[][..]),
        (b"", &[3, 0], &[]),
        (b"", &[], &[3, 1]),
        (b"\x03\x01a", &[3, 0], &[0x7f, 2, 2, 0]),
        (b"\x03\x01a", &[], &[3, 0]),
    ] {
        let refused = keys(string, actor, counter).unwrap_err();
        assert!(refused.contains("no key or more than one"), "{refused}");
    }
    assert!(
        keys(b"", &[3, 0], &[3, 0])
            .unwrap_err()
            .contains("out of range")
    );
    assert!(
        keys(b"\x03\x01a", &[], &[])
            .unwrap_err()
            .contains("inserts into a map")
    );
    assert!(refused(&[(KEY_STRING, b"\x03\x01\xff")]).contains("UTF-8"));
    let at_root = refused(&[(KEY_STRING, b""), (KEY_COUNTER, &[3, 0]), (INSERT, &[0, 3])]);
    assert!(at_root.contains("the root"), "{at_root}");
}

#[test]
fn values_are_written_in_one_way_and_bounded() {
    let value = |metadata: &[u8], data: &[u8]| {
        let mut run = vec![0x7f];
        run.extend_from_slice(metadata);
        parse_with(with(&[(VALUE_METADATA, &run), (VALUE, data)])).map(|_| ())
    };
    for (metadata, data) in [
        (&[0x00][..], &[][..]),
        (&[0x01], &[]),
        (&[0x02], &[]),
        (&[0x13], &[9]),
        (&[0x23], &[0x80, 1]),
        (&[0x14], &[0x7f]),
        (&[0x18], &[3]),
        (&[0x19], &[3]),
        (&[0x85, 0x01], &[1; 8]),
        (&[0x16], b"a"),
        (&[0x06], b""),
        (&[0x17], &[0xff]),
        // A type of a later version.
        (&[0x1a], &[0xff]),
    ] {
        value(metadata, data).unwrap();
        let mut longer = data.to_vec();
        longer.push(0);
        assert!(value(metadata, &longer).is_err());
        assert!(data.is_empty() || value(metadata, &data[1..]).is_err());
    }
    for (metadata, data) in [
        (&[0x10][..], &[0][..]),
        (&[0x11], &[0]),
        (&[0x12], &[0]),
        (&[0x23], &[9, 0]),
        (&[0x23], &[0x89, 0]),
        (&[0x24], &[0xff, 0x7f]),
        (&[0x28], &[0x80, 0]),
        (&[0x29], &[0x80, 0]),
        (&[0x75], &[1; 7]),
        (&[0x95, 0x01], &[1; 9]),
        (&[0x16], &[0xff]),
        (&[0x03], &[]),
    ] {
        assert!(value(metadata, data).is_err(), "{metadata:?}");
    }
    let sized = |bytes: usize| {
        let mut metadata = Vec::new();
        unsigned(&mut metadata, (bytes as u64) << 4 | 7);
        let mut run = vec![0x7f];
        run.extend_from_slice(&metadata);
        // Not as a chunk: it would not fit, however it is deflated.
        let mut parts = Parts::default();
        with(&[(VALUE_METADATA, &run), (VALUE, &vec![1; bytes])])(&mut parts);
        let data = parts.data();
        let [a, b, c, d, ..] = *super::hash_of(&data).as_bytes();
        crate::guard::header::parse_data(&data, [a, b, c, d], 0)
    };
    assert!(sized(SCALAR_BYTES_MAX).is_ok());
    assert!(sized(SCALAR_BYTES_MAX + 1).unwrap_err().is_too_large());
    let mut endless = Vec::new();
    unsigned(&mut endless, u64::MAX);
    assert!(value(&endless, &[1]).unwrap_err().is_too_large());
}

#[test]
fn keys_count_for_every_operation_that_has_them() {
    let keys = |operations: usize, bytes: usize| {
        let mut run = Vec::new();
        signed(&mut run, operations as i64);
        let run = |entry: &[u8]| [&run[..], entry].concat();
        let mut flags = Vec::new();
        unsigned(&mut flags, operations as u64);
        let mut key = Vec::new();
        unsigned(&mut key, bytes as u64);
        key.resize(key.len() + bytes, b'k');
        let mut parts = Parts::default();
        parts.other_actors.clear();
        parts.columns.clear();
        with(&[
            (KEY_STRING, &run(&key)),
            (INSERT, &flags),
            (ACTION, &run(&[1])),
            (VALUE_METADATA, &run(&[0])),
            (PREDECESSOR_COUNT, &run(&[0])),
        ])(&mut parts);
        parse_change(&seal(&parts.data()))
    };
    let times = CHANGE_NAMES_BYTES_MAX / KEY_BYTES_MAX;
    assert!(keys(times, KEY_BYTES_MAX).is_ok());
    assert!(keys(times + 1, KEY_BYTES_MAX).unwrap_err().is_too_large());
    assert!(keys(2, KEY_BYTES_MAX + 1).unwrap_err().is_too_large());
}

#[test]
fn actions_do_what_automerge_writes_and_nothing_else() {
    // The default operation supersedes two; those of `three` none.
    let replacing = |columns: &[(u64, &[u8])]| {
        parse_with(with(columns))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let null: [(u64, &[u8]); 2] = [(VALUE_METADATA, &[0x7f, 0]), (VALUE, &[])];
    for action in [0, 1, 2, 3, 4] {
        replacing(&[(ACTION, &[0x7f, action]), null[0], null[1]]).unwrap();
    }
    for (action, why) in [
        (0, "creates an object with a value"),
        (2, "creates an object with a value"),
        (3, "deletes with a value"),
        (4, "creates an object with a value"),
        (5, "adds what is not an integer"),
        (6, "creates a table"),
        (7, "marks without inserting"),
        (8, "does what is not known"),
    ] {
        let refused = replacing(&[(ACTION, &[0x7f, action])]).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let one: [(u64, &[u8]); 2] = [(VALUE_METADATA, &[0x7f, 0x14]), (VALUE, &[1])];
    replacing(&[(ACTION, &[0x7f, 5]), one[0], one[1]]).unwrap();
    assert!(refused(&[(ACTION, &[3, 3])]).contains("changes nothing"));
    let adding = refused(&[
        (ACTION, &[3, 5]),
        (VALUE_METADATA, &[3, 0x14]),
        (VALUE, &[1; 3]),
    ]);
    assert!(adding.contains("changes nothing"), "{adding}");
    for column in [(EXPAND, &[0, 3][..]), (MARK_NAME, b"\x03\x01m")] {
        assert!(refused(&[column]).contains("what only a mark has"));
    }
    let list: [(u64, &[u8]); 4] = [
        (KEY_STRING, b""),
        (KEY_COUNTER, &[0x7f, 0]),
        (OBJECT_ACTOR, &[0x7f, 1]),
        (OBJECT_COUNTER, &[0x7f, 1]),
    ];
    let head = replacing(&list).unwrap_err();
    assert!(head.contains("start of a list"), "{head}");
    let inserting = [list[0], list[1], list[2], list[3], (INSERT, &[0, 1][..])];
    let inserted = replacing(&inserting).unwrap_err();
    assert!(inserted.contains("supersedes others"), "{inserted}");
}

#[test]
fn a_mark_ends_right_after_it_began() {
    let marks = |names: &[u8], metadata: &[u8], objects: &[u8], actions: &[u8]| {
        three(&[
            (OBJECT_ACTOR, &[3, 0]),
            (OBJECT_COUNTER, objects),
            (KEY_STRING, b""),
            (KEY_COUNTER, &[3, 0]),
            (INSERT, &[0, 3]),
            (ACTION, actions),
            (VALUE_METADATA, metadata),
            (EXPAND, &[0, 1, 2]),
            (MARK_NAME, names),
        ])
        .map_err(|error| error.to_string())
    };
    let (same, null) = (&[3, 1][..], &[3, 0][..]);
    // Put, begin, end is right but for the flag on the put; begin, end, begin is right.
    marks(b"\x7f\x01m\x00\x01\x7f\x01n", null, same, &[3, 7]).unwrap();
    let put = marks(b"\x00\x01\x7f\x01m\x00\x01", null, same, &[0x7f, 1, 2, 7]);
    assert!(put.unwrap_err().contains("what only a mark has"));
    let twice = marks(b"\x7f\x01m\x00\x02", null, same, &[3, 7]).unwrap_err();
    assert!(twice.contains("did not begin"), "{twice}");
    let elsewhere = marks(
        b"\x7f\x01m\x00\x01\x7f\x01n",
        null,
        &[0x7f, 1, 2, 2],
        &[3, 7],
    );
    assert!(elsewhere.unwrap_err().contains("did not begin"));
    let value = marks(b"\x7f\x01m\x00\x01\x7f\x01n", &[3, 1], same, &[3, 7]);
    assert!(value.unwrap_err().contains("ends a mark with a value"));
}

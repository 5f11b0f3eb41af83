//! The columns of a change: which there are, and where each one's data lies.

use std::fmt;

use super::error::{ChangePart, GuardError};
use super::leb::Reader;

/// The bit of a column's id that says its data is deflated; a change never has it.
const COLUMN_DEFLATED: u32 = 0b1000;

/// A column of a change's operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Column {
    /// Whose operation created the object that is written to.
    ObjectActor,
    /// That operation's counter.
    ObjectCounter,
    /// Whose operation created the list element that is written to, or after which one is inserted.
    KeyActor,
    /// That operation's counter; 0 for the start of the list.
    KeyCounter,
    /// The key in a map.
    KeyString,
    /// Whether a list element is inserted.
    Insert,
    /// What is done.
    Action,
    /// Type and length of the value.
    ValueMetadata,
    /// The values, one after another.
    Value,
    /// How many operations are superseded.
    PredecessorCount,
    /// Whose they are.
    PredecessorActor,
    /// Their counters.
    PredecessorCounter,
    /// Whether a mark grows with text inserted at its edge.
    Expand,
    /// What a mark is called.
    MarkName,
}

/// All columns under their ids, in the order in which a change has them.
const COLUMNS: [(u32, Column); 14] = [
    (0x01, Column::ObjectActor),
    (0x02, Column::ObjectCounter),
    (0x11, Column::KeyActor),
    (0x13, Column::KeyCounter),
    (0x15, Column::KeyString),
    (0x34, Column::Insert),
    (0x42, Column::Action),
    (0x56, Column::ValueMetadata),
    (0x57, Column::Value),
    (0x70, Column::PredecessorCount),
    (0x71, Column::PredecessorActor),
    (0x73, Column::PredecessorCounter),
    (0x94, Column::Expand),
    (0xa5, Column::MarkName),
];

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ObjectActor => "object actor",
            Self::ObjectCounter => "object counter",
            Self::KeyActor => "key actor",
            Self::KeyCounter => "key counter",
            Self::KeyString => "key",
            Self::Insert => "insert",
            Self::Action => "action",
            Self::ValueMetadata => "value metadata",
            Self::Value => "value",
            Self::PredecessorCount => "predecessor count",
            Self::PredecessorActor => "predecessor actor",
            Self::PredecessorCounter => "predecessor counter",
            Self::Expand => "expand",
            Self::MarkName => "mark name",
        })
    }
}

/// Where the data of each column lies.
#[derive(Clone, Debug)]
pub(super) struct Columns<'a> {
    data: [Option<&'a [u8]>; COLUMNS.len()],
}

impl<'a> Columns<'a> {
    /// Reads the ids and lengths of the columns, then takes their data.
    ///
    /// Unknown columns are refused: Automerge reads a change that has one, drops the column, and
    /// then knows the change by another hash. So are empty ones, which Automerge leaves out.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, GuardError> {
        let part = ChangePart::Columns;
        let count = reader.count(part, COLUMNS.len())?;
        let mut lengths = [None; COLUMNS.len()];
        let mut previous = None;
        for _ in 0..count {
            let value = reader.unsigned(part)?;
            let column =
                u32::try_from(value).map_err(|_| GuardError::OutOfRange { part, value })?;
            if column & COLUMN_DEFLATED != 0 {
                return Err(GuardError::DeflatedColumn { column });
            }
            if previous.is_some_and(|previous| previous >= column) {
                return Err(GuardError::NotAscending { part });
            }
            previous = Some(column);
            let place = COLUMNS
                .binary_search_by_key(&column, |(id, _)| *id)
                .map_err(|_| GuardError::UnknownColumn { column })?;
            let bytes = reader.unsigned(part)?;
            if bytes == 0 {
                return Err(GuardError::NotCanonical {
                    part: ChangePart::Column(COLUMNS[place].1),
                    what: "an empty column is not left out",
                });
            }
            lengths[place] = Some(bytes);
        }
        let mut data = [None; COLUMNS.len()];
        for (data, length) in data.iter_mut().zip(lengths) {
            if let Some(length) = length {
                *data = Some(reader.bytes(length, part)?);
            }
        }
        Ok(Self { data })
    }

    /// The data of a column; `None` if it was left out.
    pub(super) fn get(&self, column: Column) -> Option<&'a [u8]> {
        self.data[column as usize]
    }

    /// Some column that is there.
    pub(super) fn first(&self) -> Option<Column> {
        let place = self.data.iter().position(Option::is_some)?;
        Some(COLUMNS[place].1)
    }
}

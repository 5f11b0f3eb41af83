//! Columns as runs: each gives its entries one by one and never holds more than one of them, and
//! refuses every form but the one Automerge writes.
//!
//! That form: a value that stands twice or more in a row is a run; values that do not are one
//! literal as long as possible; absent values are a run of their own; and a column without any value
//! is left out. So a sequence of entries has exactly one encoding.

use super::error::{ChangePart, GuardError};
use super::leb::Reader;
use crate::limits::KEY_BYTES_MAX;

/// Something a run can hold.
pub(super) trait Entry<'a>: Copy + PartialEq {
    fn read(reader: &mut Reader<'a>, part: ChangePart) -> Result<Self, GuardError>;
}

impl<'a> Entry<'a> for u64 {
    fn read(reader: &mut Reader<'a>, part: ChangePart) -> Result<Self, GuardError> {
        reader.unsigned(part)
    }
}

impl<'a> Entry<'a> for i64 {
    fn read(reader: &mut Reader<'a>, part: ChangePart) -> Result<Self, GuardError> {
        reader.signed(part)
    }
}

impl<'a> Entry<'a> for &'a str {
    fn read(reader: &mut Reader<'a>, part: ChangePart) -> Result<Self, GuardError> {
        reader.text(part, KEY_BYTES_MAX)
    }
}

/// A column of values that may be absent.
#[derive(Clone, Debug)]
pub(super) struct Runs<'a, T> {
    part: ChangePart,
    reader: Reader<'a>,
    /// Longest run taken: as many entries as the column may have.
    entries_max: u64,
    is_left_out: bool,
    has_values: bool,
    run: Run<T>,
    /// Entries of the run that were not given yet.
    left: u64,
}

#[derive(Clone, Copy, Debug)]
enum Run<T> {
    /// Before the first run.
    Start,
    Absent,
    Same(T),
    /// Values each unlike the one before; holds the last that was read.
    Literal(T),
}

impl<'a, T: Entry<'a>> Runs<'a, T> {
    /// The entries of a column; `None` is one that was left out.
    pub(super) fn new(part: ChangePart, data: Option<&'a [u8]>, entries_max: u64) -> Self {
        Self {
            part,
            reader: Reader::new(data.unwrap_or_default()),
            entries_max,
            is_left_out: data.is_none(),
            has_values: false,
            run: Run::Start,
            left: 0,
        }
    }

    /// How many entries the column has, summing the lengths of its runs.
    pub(super) fn count(mut self) -> Result<u64, GuardError> {
        let mut count = 0_u64;
        while !self.reader.is_empty() {
            self.begin()?;
            count = self.left.saturating_add(count);
            if count > self.entries_max {
                return Err(GuardError::TooMany {
                    part: self.part,
                    count,
                    count_max: usize::try_from(self.entries_max).unwrap_or(usize::MAX),
                });
            }
            if let Run::Literal(_) = self.run {
                for _ in 1..self.left {
                    self.next_literal()?;
                }
            }
            self.left = 0;
        }
        Ok(count)
    }

    /// The next entry; absent for ever in a column that was left out.
    pub(super) fn next(&mut self) -> Result<Option<T>, GuardError> {
        if self.left > 0 {
            self.left -= 1;
            if let Run::Literal(_) = self.run {
                self.next_literal()?;
            }
        } else if self.is_left_out {
            return Ok(None);
        } else if self.reader.is_empty() {
            return Err(GuardError::EntryMissing { part: self.part });
        } else {
            self.begin()?;
            if self.left > self.entries_max {
                return Err(GuardError::EntryTooMany { part: self.part });
            }
            self.left -= 1;
        }
        Ok(match self.run {
            Run::Start | Run::Absent => None,
            Run::Same(value) | Run::Literal(value) => Some(value),
        })
    }

    /// The next entry of a column in which none may be absent.
    pub(super) fn next_value(&mut self) -> Result<T, GuardError> {
        let part = self.part;
        self.next()?.ok_or(GuardError::EntryMissing { part })
    }

    /// Refuses entries beyond those that were taken, and a column without values.
    pub(super) fn finish(self) -> Result<(), GuardError> {
        if self.left > 0 || !self.reader.is_empty() {
            return Err(GuardError::EntryTooMany { part: self.part });
        }
        if !self.is_left_out && !self.has_values {
            return Err(self.not_canonical("a column without values is not left out"));
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), GuardError> {
        let part = self.part;
        let length = self.reader.signed(part)?;
        let before = self.run;
        let (run, left) = if length == 0 {
            if let Run::Absent = before {
                return Err(self.not_canonical("two runs of absent values follow each other"));
            }
            (Run::Absent, self.reader.unsigned(part)?)
        } else {
            let value = T::read(&mut self.reader, part)?;
            if let Run::Same(last) | Run::Literal(last) = before
                && last == value
            {
                return Err(self.not_canonical("a value continues the run before it"));
            }
            self.has_values = true;
            if length > 0 {
                (Run::Same(value), length.unsigned_abs())
            } else if let Run::Literal(_) = before {
                return Err(self.not_canonical("two literals follow each other"));
            } else {
                (Run::Literal(value), length.unsigned_abs())
            }
        };
        if left == 0 || length == 1 {
            return Err(self.not_canonical("a run is too short to be one"));
        }
        (self.run, self.left) = (run, left);
        Ok(())
    }

    fn next_literal(&mut self) -> Result<(), GuardError> {
        let value = T::read(&mut self.reader, self.part)?;
        if let Run::Literal(last) = self.run
            && last == value
        {
            return Err(self.not_canonical("a literal repeats a value"));
        }
        self.run = Run::Literal(value);
        Ok(())
    }

    fn not_canonical(&self, what: &'static str) -> GuardError {
        GuardError::NotCanonical {
            part: self.part,
            what,
        }
    }
}

/// A column of numbers, each stored as what it differs by from the one before.
#[derive(Clone, Debug)]
pub(super) struct Deltas<'a> {
    runs: Runs<'a, i64>,
    last: i64,
}

impl<'a> Deltas<'a> {
    pub(super) fn new(part: ChangePart, data: Option<&'a [u8]>, entries_max: u64) -> Self {
        Self {
            runs: Runs::new(part, data, entries_max),
            last: 0,
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<u64>, GuardError> {
        let Some(delta) = self.runs.next()? else {
            return Ok(None);
        };
        let part = self.runs.part;
        // Nothing in a document counts below zero or near the end of 64 bits.
        let number = self.last.checked_add(delta);
        let number = number.and_then(|number| u64::try_from(number).ok());
        match number {
            Some(number) => {
                self.last += delta;
                Ok(Some(number))
            }
            None => Err(GuardError::OutOfRange {
                part,
                value: delta.unsigned_abs(),
            }),
        }
    }

    pub(super) fn next_value(&mut self) -> Result<u64, GuardError> {
        let part = self.runs.part;
        self.next()?.ok_or(GuardError::EntryMissing { part })
    }

    pub(super) fn finish(self) -> Result<(), GuardError> {
        self.runs.finish()
    }
}

/// A column of flags, stored as how many are false, then true, and so on.
#[derive(Clone, Debug)]
pub(super) struct Flags<'a> {
    part: ChangePart,
    reader: Reader<'a>,
    entries_max: u64,
    is_left_out: bool,
    /// Whether the column is left out if all its flags are false.
    is_optional: bool,
    has_true: bool,
    /// `None` before the first run.
    flag: Option<bool>,
    left: u64,
}

impl<'a> Flags<'a> {
    pub(super) fn new(
        part: ChangePart,
        data: Option<&'a [u8]>,
        entries_max: u64,
        is_optional: bool,
    ) -> Self {
        Self {
            is_optional,
            part,
            reader: Reader::new(data.unwrap_or_default()),
            entries_max,
            is_left_out: data.is_none(),
            has_true: false,
            flag: None,
            left: 0,
        }
    }

    pub(super) fn next(&mut self) -> Result<bool, GuardError> {
        let part = self.part;
        if self.is_left_out && self.is_optional {
            return Ok(false);
        }
        while self.left == 0 {
            if self.reader.is_empty() {
                return Err(GuardError::EntryMissing { part });
            }
            let is_first = self.flag.is_none();
            self.flag = Some(self.flag.is_some_and(|flag| !flag));
            self.left = self.reader.unsigned(part)?;
            if self.left == 0 && !is_first {
                let what = "a run of flags is empty";
                return Err(GuardError::NotCanonical { part, what });
            }
            if self.left > self.entries_max {
                return Err(GuardError::EntryTooMany { part });
            }
        }
        self.left -= 1;
        let flag = self.flag == Some(true);
        self.has_true |= flag;
        Ok(flag)
    }

    /// Refuses flags beyond those that were taken, and a column that should be left out.
    pub(super) fn finish(self) -> Result<(), GuardError> {
        let part = self.part;
        if self.left > 0 || !self.reader.is_empty() {
            return Err(GuardError::EntryTooMany { part });
        }
        if self.is_optional && !self.is_left_out && !self.has_true {
            let what = "a column without values is not left out";
            return Err(GuardError::NotCanonical { part, what });
        }
        Ok(())
    }
}

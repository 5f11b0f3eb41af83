//! Reading parts off the front of a slice: numbers, strings, fixed lengths. Nothing is copied, and
//! a number is taken in its shortest form only.

use super::error::{ChangePart, GuardError};

/// Reads parts off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes are left.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Refuses bytes after the end of a part.
    pub(super) fn finish(self, part: ChangePart) -> Result<(), GuardError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(GuardError::TrailingBytes { part, bytes }),
        }
    }

    pub(super) fn count(
        &mut self,
        part: ChangePart,
        count_max: usize,
    ) -> Result<usize, GuardError> {
        let count = self.unsigned(part)?;
        match usize::try_from(count) {
            Ok(small) if small <= count_max => Ok(small),
            _ => Err(GuardError::TooMany {
                part,
                count,
                count_max,
            }),
        }
    }

    /// Reads bytes that follow their length.
    pub(super) fn string(
        &mut self,
        part: ChangePart,
        bytes_max: usize,
    ) -> Result<&'a [u8], GuardError> {
        let bytes = self.unsigned(part)?;
        if bytes > bytes_max as u64 {
            return Err(GuardError::TooLong {
                part,
                bytes,
                bytes_max,
            });
        }
        self.bytes(bytes, part)
    }

    /// Reads UTF-8 that follows its length in bytes.
    pub(super) fn text(
        &mut self,
        part: ChangePart,
        bytes_max: usize,
    ) -> Result<&'a str, GuardError> {
        let bytes = self.string(part, bytes_max)?;
        std::str::from_utf8(bytes).map_err(|_| GuardError::NotUtf8 { part })
    }

    /// Reads an unsigned LEB128 number: at most ten bytes, the last not zero unless it is the only
    /// one, and nothing beyond bit 63.
    pub(super) fn unsigned(&mut self, part: ChangePart) -> Result<u64, GuardError> {
        // Most numbers of a change are small.
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(part)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if shift > 0 && byte == 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(GuardError::Leb128 { part })
    }

    /// Reads a signed LEB128 number: at most ten bytes, the last not a mere extension of the sign
    /// already there, and the tenth nothing but sign.
    pub(super) fn signed(&mut self, part: ChangePart) -> Result<i64, GuardError> {
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            // Seven bits, the highest of them the sign.
            return Ok(i64::from((*byte << 1) as i8 >> 1));
        }
        let mut value = 0_i64;
        let mut sign_so_far = None;
        for shift in (0..64).step_by(7) {
            let byte = self.byte(part)?;
            let bits = i64::from(byte & 0x7f);
            if shift == 63 && bits != 0 && bits != 0x7f {
                break;
            }
            value |= bits << shift;
            let negative = byte & 0x40 != 0;
            if byte & 0x80 == 0 {
                let extension = if negative { 0x7f } else { 0 };
                if sign_so_far == Some(negative) && byte == extension {
                    break;
                }
                if negative && shift < 57 {
                    value |= -1 << (shift + 7);
                }
                return Ok(value);
            }
            sign_so_far = Some(negative);
        }
        Err(GuardError::Leb128 { part })
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        part: ChangePart,
    ) -> Result<[u8; N], GuardError> {
        let (array, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(GuardError::Truncated { part })?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self, bytes: u64, part: ChangePart) -> Result<&'a [u8], GuardError> {
        let (taken, rest) = usize::try_from(bytes)
            .ok()
            .and_then(|bytes| self.rest.split_at_checked(bytes))
            .ok_or(GuardError::Truncated { part })?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self, part: ChangePart) -> Result<u8, GuardError> {
        let (byte, rest) = self
            .rest
            .split_first()
            .ok_or(GuardError::Truncated { part })?;
        self.rest = rest;
        Ok(*byte)
    }
}

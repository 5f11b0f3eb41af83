//! The data of a change cut into pieces that can be altered one by one, for attacks on the guard.

use super::ChangePart;
use super::leb::Reader;

/// The data of a change in pieces, so that columns can be altered and all lengths still be right.
#[derive(Clone)]
pub struct Pieces {
    /// What stands before the columns.
    pub front: Vec<u8>,
    /// The columns under their ids.
    pub columns: Vec<(u64, Vec<u8>)>,
    /// What stands behind them.
    pub footer: Vec<u8>,
}

impl Pieces {
    /// Cuts the data of a change that passes the guard; `None` for any other.
    pub fn cut(data: &[u8]) -> Option<Self> {
        let part = ChangePart::ChunkData;
        let mut reader = Reader::new(data);
        for _ in 0..reader.unsigned(part).ok()? {
            reader.array::<32>(part).ok()?;
        }
        reader.string(part, usize::MAX).ok()?;
        reader.unsigned(part).ok()?;
        reader.unsigned(part).ok()?;
        reader.signed(part).ok()?;
        reader.string(part, usize::MAX).ok()?;
        for _ in 0..reader.unsigned(part).ok()? {
            reader.string(part, usize::MAX).ok()?;
        }
        let front = data[..data.len() - reader.left()].to_vec();
        let mut ids = Vec::new();
        for _ in 0..reader.unsigned(part).ok()? {
            ids.push((reader.unsigned(part).ok()?, reader.unsigned(part).ok()?));
        }
        let mut columns = Vec::new();
        for (id, bytes) in ids {
            columns.push((id, reader.bytes(bytes, part).ok()?.to_vec()));
        }
        let footer = data[data.len() - reader.left()..].to_vec();
        Some(Self {
            front,
            columns,
            footer,
        })
    }

    /// The data that these pieces make, whatever they hold.
    pub fn data(&self) -> Vec<u8> {
        let mut data = self.front.clone();
        unsigned(&mut data, self.columns.len() as u64);
        for (id, column) in &self.columns {
            unsigned(&mut data, *id);
            unsigned(&mut data, column.len() as u64);
        }
        for (_, column) in &self.columns {
            data.extend_from_slice(column);
        }
        data.extend_from_slice(&self.footer);
        data
    }

    /// Alters a column, mostly in ways that leave it readable; `below` draws a number below its own.
    pub fn mutate(&mut self, below: &mut impl FnMut(usize) -> usize) {
        const IDS: [u64; 16] = [
            0x01, 0x02, 0x11, 0x13, 0x15, 0x34, 0x42, 0x56, 0x57, 0x70, 0x71, 0x73, 0x94, 0xa5,
            0xb2, 0x85,
        ];
        if self.columns.is_empty() {
            return;
        }
        let at = below(self.columns.len());
        let kinds = below(12);
        let (id, column) = &mut self.columns[at];
        let position = below(column.len().max(1));
        match kinds {
            0..=2 if !column.is_empty() => column[position] ^= 1 << below(8),
            3 if !column.is_empty() => column[position] = column[position].wrapping_add(1),
            4 if !column.is_empty() => column[position] = column[position].wrapping_sub(1),
            5 => column.insert(position, below(256) as u8 & 0x83),
            6 if !column.is_empty() => {
                column.remove(position);
            }
            7 => split_a_run(below, column),
            8 => {
                self.columns.remove(at);
            }
            9 => {
                let id = IDS[below(IDS.len())];
                let mut run = Vec::new();
                signed(&mut run, 1 + below(3) as i64);
                run.push(below(256) as u8 & 3);
                self.columns.retain(|(known, _)| *known != id);
                self.columns.push((id, run));
                self.columns.sort();
            }
            10 => *id = IDS[below(IDS.len())],
            _ => column.extend_from_slice(&[0x7f, below(256) as u8 & 3]),
        }
    }
}

/// Writes the first run of a column as two, which hold the same entries; knows entries of one byte.
fn split_a_run(below: &mut impl FnMut(usize) -> usize, column: &mut Vec<u8>) {
    let mut reader = Reader::new(column);
    let Ok(length) = reader.signed(ChangePart::ChunkData) else {
        return;
    };
    let mut header = Vec::new();
    signed(&mut header, length);
    let Some((entry, rest)) = column[header.len()..].split_first() else {
        return;
    };
    let first = match length {
        2.. => 1 + below(length as usize - 1) as i64,
        ..-1 => -1,
        _ => return,
    };
    let mut out = Vec::new();
    signed(&mut out, first);
    out.push(*entry);
    signed(&mut out, length - first);
    if length > 0 {
        out.push(*entry);
    }
    out.extend_from_slice(rest);
    *column = out;
}

pub(crate) fn unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn signed(out: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if (value == 0 && byte & 0x40 == 0) || (value == -1 && byte & 0x40 != 0) {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

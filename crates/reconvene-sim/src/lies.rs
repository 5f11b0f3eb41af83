//! What a liar says: frames that others sent, altered.

use bytes::Bytes;
use reconvene_core::wire::Frame;

use crate::world::{NodeId, World};

impl World {
    /// Gives a node something like a frame that was sent before, as if another had sent it; whether
    /// there is a wire for that.
    pub fn lie(&mut self, from: NodeId, to: NodeId, frame: u64, alter: u64) -> bool {
        let recorded = self.recorded.as_deref().unwrap_or_default();
        let below = |number: u64, bound: usize| {
            usize::try_from(number % bound as u64).expect("it is below a usize")
        };
        let is_heard = self.is_awake(to) && !self.wires_between(from, to).is_empty();
        if recorded.is_empty() || !is_heard {
            return false;
        }
        let mut frame = recorded[below(frame, recorded.len())].to_vec();
        let place = below(alter >> 16, frame.len().max(1));
        let [.., byte] = (alter >> 8).to_be_bytes();
        match alter % 5 {
            0 => frame.truncate(place),
            1 => frame.insert(place, byte),
            2 if !frame.is_empty() => frame[place] ^= byte,
            3 if !frame.is_empty() => drop(frame.remove(place)),
            4 => frame = spoil_change(&frame, alter >> 16).unwrap_or(frame),
            _ => {}
        }
        self.inject(from, to, frame.into());
        true
    }
}

/// A frame with one byte of one of its changes spoilt, in which nothing else is wrong wherever it is sent;
/// `None` if it has no changes.
fn spoil_change(frame: &[u8], alter: u64) -> Option<Vec<u8>> {
    let Ok(Frame::Changes(mut changes)) = Frame::decode(&Bytes::copy_from_slice(frame)) else {
        return None;
    };
    let below = |number: u64, bound: usize| usize::try_from(number % bound.max(1) as u64).ok();
    let count = changes.documents.len();
    let document = changes.documents.get_mut(below(alter, count)?)?;
    let count = document.changes.len();
    let body = document.changes.get_mut(below(alter >> 4, count)?)?;
    let mut spoilt = body.to_vec();
    let place = below(alter >> 8, spoilt.len())?;
    *spoilt.get_mut(place)? ^= 1 << (alter >> 32 & 7);
    *body = spoilt.into();
    (changes.feed, changes.early) = (None, true);
    let mut frames = Frame::Changes(changes).encode().into_iter();
    Some(frames.next()?.to_vec())
}

//! What a peer says that was let in and keeps to no rule, as any bytes. The package `fuzz/` feeds it.

use std::time::Duration;

use bytes::Bytes;
use reconvene_core::wire::{Changes, DocumentChanges, Frame, Role};

use crate::changes::{KIND, Recipe, genesis, make};
use crate::world::{NodeId, World, document, workspace};

/// Most steps that are played.
const STEPS_MAX: usize = 40;
/// Documents that the liar knows of.
const DOCUMENTS: u64 = 4;

/// A server and two devices in step, one of which says whatever the bytes say; to a device a server may
/// say the same. Nothing panics, and once the liar is gone the others come to rest, and what is written
/// then gets through.
pub fn liar(mut data: &[u8]) {
    let mut stage = Stage::new();
    for _ in 0..STEPS_MAX {
        if stage.step(&mut data).is_none() {
            break;
        }
    }
    stage.end();
}

struct Stage {
    world: World,
    server: NodeId,
    honest: NodeId,
    liar: NodeId,
    number: u64,
    /// Changes that it made up, to depend on.
    made: Vec<reconvene_core::ids::ChangeHash>,
}

impl Stage {
    fn new() -> Self {
        let mut world = World::new(1);
        let server = world.add(Role::Server);
        let [honest, liar] = [Role::Device; 2].map(|role| world.add(role));
        for device in [honest, liar] {
            world.share(server, device, &[workspace(1)]);
        }
        world.liars = true;
        world.recorded = Some(Vec::new());
        world.run_until_quiet();
        for device in [honest, liar] {
            world.connect(device, server);
            world.edit(device, workspace(1), document(device as u64), 40);
        }
        world.run_until_quiet();
        Self {
            world,
            server,
            honest,
            liar,
            number: 1,
            made: vec![genesis(KIND).hash],
        }
    }

    /// Does what the next bytes say; `None` at their end.
    fn step(&mut self, data: &mut &[u8]) -> Option<()> {
        let what = byte(data)?;
        let (from, to) = match what & 8 {
            0 => (self.liar, self.server),
            _ => (self.server, self.honest),
        };
        match what % 8 {
            0..=2 => {
                let length = u16::from_be_bytes([byte(data)?, byte(data)?]);
                let (frame, rest) = data.split_at(usize::from(length).min(data.len()));
                *data = rest;
                // A link hands on no empty frame.
                if !frame.is_empty() {
                    self.world.inject(from, to, Bytes::copy_from_slice(frame));
                }
            }
            3 => self.forge(data, from, to)?,
            4 => {
                let frame = u64::from(byte(data)?);
                let alter = [byte(data)?, byte(data)?, byte(data)?];
                let alter = alter
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
                self.world.lie(from, to, frame, alter);
            }
            5 => {
                let time = u64::from(byte(data)?) * 20;
                self.world.advance(Duration::from_millis(time));
            }
            6 => {
                let place = document(u64::from(byte(data)?) % DOCUMENTS);
                self.world.edit(self.honest, workspace(1), place, 40);
            }
            _ => {
                self.world.disconnect(self.liar, self.server);
                self.world.connect(self.liar, self.server);
                self.world.advance(Duration::from_secs(2));
            }
        }
        Some(())
    }

    /// Sends a change that nobody made, with everything about it as the bytes say.
    fn forge(&mut self, data: &mut &[u8], from: NodeId, to: NodeId) -> Option<()> {
        let place = document(u64::from(byte(data)?) % DOCUMENTS);
        let (actor, seq, start_op, after, how) = (
            byte(data)?,
            byte(data)?,
            byte(data)?,
            byte(data)?,
            byte(data)?,
        );
        let made = make(Recipe {
            actor: [actor; 16],
            seq: u64::from(seq.max(1)),
            start_op: u64::from(start_op.max(1)),
            dependencies: vec![self.made[usize::from(after) % self.made.len()]],
            value: vec![how],
        });
        self.made.push(made.hash);
        self.number += u64::from(how % 4);
        let changes = Frame::Changes(Changes {
            workspace: workspace(1),
            documents: vec![DocumentChanges {
                document: place,
                kind: KIND,
                snapshot: None,
                changes: vec![made.body],
                purged: None,
            }],
            feed: None,
            number: self.number,
            early: how & 4 != 0,
        });
        for frame in changes.encode() {
            self.world.inject(from, to, frame);
        }
        Some(())
    }

    fn end(mut self) {
        let (world, shared) = (&mut self.world, workspace(1));
        world.disconnect(self.liar, self.server);
        world.part(self.liar, self.server);
        // Longer than the longest backoff.
        world.advance(Duration::from_secs(70));
        world.run_until_quiet();
        let fresh = document(1_000);
        world.edit(self.honest, shared, fresh, 40);
        world.run_until_quiet();
        let held = world.held(self.server, shared);
        assert!(held.iter().any(|fact| fact.1 == fresh));
    }
}

fn byte(data: &mut &[u8]) -> Option<u8> {
    let (first, rest) = data.split_first()?;
    *data = rest;
    Some(*first)
}

//! Wires: ordered both ways, each frame with its own delay, cut at any time. What is on its way
//! when a wire is cut is lost; what was sent before a close still arrives.

use bytes::Bytes;
use reconvene_core::engine::{Input, stored_frames};
use reconvene_core::ids::{LinkId, WorkspaceId};
use reconvene_core::limits::{FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX};
use reconvene_core::wire::{Assembler, Frame};

use crate::world::{Arrival, Happening, NodeId, Sending, Swallow, World};

/// After how many milliseconds of silence a link ends.
const IDLE_AFTER: u64 = 30_000;

/// Of how many frames a liar makes up something like them.
const LIES_OF: usize = 128;

/// A wire, numbered in the order of laying.
pub(crate) type WireId = u64;

/// One of a wire's two ends; 0 is the one that dialled.
pub(crate) type Side = usize;

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) ends: [End; 2],
    cut: bool,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) node: NodeId,
    pub(crate) link: LinkId,
    up: bool,
    /// When it was last heard from the other end.
    heard_at: u64,
    /// Nothing is given to this end any more, and nothing sent from it.
    closed: bool,
    /// What was to be sent could not be read: no frame follows it.
    failed: bool,
    admitted: bool,
    sent_any: bool,
    /// No frame leaves before this.
    ready_at: u64,
    /// No frame of this end arrives at the other before this.
    arrive_at: u64,
    pub(crate) traffic: Traffic,
    /// Puts together what this end sent, to look at it.
    pub(crate) overheard: Assembler,
    /// Log lengths of both nodes when this end said its last hello: its own, then the other's.
    pub(crate) greeted: Option<Greeted>,
    pub(crate) unacknowledged: Vec<(u64, usize)>,
}

/// What both ends of a wire held when this end greeted.
#[derive(Clone, Debug)]
pub(crate) struct Greeted {
    pub(crate) held: usize,
    pub(crate) workspaces: Vec<WorkspaceId>,
}

/// What one end of a wire sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Their bodies and lengths.
    pub bytes: u64,
    /// The most change bytes ever sent and not acknowledged.
    pub unacknowledged_max: usize,
}

impl Wire {
    pub(crate) fn is_up(&self) -> bool {
        !self.cut && self.ends.iter().all(|end| end.up && !end.closed)
    }
}

impl End {
    fn new(node: NodeId, link: LinkId) -> Self {
        Self {
            node,
            link,
            up: false,
            heard_at: 0,
            closed: false,
            failed: false,
            admitted: false,
            sent_any: false,
            ready_at: 0,
            arrive_at: 0,
            traffic: Traffic::default(),
            overheard: Assembler::default(),
            greeted: None,
            unacknowledged: Vec::new(),
        }
    }
}

impl World {
    pub(crate) fn wires_of(&self, node: NodeId) -> Vec<WireId> {
        let wires = self.wires.iter().filter(|(_, wire)| {
            !wire.cut && wire.ends.iter().any(|end| end.node == node && !end.closed)
        });
        wires.map(|(id, _)| *id).collect()
    }

    /// How many wires were laid so far.
    pub fn wires_laid(&self) -> usize {
        self.wires.len()
    }

    pub(crate) fn wires_between(&self, one: NodeId, other: NodeId) -> Vec<WireId> {
        let wires = self.wires_of(one).into_iter().filter(|id| {
            let wire = &self.wires[id];
            wire.ends.iter().any(|end| end.node == other)
        });
        wires.collect()
    }

    /// What a node sent another over the last wire laid between them.
    pub fn traffic(&self, from: NodeId, to: NodeId) -> Traffic {
        let ends = self.wires.values().rev().filter_map(|wire| {
            let side = wire.ends.iter().position(|end| end.node == from)?;
            (wire.ends[1 - side].node == to).then_some(wire.ends[side].traffic)
        });
        ends.into_iter().next().unwrap_or_default()
    }

    pub(crate) fn find_end(&self, node: NodeId, link: LinkId) -> Option<(WireId, Side)> {
        // Links are numbered in pairs: the dialling side's is the wire's own number.
        let (id, side) = if link.0 % 2 == 1 {
            (link.0, 0)
        } else {
            (link.0 - 1, 1)
        };
        let wire = self.wires.get(&id)?;
        (wire.ends[side].node == node).then_some((id, side))
    }

    pub(crate) fn lay_wire(&mut self, nodes: [NodeId; 2], links: [LinkId; 2]) {
        let ends = [End::new(nodes[0], links[0]), End::new(nodes[1], links[1])];
        let id = links[0].0;
        self.wires.insert(id, Wire { ends, cut: false });
        self.arrive_later(id, 1, Arrival::Up);
        self.arrive(id, 0, Arrival::Up);
    }

    pub(crate) fn cut(&mut self, id: WireId, why: &str) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut wire.cut, true) {
            return;
        }
        for side in [0, 1] {
            // Each end notices in its own time; the end of a node that crashed is not there to.
            let delay = self.draw(self.settings.latency);
            let down = Arrival::Down(why.to_owned());
            self.schedule(self.now + delay, Happening::Arrive(id, side, down));
        }
    }

    /// Closes a node's own end of a wire, and tells nobody.
    pub(crate) fn close_end(&mut self, id: WireId, node: NodeId) {
        if let Some(wire) = self.wires.get_mut(&id) {
            for end in wire.ends.iter_mut().filter(|end| end.node == node) {
                end.closed = true;
            }
        }
    }

    pub(crate) fn admit(&mut self, node: NodeId, link: LinkId) {
        if let Some((id, side)) = self.find_end(node, link)
            && let Some(wire) = self.wires.get_mut(&id)
        {
            wire.ends[side].admitted = true;
        }
    }

    /// Puts something a node wants to send in line behind what it sent before.
    pub(crate) fn send(&mut self, node: NodeId, link: LinkId, sending: Sending) {
        let Some((id, side)) = self.find_end(node, link) else {
            panic!(
                "seed {}: node {node} sends on no link of its own",
                self.seed
            );
        };
        let delay = match sending {
            Sending::Stored(_) => self.draw(self.settings.read),
            Sending::Frame(_) | Sending::Close(_) => 0,
        };
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        let end = &mut wire.ends[side];
        if let Sending::Close(_) = sending {
            end.closed = true;
        }
        end.ready_at = end.ready_at.max(self.now + delay);
        let at = end.ready_at;
        self.schedule(at, Happening::Transmit(id, side, sending));
    }

    pub(crate) fn transmit(&mut self, id: WireId, side: Side, sending: Sending) {
        let end = &self.wires[&id].ends[side];
        let (node, link) = (end.node, end.link);
        if self.wires[&id].cut || self.engine(node).is_none() {
            return;
        }
        match sending {
            Sending::Frame(_) | Sending::Stored(_) if end.failed => {}
            Sending::Frame(frame) => self.transmit_frame(id, side, frame),
            Sending::Stored(stored) => match self.disk_mut(node).read_bodies(&stored) {
                Ok(bodies) => {
                    for frame in stored_frames(&stored, bodies) {
                        self.transmit_frame(id, side, frame);
                    }
                }
                Err(failed) => {
                    if let Some(wire) = self.wires.get_mut(&id) {
                        wire.ends[side].failed = true;
                    }
                    let workspace = stored.workspace;
                    let document = Some(failed.document);
                    let error = failed.error;
                    self.give(
                        node,
                        Input::SendFailed {
                            link,
                            workspace,
                            document,
                            error,
                        },
                    );
                }
            },
            Sending::Close(why) => self.arrive_later(id, 1 - side, Arrival::Down(why)),
        }
    }

    fn transmit_frame(&mut self, id: WireId, side: Side, frame: Bytes) {
        assert!(
            frame.len() <= FRAME_BYTES_MAX,
            "seed {}: a frame of {} bytes was sent",
            self.seed,
            frame.len()
        );
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        let first = !std::mem::replace(&mut wire.ends[side].sent_any, true);
        assert!(
            !first || frame.len() <= FIRST_FRAME_BYTES_MAX,
            "seed {}: a first frame of {} bytes",
            self.seed,
            frame.len()
        );
        wire.ends[side].traffic.frames += 1;
        wire.ends[side].traffic.bytes += frame.len() as u64 + 4;
        self.check_frame(id, side, &frame);
        if let Some(recorded) = &mut self.recorded {
            if self.liar.is_some() && recorded.len() >= LIES_OF {
                recorded.remove(0);
            }
            recorded.push(frame.clone());
        }
        if self.is_swallowed(id, side, &frame) {
            return;
        }
        for frame in self.as_spoken(id, side, frame) {
            self.arrive_later(id, 1 - side, Arrival::Frame(frame));
        }
    }

    /// A frame as it comes to the other side where one of the two is of a later version. The engine
    /// speaks one version and finds out from the greeting whether the other does: so the greeting says
    /// version 1 where both speak some version, and a later one where they do not, seen from either side.
    /// Whoever is of a later version also says something that this one does not know.
    fn as_spoken(&self, id: WireId, side: Side, frame: Bytes) -> Vec<Bytes> {
        const NEVER_HEARD_OF: &[u8] = &[0x9a, 0x06, 3, b'n', b'e', b'w'];
        let ends = &self.wires[&id].ends;
        let spoken = |node: NodeId| self.speaks.get(&node).copied().unwrap_or((1, 1));
        let (ours, theirs) = (spoken(ends[side].node), spoken(ends[1 - side].node));
        if self.speaks.is_empty() {
            return vec![frame];
        }
        let Ok(Frame::Hello(mut hello)) = Frame::decode(&frame) else {
            return vec![frame];
        };
        let newest = ours.1.min(theirs.1);
        (hello.protocol_min, hello.protocol_max) = match newest >= ours.0.max(theirs.0) {
            true => (1, newest),
            false => (2, 2),
        };
        let mut frames = Frame::Hello(hello).encode();
        if ours.1 > 1 {
            frames.push(Bytes::from_static(NEVER_HEARD_OF));
        }
        frames
    }

    fn is_swallowed(&self, id: WireId, side: Side, frame: &Bytes) -> bool {
        let ends = &self.wires[&id].ends;
        let (from, to) = (ends[side].node, ends[1 - side].node);
        match self.swallowed {
            Some((one, other, Swallow::Everything)) => {
                (one, other) == (from, to) || (one, other) == (to, from)
            }
            Some((one, other, Swallow::Changes)) => {
                let is_changes = matches!(Frame::decode(frame), Ok(Frame::Changes(_)));
                (one, other) == (from, to) && is_changes
            }
            None => false,
        }
    }

    pub(crate) fn arrive_later(&mut self, id: WireId, side: Side, arrival: Arrival) {
        let ends = &self.wires[&id].ends;
        if self.muted.contains(&(ends[1 - side].node, ends[side].node)) {
            return self.withheld.push((id, side, arrival));
        }
        let delay = self.draw(self.settings.latency);
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        let from = &mut wire.ends[1 - side];
        from.arrive_at = from.arrive_at.max(now + delay);
        let at = from.arrive_at;
        self.schedule(at, Happening::Arrive(id, side, arrival));
    }

    pub(crate) fn arrive(&mut self, id: WireId, side: Side, arrival: Arrival) {
        let Some(wire) = self.wires.get_mut(&id) else {
            return;
        };
        let cut = wire.cut;
        let peer = wire.ends[1 - side].node;
        let end = &mut wire.ends[side];
        let (node, link) = (end.node, end.link);
        if end.closed {
            return;
        }
        match arrival {
            Arrival::Up if cut => {
                end.closed = true;
                if side == 0 {
                    let peer = self.peer(peer);
                    let why = "cut before it was up".to_owned();
                    self.give(node, Input::DialFailed { peer, why });
                }
            }
            Arrival::Up => {
                end.up = true;
                end.heard_at = self.now;
                self.schedule(self.now + IDLE_AFTER, Happening::Idle(id, side));
                let dialed = side == 0;
                let peer = self.peer(peer);
                self.give(node, Input::LinkUp { link, peer, dialed });
            }
            Arrival::Frame(_) if cut || !end.up => {}
            Arrival::Frame(frame) => {
                end.heard_at = self.now;
                self.give(node, Input::FrameArrived { link, frame });
            }
            Arrival::Down(why) => {
                end.closed = true;
                if end.up {
                    self.give(node, Input::LinkDown { link, why });
                }
            }
        }
    }

    /// Whoever carries links ends one on which nothing is heard for too long.
    pub(crate) fn look_whether_idle(&mut self, id: WireId, side: Side) {
        let Some(wire) = self.wires.get(&id) else {
            return;
        };
        let end = &wire.ends[side];
        if end.closed || self.engine(end.node).is_none() {
            return;
        }
        let due = end.heard_at + IDLE_AFTER;
        if due > self.now {
            return self.schedule(due, Happening::Idle(id, side));
        }
        self.arrive(id, side, Arrival::Down("nothing was heard".to_owned()));
    }

    /// Gives a node bytes as if a peer had sent them over the wire between the two.
    pub fn inject(&mut self, from: NodeId, to: NodeId, frame: Bytes) {
        for id in self.wires_between(from, to) {
            let wire = &self.wires[&id];
            let side = usize::from(wire.ends[1].node == to);
            let link = wire.ends[side].link;
            if wire.ends[side].up && !wire.ends[side].closed {
                self.give(
                    to,
                    Input::FrameArrived {
                        link,
                        frame: frame.clone(),
                    },
                );
            }
        }
    }
}

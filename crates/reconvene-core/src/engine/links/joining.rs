//! Redeeming tickets: a stranger that is let in, and the device that asks.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::dialing::Dialer;
use super::{Phase, speaks};
use crate::engine::{CloseReason, Engine, Enrolment, Event, JoinRequest, ReadQuery, Reading};
use crate::ids::{LinkId, RequestId};
use crate::keys::Key;
use crate::limits;
use crate::records::{InviteRow, Record as _, RecordError};
use crate::refusal::RefusalCode;
use crate::wire::{Frame, Join, Joined};

impl Engine {
    pub(in crate::engine) fn on_join_request(&mut self, request: JoinRequest) {
        let peer = request.peer;
        for link in self.links_to(peer) {
            self.close_link(link, CloseReason::Replaced);
        }
        let dialer = self.dialers.entry(peer).or_insert_with(Dialer::idle);
        dialer.set_addresses(request.addresses.clone());
        if let Some(superseded) = dialer.join.replace(request) {
            self.emit(Event::JoinFailed {
                request: superseded.request,
                code: None,
                why: "another ticket of the same server was redeemed instead".to_owned(),
            });
        }
        self.dial_if_needed(peer);
    }

    pub(super) fn on_join(&mut self, link: LinkId, join: Join) {
        if !speaks(join.protocol_min, join.protocol_max) {
            return self.refuse(link, RefusalCode::IncompatibleProtocol);
        }
        let secret_hash: [u8; 32] = Sha256::digest(join.secret).into();
        self.set_phase(
            link,
            Phase::Redeeming {
                secret_hash,
                device_name: join.device_name,
            },
        );
        let query = ReadQuery::Values(vec![Key::invite(&secret_hash)]);
        self.read(query, Reading::Invite(link));
    }

    pub(in crate::engine) fn on_invite(
        &mut self,
        link: LinkId,
        values: &[Option<Bytes>],
    ) -> Result<(), RecordError> {
        let Some(state) = self.links.get(&link) else {
            return Ok(());
        };
        let peer = state.peer;
        let Phase::Redeeming {
            secret_hash,
            device_name,
        } = &state.phase
        else {
            return Ok(());
        };
        let (secret_hash, device_name) = (*secret_hash, device_name.clone());
        let Some(Some(value)) = values.first() else {
            self.refuse(link, RefusalCode::TicketUnknown);
            return Ok(());
        };
        let invite = InviteRow::decode(value)?;
        let redeemer = invite
            .redeemed_by
            .or(self.redeeming.get(&secret_hash).copied());
        let opened = [invite.workspace, invite.home];
        let others = self.roster.count_besides(&peer, &opened);
        match redeemer {
            _ if others + opened.len() > limits::LINK_WORKSPACES_MAX => {
                self.refuse(link, RefusalCode::TooManyWorkspaces);
            }
            Some(other) if other != peer => self.refuse(link, RefusalCode::TicketUsed),
            // The same device may ask again, also later: it may not have heard the answer.
            None if invite.expires_at < self.now.wall => {
                self.refuse(link, RefusalCode::TicketExpired);
            }
            _ => self.enqueue_redeem(link, peer, secret_hash, invite, device_name),
        }
        Ok(())
    }

    /// The enrolment is stored: tell the device, and let it come back as one of ours.
    pub(in crate::engine) fn answer_join(&mut self, link: LinkId, invite: &InviteRow) {
        if !self.links.contains_key(&link) {
            return;
        }
        self.send(
            link,
            &Frame::Joined(Joined {
                workspace: invite.workspace,
                workspace_name: invite.workspace_name.clone(),
                member: invite.member,
                member_name: invite.member_name.clone(),
                home: invite.home,
            }),
        );
        // Closed from this side too: a stranger's link is not read on, so the device's own end would
        // be seen late, and the device waits for it.
        self.close_link(link, CloseReason::Finished);
    }

    pub(super) fn on_joined(&mut self, link: LinkId, request: RequestId, joined: Joined) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let peer = state.peer;
        state.phase = Phase::Stranger;
        self.emit(Event::Joined {
            request,
            enrolment: Enrolment {
                peer,
                workspace: joined.workspace,
                workspace_name: joined.workspace_name,
                member: joined.member,
                member_name: joined.member_name,
                home: joined.home,
            },
        });
        self.close_link(link, CloseReason::Finished);
    }
}

//! Tickets as text: what reads back, what is told apart, what stays secret.

use super::{Ticket, TicketError};
use crate::golden::{self, Vector};
use crate::ids::{MemberId, PeerId, WorkspaceId};
use crate::time::WallTime;

fn ticket() -> Ticket {
    Ticket {
        addresses: vec!["/ip4/127.0.0.1/tcp/4000".to_owned()],
        peer: PeerId::from_bytes([1; 32]),
        workspace: WorkspaceId::from_bytes([2; 16]),
        workspace_name: "team".to_owned(),
        member: MemberId::from_bytes([3; 16]),
        member_name: "Ada".to_owned(),
        home: WorkspaceId::from_bytes([4; 16]),
        secret: [5; 32],
        expires_at: WallTime::from_millis(6),
    }
}

#[test]
fn a_ticket_reads_back_also_with_white_space_around_it() {
    let text = format!("  {}\n", ticket().encode());
    assert_eq!(Ticket::decode(&text), Ok(ticket()));
}

#[test]
fn every_single_changed_character_is_noticed() {
    let text = ticket().encode();
    for place in 5..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[place] = if changed[place] == b'2' { b'3' } else { b'2' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(
            Ticket::decode(&changed),
            Err(TicketError::Mistyped),
            "at {place}"
        );
    }
    assert_eq!(Ticket::decode("hello"), Err(TicketError::Prefix));
    assert_eq!(Ticket::decode("rcv1-"), Err(TicketError::Mistyped));
}

#[test]
fn the_secret_is_not_in_the_debug_form() {
    assert!(!format!("{:?}", ticket()).contains("5, 5"));
}

#[test]
fn a_ticket_of_version_1_reads_back() {
    let ticket = ticket();
    let text = ticket.encode();
    let vector = Vector {
        name: "ticket".to_owned(),
        value: format!(
            "addresses {:?}, peer {}, workspace {} {:?}, member {} {:?}, home {}, secret {:02x?}, \
             expires at {} ms; text {text}",
            ticket.addresses,
            ticket.peer,
            ticket.workspace,
            ticket.workspace_name,
            ticket.member,
            ticket.member_name,
            ticket.home,
            ticket.secret,
            ticket.expires_at.as_millis(),
        ),
        bytes: text.clone().into_bytes(),
    };
    let about = "rcv1-, then base58 of the message and of the first four bytes of its SHA-256; bytes \
                 are those of the text";
    let committed = golden::check("ticket.json", about, &[vector]).remove(0);
    let committed = String::from_utf8(committed).unwrap();
    assert_eq!(Ticket::decode(&committed), Ok(ticket));
}

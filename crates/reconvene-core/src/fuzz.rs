//! What is done with bytes of peers and disks before anyone believes them, as functions that take any
//! bytes and panic when something is wrong. The package `fuzz/` feeds them.

use bytes::Bytes;
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use sha2::{Digest as _, Sha256};

use crate::archive::{Decoder, Encoder, Found, HEAD_BYTES, HEADER_BYTES};
use crate::guard::{ChangeHeader, check_snapshot, parse_change, seal, seal_deflated};
use crate::keys::{Key, KeyKind};
use crate::limits;
use crate::records::{
    ChangeRow, DamageRow, FeedHeadRow, FeedRow, HeadRow, IndexStateRow, InviteRow, JournalFrame,
    MemberRow, PeerRow, QuarantineRow, Record, ShareRow, WorkspaceRow,
};
use crate::ticket::Ticket;
use crate::wire::{Assembler, Frame};

/// An archive, strictly and in salvage. What is whole for the one is whole for the other, whatever is
/// lost is told, and every byte is accounted for.
pub fn archive(data: &[u8]) {
    let strict = decode_archive(Decoder::strict(), data);
    let Ok(salvaged) = decode_archive(Decoder::salvaging(), data) else {
        assert!(strict.is_err());
        return;
    };
    if let Ok(whole) = strict {
        assert_eq!(whole, salvaged);
        return;
    }
    let is_told = |found: &Found| !matches!(found, Found::Piece { .. });
    assert!(salvaged.iter().any(is_told));
    let mut reached = HEADER_BYTES as u64;
    for found in &salvaged {
        match found {
            Found::Piece { offset, .. } => {
                assert!(*offset >= reached);
                reached = offset + HEAD_BYTES as u64;
            }
            Found::Lost(lost) => assert!(lost.offset + lost.bytes <= data.len() as u64),
            Found::Incomplete(_) => {}
        }
    }
}

/// An archive whose header and checksums are as they should be, of pieces that may be anything: each
/// begins with what befalls it, its kind, and its length in two bytes.
pub fn archive_pieces(mut data: &[u8]) {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::begin(*b"\xa7pieces\xa7", &mut bytes);
    while let [befalls, kind, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (payload, after) = rest.split_at(length);
        data = after;
        let from = bytes.len();
        encoder.forge(*kind, payload, &mut bytes);
        match befalls % 8 {
            // A bit of it rots.
            5 => {
                let at = from + usize::from(*befalls) % (bytes.len() - from);
                bytes[at] ^= 1 << (kind % 8);
            }
            // It gets lost without a trace.
            6 => bytes.truncate(from),
            // Something that is no piece follows it.
            7 => bytes.extend_from_slice(payload),
            _ => {}
        }
    }
    encoder.end(&mut bytes);
    archive(&bytes);
}

fn decode_archive(
    mut decoder: Decoder,
    data: &[u8],
) -> Result<Vec<Found>, crate::archive::ArchiveError> {
    let mut all = Vec::new();
    let mut portions = data.chunks(97);
    loop {
        match (decoder.next_found()?, decoder.is_complete()) {
            (Some(found), _) => all.push(found),
            (None, true) => return Ok(all),
            (None, false) => match portions.next() {
                Some(portion) => decoder.feed(portion),
                None => decoder.finish(),
            },
        }
    }
}

/// The guard, given a chunk.
pub fn change(data: &[u8]) {
    if let Ok(header) = parse_change(data) {
        check_header(&header, data);
    }
}

/// The guard, given what is in a chunk, under the right checksum.
pub fn change_data(data: &[u8]) {
    let body = seal(data);
    if let Ok(header) = parse_change(&body) {
        check_header(&header, &body);
    }
}

/// The guard, given deflated data of a chunk, under the checksum of what is in it.
pub fn change_deflated(data: &[u8]) {
    let body = seal_deflated(data);
    if let Ok(header) = parse_change(&body) {
        check_header(&header, &body);
    }
}

fn check_header(header: &ChangeHeader, body: &[u8]) {
    assert_eq!(header.body_bytes, body.len());
    assert!(header.body_bytes <= limits::CHANGE_BYTES_MAX);
    assert!(header.inflated_bytes <= limits::CHANGE_INFLATED_BYTES_MAX);
    assert!(header.dependencies.len() <= limits::DEPENDENCIES_MAX);
    assert!(header.dependencies.is_sorted_by(|a, b| a < b));
    assert!(header.other_actors.len() <= limits::OTHER_ACTORS_MAX);
    assert!(header.other_actors.is_sorted_by(|a, b| a < b));
    assert!(!header.other_actors.contains(&header.actor));
    assert!(header.operations <= limits::OPERATIONS_PER_CHANGE_MAX as u64);
    assert!(header.seq >= 1 && header.start_op >= 1);
    assert!(header.max_op() <= limits::OPERATION_COUNTER_MAX);
    assert_eq!(header.hash.as_bytes()[..4], body[4..8]);
}

/// One frame of a peer; what is understood is said again, and understood alike.
pub fn frame(data: &[u8]) {
    let Ok(frame) = Frame::decode(&Bytes::copy_from_slice(data)) else {
        return;
    };
    // A frame of a later version is not said again, nor one longer than a frame may be.
    let said = frame.encode();
    if let [body] = &said[..]
        && frame != Frame::Unknown
    {
        assert_eq!(Frame::decode(body).as_ref(), Ok(&frame));
    }
}

/// Several frames in a row, some of which may be pieces of one: each begins with its length in two
/// bytes.
pub fn parts(mut data: &[u8]) {
    let mut assembler = Assembler::default();
    while let [high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (body, after) = rest.split_at(length);
        data = after;
        if assembler.accept(&Bytes::copy_from_slice(body)).is_err() {
            return;
        }
    }
}

/// One record of a store or the journal; the first byte says of which kind.
pub fn record(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    match kind % 13 {
        0 => same_again::<ChangeRow>(data),
        1 => same_again::<HeadRow>(data),
        2 => same_again::<FeedHeadRow>(data),
        3 => same_again::<FeedRow>(data),
        4 => same_again::<PeerRow>(data),
        5 => same_again::<WorkspaceRow>(data),
        6 => same_again::<ShareRow>(data),
        7 => same_again::<MemberRow>(data),
        8 => same_again::<InviteRow>(data),
        9 => same_again::<IndexStateRow>(data),
        10 => same_again::<DamageRow>(data),
        11 => same_again::<QuarantineRow>(data),
        _ => same_again::<JournalFrame>(data),
    }
}

/// What decodes is encoded and decoded again to the same.
fn same_again<R: Record + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(record) = R::decode(data) {
        assert_eq!(R::decode(&record.encode()), Ok(record));
    }
}

/// A ticket as a person types it.
pub fn ticket(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(ticket) = Ticket::decode(text) {
        assert_eq!(Ticket::decode(&ticket.encode()).ok(), Some(ticket));
    }
}

/// The message of a ticket, under its checksum.
pub fn ticket_message(data: &[u8]) {
    let whole = [data, &Sha256::digest(data)[..4]].concat();
    ticket(format!("rcv1-{}", bs58::encode(whole).into_string()).as_bytes());
}

/// A key of a store: what is read out of it makes it again.
pub fn key(data: &[u8]) {
    let key = Key::from_bytes(data.to_vec());
    let again = match key.kind() {
        Some(KeyKind::Share) => key
            .share_parts()
            .map(|(peer, workspace)| Key::share(&peer, &workspace)),
        Some(KeyKind::Workspace) => key.workspace_id().map(|of| Key::workspace(&of)),
        Some(KeyKind::FeedHead) => key.workspace_id().map(|of| Key::feed_head(&of)),
        Some(KeyKind::Index) => key
            .index_place()
            .map(|(of, kind, document)| Key::index(&of, kind, &document)),
        _ => None,
    };
    assert!(again.is_none_or(|again| again == key));
    let tail = [
        key.document().map(|document| document.as_bytes().to_vec()),
        key.snapshot_hash().map(|hash| hash.as_bytes().to_vec()),
        key.change_hash().map(|hash| hash.as_bytes().to_vec()),
        key.feed_seq().map(|seq| seq.0.to_be_bytes().to_vec()),
        key.peer_id().map(|peer| peer.as_bytes().to_vec()),
    ];
    for part in tail.iter().flatten() {
        assert!(data.windows(part.len()).any(|window| window == part));
    }
}

/// A message of reconciliation, to who answers and to who began; the first byte says to whom. What is
/// said in return is no longer than it may be.
pub fn reconcile(data: &[u8]) {
    let Some((to, message)) = data.split_first() else {
        return;
    };
    let mut catalogue = NegentropyStorageVector::new();
    for document in 0..=200_u8 {
        let mut item = [document; 32];
        item[1] = to % 16;
        let inserted = catalogue.insert(0, Id::from_byte_array(item));
        assert!(inserted.is_ok());
    }
    let limit = limits::RECONCILE_MESSAGE_BYTES_MAX as u64;
    let sealed = catalogue.seal();
    let ready = sealed.and_then(|()| Negentropy::owned(catalogue, limit));
    let mut negentropy = ready.expect("a fresh catalogue can be sealed");
    let answer = if to % 2 == 0 {
        negentropy.reconcile(message).ok()
    } else {
        let first = negentropy.initiate().expect("who begins may begin");
        assert!(first.len() <= limits::RECONCILE_MESSAGE_BYTES_MAX);
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let next = negentropy.reconcile_with_ids(message, &mut have, &mut need);
        assert!(need.len() <= message.len() / 32);
        next.ok().flatten()
    };
    assert!(answer.is_none_or(|answer| answer.len() <= limits::RECONCILE_MESSAGE_BYTES_MAX));
}

/// What is in a snapshot, as a chunk with its checksum, which the guard has looked at.
pub fn seal_snapshot(data: &[u8]) -> Vec<u8> {
    // The chunk's type, which is zero, stands where that of a change is one.
    let change = seal(data);
    let hashed = [&[0], &change[9..]].concat();
    let mut chunk = change[..4].to_vec();
    chunk.extend_from_slice(&Sha256::digest(&hashed)[..4]);
    chunk.extend_from_slice(&hashed);
    let _checked = check_snapshot(&chunk);
    chunk
}

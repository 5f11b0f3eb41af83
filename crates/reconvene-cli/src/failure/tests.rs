//! Failures keep their parts on the way over the control socket and say what to do next.

use super::Failure;

#[test]
fn a_failure_survives_serialisation() {
    let failure = Failure::new("control_failed", "the other process does not answer");
    assert!(failure.hint.is_some());
    let text = serde_json::to_string(&failure).expect("serialises");
    assert_eq!(
        serde_json::from_str::<Failure>(&text).expect("parses"),
        failure
    );
    assert_eq!(failure.exit_code(), 4);
}

#[test]
fn a_bad_ticket_or_id_is_named_and_has_a_next_step() {
    let ticket = reconvene::Ticket::decode("certainly-not-a-ticket");
    let bad_id = "42".parse::<reconvene::DocumentId>();
    for (error, code, exit) in [
        (
            ticket.map(drop).map_err(reconvene::Error::from),
            "bad_ticket",
            6,
        ),
        (
            bad_id.map(drop).map_err(reconvene::Error::from),
            "bad_id",
            7,
        ),
    ] {
        let failure = Failure::from(error.expect_err(code));
        assert_eq!(failure.code, code);
        assert_eq!(failure.exit_code(), exit);
        assert!(failure.hint.is_some(), "{code} has no hint");
        assert!(!failure.message.is_empty());
    }
}

//! First contact: an empty server, a second device.

use super::{fill, team};

#[test]
fn first_sync_of_300_documents_reaches_an_empty_server_and_then_a_second_device() {
    let (mut world, server, devices, of) = team(1, 2);
    fill(&mut world, devices[0], of, 0..300);
    world.connect(devices[0], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0]], of);
    assert_eq!(world.held(server, of).len(), 300);
    world.connect(devices[1], server);
    world.run_until_quiet();
    world.check_converged(&[server, devices[0], devices[1]], of);
    let pass = world
        .last_pass(devices[1], server)
        .expect("the pass completes");
    assert_eq!(pass.changes_received, 300);
    assert_eq!(pass.changes_sent, 0);
}

//! A peer that only has the network, to say what no engine says.

use reconvene_core::ids::LinkId;
use reconvene_core::wire::Frame;
use reconvene_libp2p::{Identity, Network, NetworkConfig, NetworkEvent};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::harness::deadline;

/// A peer that only has the network, not the engine.
pub(crate) struct Raw {
    pub(crate) network: Network,
    events: Receiver<NetworkEvent>,
}

impl Raw {
    pub(crate) fn start(identity: Identity, listen: Vec<String>) -> Self {
        let config = NetworkConfig {
            listen,
            ..NetworkConfig::default()
        };
        let (network, events) = Network::start(identity, config).unwrap();
        Self { network, events }
    }

    pub(crate) async fn event(&mut self) -> NetworkEvent {
        timeout(deadline(), self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn link(&mut self) -> LinkId {
        loop {
            match self.event().await {
                NetworkEvent::LinkUp { link, .. } => return link,
                NetworkEvent::DialFailed { why, .. } => panic!("{why}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            match self.event().await {
                NetworkEvent::FrameArrived { frame, .. } => return Frame::decode(&frame).unwrap(),
                NetworkEvent::LinkDown { why, .. } => panic!("{why}"),
                _ => {}
            }
        }
    }
}

/// Runs a test of it.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(test);
}

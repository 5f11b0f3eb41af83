//! Commands that go on: they tell items, one to a line, until told to stop or until nobody reads any
//! more.
//!
//! On a free store they open it, host its control socket so that other commands still reach it, and
//! keep links to the servers. Otherwise they are streams of the process that has it open.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use reconvene::{OpenOptions, Replica};
use serde_json::Value;
use tokio::sync::mpsc::{self, Receiver};

use crate::commands::{Human, hosting};
use crate::execute::execute;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, Reader};
use crate::request::{ITEMS_MAX, Request, Sinks};
use crate::session::{self, Reached};
use crate::signals::Signals;

/// Watches until told to stop, or until nobody reads any more.
pub(super) async fn run(
    data: &Path,
    options: &OpenOptions,
    request: Request,
    output: Output,
    human: Human,
) -> Result<u8, Failure> {
    let mut signals = Signals::take()?;
    let (items, mut told) = mpsc::channel(ITEMS_MAX);
    let sinks = Sinks {
        progress: Arc::new(|_| {}),
        items,
    };
    let teller = Teller { output, human };
    let reached = {
        let mut reached = pin!(session::open_or_call(data, options, &request, &sinks));
        loop {
            tokio::select! {
                biased;
                // What was told before the end is told.
                item = told.recv() => {
                    if !teller.tell(item)? {
                        return Ok(exit::OK);
                    }
                }
                reached = &mut reached => break reached?,
                () = signals.stop() => return Ok(exit::OK),
            }
        }
    };
    let replica = match reached {
        Reached::Store(replica) => replica,
        // The host ended the stream in order.
        Reached::Host(_) => {
            teller.tell_rest(&mut told)?;
            return Ok(exit::OK);
        }
    };
    let mut host = None;
    let watched = match hosting::bind(data) {
        Ok(bound) => {
            host = Some(hosting::host(bound, &replica));
            teller
                .follow(&replica, request, &sinks, &mut told, &mut signals)
                .await
        }
        Err(failure) => Err(failure),
    };
    if let Some(host) = host {
        host.close().await;
    }
    session::close(replica).await;
    watched.map(|()| exit::OK)
}

/// How items are told.
struct Teller {
    output: Output,
    human: Human,
}

impl Teller {
    /// Tells an item; whether anyone still reads.
    fn tell(&self, item: Option<Value>) -> Result<bool, Failure> {
        let Some(item) = item else {
            return Ok(false);
        };
        Ok(self.output.answer(&item, self.human)? == Reader::Present)
    }

    /// Tells what a stream that has ended told last.
    fn tell_rest(&self, told: &mut Receiver<Value>) -> Result<(), Failure> {
        while let Ok(item) = told.try_recv() {
            if !self.tell(Some(item))? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Carries a stream out on a store that is open here.
    async fn follow(
        &self,
        replica: &Replica,
        request: Request,
        sinks: &Sinks,
        told: &mut Receiver<Value>,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let mut connected = matches!(request, Request::SyncWatch { .. });
        let mut stream = pin!(execute(replica, request, sinks));
        loop {
            let item = tokio::select! {
                biased;
                item = told.recv() => item,
                ended = &mut stream => {
                    ended?;
                    return self.tell_rest(told);
                }
                () = signals.stop() => return Ok(()),
            };
            if !self.tell(item)? {
                return Ok(());
            }
            // The stream listens: what the links bring is told. Without a server there is still what
            // happens here.
            if !std::mem::replace(&mut connected, true) {
                match replica.connect().await {
                    Err(error) if error.code() == "no_server" => {}
                    connected => connected?,
                }
            }
        }
    }
}

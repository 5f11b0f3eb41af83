//! `serve`: opens the store, hosts its control socket, and lets the server crate do the rest.

use std::path::Path;

use reconvene::{OpenOptions, Role};
use reconvene_server::{
    Adapters, ApiOptions, ExecutorOptions, MonitorOptions, ServeOptions, ServerInfo,
};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::args::ServeArgs;
use crate::commands::hosting;
use crate::control::host::Host;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, to_value};
use crate::place;
use crate::session;
use crate::signals::Signals;

/// Serves until told to stop.
pub(super) async fn run(data: &Path, args: ServeArgs, output: Output) -> Result<u8, Failure> {
    let mut signals = Signals::take()?;
    let options = OpenOptions::new(data)
        .role(Role::Server)
        .state_version(args.state_version)
        .workspace_documents_max(args.workspace_documents);
    let options = match place::machine_name() {
        Some(name) => options.name(name),
        None => options,
    };
    let replica = session::open(&options).await?;
    let bound = match hosting::bind(data) {
        Ok(bound) => bound,
        Err(failure) => {
            session::close(replica).await;
            return Err(failure);
        }
    };
    let mut told = Ok(());
    let (hosted, mut host) = oneshot::channel();
    let shutdown = async {
        signals.stop().await;
        // Before the store is given back: the next process to host would lose its socket.
        if let Ok(host) = host.try_recv() {
            Host::close(host).await;
        }
    };
    let ready = |info: &ServerInfo| {
        // The receiver lives as long as the server; if it does not, the host ends with it.
        drop(hosted.send(hosting::host(bound, &replica)));
        told = to_value(info)
            .and_then(|info| output.answer(&info, serving))
            .map(drop);
    };
    let options = ServeOptions {
        listen: args.listen,
        announce: args.announce,
        api: args.api.map(|address| ApiOptions {
            address,
            exposed: args.exposed,
            token_file: args
                .api_token_file
                .unwrap_or_else(|| data.join("api.token")),
            calls_max: args.api_calls,
        }),
        monitor: args.metrics.map(|address| MonitorOptions {
            address,
            exposed: args.exposed,
        }),
        executor: ExecutorOptions {
            adapters: Adapters::standard(
                Some(args.calendars.unwrap_or_else(|| data.join("calendars"))),
                args.allow_host,
            ),
            run_kept: args.keep_runs,
            validate_every: args.validate_every,
            commands_per_member: args.commands_per_member,
        },
    };
    reconvene_server::serve(&replica, options, shutdown, ready).await?;
    told.map(|()| exit::OK)
}

fn serving(info: &Value) -> String {
    let mut out = String::from("Serving at\n");
    for address in info["listening"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {}\n", address.as_str().unwrap_or_default()));
    }
    if let (Some(api), Some(file)) = (info["api"].as_str(), info["api_token_file"].as_str()) {
        out.push_str(&format!("  API at {api}, its token in {file}\n"));
    }
    if let Some(metrics) = info["metrics"].as_str() {
        out.push_str(&format!("  metrics and health at {metrics}\n"));
    }
    out.push_str("  next: `reconvene invite` here, `reconvene join TICKET` on a device\n");
    out
}

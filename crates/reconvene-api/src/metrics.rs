//! The metrics, made anew from the replica's state at each scrape.
//!
//! Labels are ids of peers and workspaces, of which at most [`SERIES_MAX`] per metric, and names from
//! the code. `schema/metrics.md` lists them; a test compares.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use reconvene::{Outstanding, RunState, Status, WorkspaceStatus};

use crate::counts::Numbers;
use crate::limits::SERIES_MAX;

/// What `/metrics` is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The states that runs are told by.
const RUN_STATES: [RunState; 4] = [
    RunState::Running,
    RunState::Succeeded,
    RunState::Failed,
    RunState::Cancelled,
];

/// Labels of a series.
type Labels = Vec<(&'static str, String)>;

/// The metrics in the text format that Prometheus reads.
pub(crate) fn text(
    status: Status,
    outstanding: Vec<Outstanding>,
    numbers: Numbers,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("reconvene");
    registry.register_collector(Box::new(Moment {
        status,
        outstanding,
        numbers,
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Everything that is told, as of one moment.
#[derive(Debug)]
struct Moment {
    status: Status,
    outstanding: Vec<Outstanding>,
    numbers: Numbers,
}

impl Collector for Moment {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut told = Telling {
            encoder,
            omitted: 0,
        };
        self.links(&mut told)?;
        self.feeds(&mut told)?;
        self.store(&mut told)?;
        self.work(&mut told)?;
        self.outstanding(&mut told)?;
        let omitted = told.omitted;
        told.gauge(
            "series_omitted",
            "Series left out because one metric had too many",
            vec![(Labels::new(), omitted)],
        )
    }
}

impl Moment {
    fn links(&self, told: &mut Telling<'_>) -> fmt::Result {
        let status = &self.status;
        told.one("links", "Links that are up", status.links.len() as u64)?;
        told.one(
            "peers_unreached",
            "Peers that are wanted and not linked",
            status.unreached.len() as u64,
        )?;
        let traffic = &status.traffic;
        told.counter(
            "links_made",
            "Links that came up",
            vec![(Labels::new(), traffic.links)],
        )?;
        let both = |sent: u64, received: u64| {
            let way = |way: &str| vec![("way", way.to_owned())];
            vec![(way("sent"), sent), (way("received"), received)]
        };
        told.counter(
            "frames",
            "Frames over links",
            both(traffic.frames_sent, traffic.frames_received),
        )?;
        told.counter(
            "frame_bytes",
            "Bytes of frames with their prefixes",
            both(traffic.bytes_sent, traffic.bytes_received),
        )?;
        told.counter(
            "socket_bytes",
            "Bytes on sockets of links, encryption included",
            both(traffic.socket_bytes_sent, traffic.socket_bytes_received),
        )?;
        let numbers = &self.numbers;
        told.counter(
            "passes",
            "Passes that were completed",
            vec![(Labels::new(), numbers.passes)],
        )?;
        told.counter(
            "pass_documents",
            "Documents of completed passes",
            both(numbers.documents_sent, numbers.documents_received),
        )?;
        told.counter(
            "stalls",
            "Times that something was missing and nothing moved",
            vec![(Labels::new(), numbers.stalls)],
        )
    }

    fn feeds(&self, told: &mut Telling<'_>) -> fmt::Result {
        told.by_workspace(
            &self.status,
            "documents",
            "Documents of a workspace",
            |workspace| Some(workspace.documents),
        )?;
        told.by_workspace(
            &self.status,
            "feed_head",
            "Last entry of a workspace's feed",
            |workspace| workspace.feed.as_ref().map(|feed| feed.seq),
        )?;
        told.by_workspace(
            &self.status,
            "index_behind",
            "Feed entries that lists do not show yet",
            |workspace| {
                let feed = workspace.feed.as_ref()?;
                Some(feed.seq.saturating_sub(workspace.index.seq))
            },
        )?;
        let owed = self.status.workspaces.iter().flat_map(|workspace| {
            workspace.peers.iter().filter_map(|peer| {
                let labels = vec![
                    ("workspace", workspace.id.to_string()),
                    ("peer", peer.peer.to_string()),
                ];
                // Where it is not known there is no number, and so no series.
                peer.owed.map(|owed| (labels, owed))
            })
        });
        told.gauge(
            "feed_owed",
            "Feed entries that a peer is not known to hold",
            owed.collect(),
        )?;
        let mut refused = BTreeMap::new();
        for peer in self.status.workspaces.iter().flat_map(|one| &one.peers) {
            let here = peer.refused_here.len() as u64 + peer.refused_here_unlisted;
            let there = peer.refused_there.len() as u64 + peer.refused_there_unlisted;
            *refused.entry("here").or_insert(0) += here;
            *refused.entry("there").or_insert(0) += there;
        }
        let refused = refused.into_iter();
        told.gauge(
            "documents_refused_now",
            "Documents that are refused at present, by which side",
            refused
                .map(|(side, count)| (vec![("side", side.to_owned())], count))
                .collect(),
        )?;
        let numbers = &self.numbers;
        let refusals = numbers.documents_refused.iter();
        told.counter(
            "documents_refused",
            "Documents that were refused, by which side and why",
            refusals
                .map(|((side, code), count)| {
                    let side = (*side).to_owned();
                    (vec![("side", side), ("code", code.clone())], *count)
                })
                .collect(),
        )?;
        let refusals = numbers.links_refused.iter();
        told.counter(
            "links_refused",
            "Links that peers refused, and why",
            refusals
                .map(|(code, count)| (vec![("code", code.clone())], *count))
                .collect(),
        )
    }

    fn store(&self, told: &mut Telling<'_>) -> fmt::Result {
        let disk = &self.status.disk;
        let parts = [
            ("store", disk.store_bytes),
            ("journal", disk.journal_bytes),
            ("quarantine", disk.quarantine_bytes),
        ];
        told.gauge(
            "disk_bytes",
            "Bytes on disk",
            parts
                .into_iter()
                .map(|(part, bytes)| (vec![("part", part.to_owned())], bytes))
                .collect(),
        )?;
        told.one(
            "low_space",
            "Whether nothing is written for want of room on the disk",
            u64::from(disk.low_space.is_some()),
        )?;
        told.one(
            "store_failed",
            "Whether the store takes no more writes",
            u64::from(self.status.store_failed.is_some()),
        )?;
        told.counter(
            "barriers",
            "Barriers of the store",
            vec![(Labels::new(), self.status.barriers)],
        )
    }

    fn work(&self, told: &mut Telling<'_>) -> fmt::Result {
        let status = &self.status;
        told.one(
            "open_documents",
            "Documents that are open",
            status.open.documents as u64,
        )?;
        told.one(
            "open_bytes",
            "Memory that open documents take, about",
            status.open.bytes as u64,
        )?;
        let materialised = status.documents_materialised_by.iter();
        told.counter(
            "documents_materialised",
            "Documents built from stored changes, by what for",
            materialised
                .map(|(purpose, count)| (vec![("purpose", (*purpose).to_owned())], *count))
                .collect(),
        )?;
        let calls = self.numbers.calls.iter();
        told.counter(
            "api_calls",
            "Calls of the API that ended, or began to stream, by status code",
            calls
                .map(|((call, code), count)| {
                    let call = (*call).to_owned();
                    (vec![("call", call), ("code", (*code).to_owned())], *count)
                })
                .collect(),
        )?;
        told.counter(
            "events_missed",
            "Events that these counters missed",
            vec![(Labels::new(), self.numbers.events_missed)],
        )
    }

    fn outstanding(&self, told: &mut Telling<'_>) -> fmt::Result {
        let each = |home: bool, value: fn(&Outstanding) -> u64| {
            let all = self.outstanding.iter();
            all.filter(|one| !home || one.home)
                .map(|one| {
                    let labels = vec![("workspace", one.workspace.to_string())];
                    (labels, value(one))
                })
                .collect()
        };
        told.gauge(
            "outbox",
            "Commands without an outcome",
            each(false, |one| one.commands),
        )?;
        told.gauge(
            "inbox_open",
            "Inbox entries of a member that are open",
            each(true, |one| one.entries),
        )?;
        let mut runs: BTreeMap<_, u64> = RUN_STATES
            .into_iter()
            .map(|state| (state.as_str(), 0))
            .collect();
        for (state, count) in self.outstanding.iter().flat_map(|one| &one.runs) {
            *runs.entry(state).or_default() += count;
        }
        told.gauge(
            "runs",
            "Sync runs that go on or whose result is kept, by state",
            runs.into_iter()
                .map(|(state, count)| (vec![("state", state.to_owned())], count))
                .collect(),
        )
    }
}

/// Metrics on their way into the text.
struct Telling<'a> {
    encoder: DescriptorEncoder<'a>,
    omitted: u64,
}

impl Telling<'_> {
    fn one(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauge(name, help, vec![(Labels::new(), value)])
    }

    fn by_workspace(
        &mut self,
        status: &Status,
        name: &str,
        help: &str,
        value: impl Fn(&WorkspaceStatus) -> Option<u64>,
    ) -> fmt::Result {
        let series = status.workspaces.iter().filter_map(|workspace| {
            let labels = vec![("workspace", workspace.id.to_string())];
            value(workspace).map(|value| (labels, value))
        });
        self.gauge(name, help, series.collect())
    }

    fn gauge(&mut self, name: &str, help: &str, series: Vec<(Labels, u64)>) -> fmt::Result {
        self.tell(name, help, MetricType::Gauge, series)
    }

    fn counter(&mut self, name: &str, help: &str, series: Vec<(Labels, u64)>) -> fmt::Result {
        self.tell(name, help, MetricType::Counter, series)
    }

    fn tell(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        series: Vec<(Labels, u64)>,
    ) -> fmt::Result {
        self.omitted += series.len().saturating_sub(SERIES_MAX) as u64;
        let mut metric = self.encoder.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in series.into_iter().take(SERIES_MAX) {
            let labels = labels.iter();
            let labels: Vec<_> = labels
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let labels = labels.as_slice();
            if labels.is_empty() {
                // The only series of its metric.
                return number(kind, value, metric);
            }
            number(kind, value, metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn number(kind: MetricType, value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        _ => ConstGauge::new(value).encode(encoder),
    }
}

#[cfg(test)]
mod tests;

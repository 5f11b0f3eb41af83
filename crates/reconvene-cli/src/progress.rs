//! Progress on a terminal's stderr, for whatever takes longer than a second.
//!
//! Never on stdout, and never where stderr is not a terminal.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reconvene::{ArchiveProgress, SyncProgress, VerifyProgress};
use tokio::task::JoinHandle;

use crate::request::{Progress, ProgressSink};

/// What is done sooner than this shows nothing.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// How often the bar moves by itself, so that one sees it is alive.
const TICK: Duration = Duration::from_millis(120);

/// A bar that appears when its work takes long, and goes when it is dropped.
pub(crate) struct Indicator {
    bar: ProgressBar,
    appearance: Option<JoinHandle<()>>,
}

impl Indicator {
    /// Starts a bar for some work.
    pub(crate) fn start(what: &'static str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_message(what);
        bar.set_style(spinner());
        let appearance = io::stderr().is_terminal().then(|| {
            let bar = bar.clone();
            tokio::spawn(async move {
                tokio::time::sleep(SHOWN_AFTER).await;
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(TICK);
            })
        });
        Self { bar, appearance }
    }

    /// Where the work tells how far it is.
    pub(crate) fn sink(&self) -> ProgressSink {
        let bar = self.bar.clone();
        Arc::new(move |progress: Progress| {
            if let Some(total) = progress.total.filter(|total| *total > 0) {
                if bar.length() != Some(total) {
                    bar.set_length(total);
                    bar.set_style(fraction());
                }
                bar.set_position(progress.done.min(total));
            }
            bar.set_message(progress.what);
        })
    }
}

impl Drop for Indicator {
    fn drop(&mut self) {
        if let Some(appearance) = &self.appearance {
            appearance.abort();
        }
        self.bar.finish_and_clear();
    }
}

/// What the node tells of a pass of synchronisation, as progress.
pub(crate) fn of_sync(progress: &ProgressSink) -> Arc<dyn Fn(SyncProgress) + Send + Sync> {
    let progress = Arc::clone(progress);
    Arc::new(move |moved| {
        let SyncProgress {
            documents_sent,
            documents_received,
            ..
        } = moved;
        progress(Progress {
            what: format!(
                "syncing: {documents_sent} documents sent, {documents_received} received"
            ),
            done: documents_sent + documents_received,
            // Neither side knows before the end how much there is.
            total: None,
        });
    })
}

/// What the node tells of a verification, as progress.
pub(crate) fn of_verify(progress: &ProgressSink) -> Arc<dyn Fn(VerifyProgress) + Send + Sync> {
    let progress = Arc::clone(progress);
    Arc::new(move |read| {
        let VerifyProgress {
            documents, total, ..
        } = read;
        progress(Progress {
            what: "verifying".to_owned(),
            done: documents,
            total: Some(total),
        });
    })
}

/// What the node tells of an archive or a restore, as progress.
pub(crate) fn of_archive(
    what: &'static str,
    progress: &ProgressSink,
) -> Arc<dyn Fn(ArchiveProgress) + Send + Sync> {
    let progress = Arc::clone(progress);
    Arc::new(move |moved| {
        let ArchiveProgress {
            documents, total, ..
        } = moved;
        progress(Progress {
            what: what.to_owned(),
            done: documents,
            total: Some(total),
        });
    })
}

fn spinner() -> ProgressStyle {
    style("{spinner} {msg} ({elapsed})")
}

fn fraction() -> ProgressStyle {
    style("{spinner} {msg} [{bar:30}] {pos}/{len} ({elapsed})")
}

fn style(template: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates of this file are well formed")
}

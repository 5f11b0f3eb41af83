//! `webhook`: tells an address of the meetings that changed, one signed POST for each.
//!
//! The body is JSON. `reconvene-signature` is `t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 under the
//! setting `secret` over the seconds, a full stop and the body. `idempotency-key` is the same whenever
//! the same is told again: each meeting is told at least once.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reconvene::{Changes, DocumentId, Integration, Meeting};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::http::{self, Http};
use super::{Adapter, AdapterError, RunContext, problem};
use crate::limits::{WEBHOOK_ATTEMPTS, WEBHOOK_WAIT};

/// See the module's documentation.
pub(super) struct Webhook {
    http: Http,
}

impl Webhook {
    pub(super) fn new(http: Http) -> Self {
        Self { http }
    }

    async fn post(
        &self,
        integration: &Integration,
        key: &str,
        body: &Value,
    ) -> Result<(), AdapterError> {
        let secret = integration.settings.get("secret").unwrap_or_default();
        if secret.is_empty() {
            let message = "the setting `secret`, under which calls are signed, is missing";
            return Err(AdapterError::invalid("no_secret", message));
        }
        let body = Bytes::from(body.to_string());
        let seconds = SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |at| at.as_secs());
        let signature = format!("t={seconds},v1={}", sign(secret, seconds, &body));
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("idempotency-key", key.to_owned()),
            ("reconvene-signature", signature),
        ];
        let url = integration.external_id.as_str();
        let reply = self.http.post(url, &headers, body).await?;
        http::check(url, &reply)
    }

    /// Tells of one meeting, again and again while the other side may come back.
    async fn deliver(
        &self,
        run: &mut RunContext,
        id: DocumentId,
        meeting: &Meeting,
    ) -> Result<(), AdapterError> {
        let content = json!(meeting);
        // Another key for another content: who takes it for the same would miss what changed.
        let digest = Sha256::digest(content.to_string());
        let digest: String = digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let key = format!("{}:{id}:{digest}", run.key);
        let body = json!({
            "event": "meeting.changed",
            "workspace": run.workspace,
            "integration": run.id,
            "run": run.run,
            "meeting": { "id": id, "content": content },
        });
        let mut wait = WEBHOOK_WAIT;
        for attempt in 1.. {
            match self.post(&run.integration, &key, &body).await {
                Err(AdapterError::Unreachable(_)) if attempt < WEBHOOK_ATTEMPTS => {}
                done => return done,
            }
            pause(run, wait).await?;
            wait *= 2;
        }
        Err(AdapterError::Unreachable(problem(
            "unreachable",
            "it was tried too often",
        )))
    }
}

async fn pause(run: &mut RunContext, wait: Duration) -> Result<(), AdapterError> {
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        () = run.cancelled() => Err(AdapterError::Cancelled),
    }
}

pub(super) fn sign(secret: &str, seconds: u64, body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    let mut mac = mac.expect("a key of any length is taken");
    mac.update(seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Adapter for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    /// Sends a signed `ping`, which has to be taken.
    fn validate<'a>(
        &'a self,
        integration: &'a Integration,
    ) -> BoxFuture<'a, Result<(), AdapterError>> {
        async {
            let body = json!({ "event": "ping" });
            self.post(integration, "ping", &body).await
        }
        .boxed()
    }

    fn run<'a>(&'a self, run: &'a mut RunContext) -> BoxFuture<'a, Result<(), AdapterError>> {
        async {
            let mut position = run.integration.position.clone();
            loop {
                let page = run
                    .serving
                    .meetings_changed(run.workspace, position)
                    .await?;
                run.total = Some(run.done + page.meetings.len() as u64);
                for id in page.meetings {
                    run.progress().await?;
                    let found = run.serving.meeting(run.workspace, id).await?;
                    if let Some(meeting) = found {
                        self.deliver(run, id, &meeting).await?;
                        run.items += 1;
                    }
                    run.done += 1;
                }
                // What was told is not told again by the next run.
                let reached = page.position.clone();
                let noted = Changes::new().integration(run.id, move |integration| {
                    integration.set_position(&reached)
                });
                run.serving.write(run.workspace, noted).await?;
                if !page.more {
                    return Ok(());
                }
                position = Some(page.position);
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;

//! `AppendSegments`: takes messages one by one, each durable before the next is read, so that a slow
//! disk slows the sender down.

use reconvene::{DocumentId, Replica};
use tonic::{Status, Streaming};

use crate::calls::{Calls, document_id};
use crate::failure::{bad_input, status};
use crate::limits::DIFFERING_IDS_MAX;
use crate::services::Stop;
use crate::{convert, v1};

/// What the first message said.
struct Target {
    workspace: Option<String>,
    meeting: DocumentId,
    replica: Replica,
}

impl Calls {
    pub(super) async fn append(
        &self,
        mut messages: Streaming<v1::AppendSegmentsRequest>,
    ) -> Result<v1::AppendSegmentsResponse, Status> {
        let _place = self.stream()?;
        let mut target: Option<Target> = None;
        let mut response = v1::AppendSegmentsResponse::default();
        loop {
            let next = tokio::select! {
                next = messages.message() => next?,
                () = self.stop.asked() => return Err(Stop::status()),
            };
            let Some(message) = next else {
                return match target {
                    Some(_) => Ok(response),
                    None => Err(bad_input("no message named a meeting")),
                };
            };
            let target = match &target {
                Some(target) => {
                    target.check(&message)?;
                    target
                }
                None => target.insert(Target {
                    replica: self.within(message.workspace.as_deref()).await?,
                    meeting: document_id(&message.meeting_id)?,
                    workspace: message.workspace,
                }),
            };
            let segments = message.segments.into_iter();
            let segments = segments.map(convert::given_segment).collect();
            let meetings = target.replica.meetings();
            let report = meetings.append_segments(target.meeting, segments).await;
            let report = report.map_err(|error| status(&error))?;
            response.added += report.added as u64;
            response.present += report.present as u64;
            let room = DIFFERING_IDS_MAX - response.differing_ids.len();
            let differing = report.differing.into_iter().take(room);
            response.differing_ids.extend(differing);
        }
    }
}

impl Target {
    /// Whether a later message means the same.
    fn check(&self, message: &v1::AppendSegmentsRequest) -> Result<(), Status> {
        let same_workspace = message.workspace.is_none() || message.workspace == self.workspace;
        let same_meeting =
            message.meeting_id.is_empty() || document_id(&message.meeting_id)? == self.meeting;
        if same_workspace && same_meeting {
            Ok(())
        } else {
            Err(bad_input("a stream of segments is for one meeting"))
        }
    }
}

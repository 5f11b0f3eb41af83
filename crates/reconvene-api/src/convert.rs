//! From the replica's types to the messages, and back. Straight through: nothing is decided here.

use prost_types::Timestamp;
use reconvene::{
    Freshness, FreshnessState, Holder, IntegrationRow, IntegrationState, Meeting, MeetingRow,
    MeetingView, NotFoundReason, PageView, Problem, ProjectRow, RefusalCode, Resolution, Run,
    RunStanding, RunStatus, Segment, State, Timebase, TranscriptPage, WallTime, WorkspaceInfo,
};
use serde::Serialize;
use tonic::Status;

use crate::failure::bad_input;
use crate::v1;

pub(crate) fn timestamp(at: WallTime) -> Timestamp {
    let millis = at.as_millis();
    // Below a second's worth of nanoseconds, whatever the sign.
    let nanos = i32::try_from(millis.rem_euclid(1000)).unwrap_or(0) * 1_000_000;
    Timestamp {
        seconds: millis.div_euclid(1000),
        nanos,
    }
}

pub(crate) fn wall_time(name: &str, at: &Timestamp) -> Result<WallTime, Status> {
    let millis = at.seconds.checked_mul(1000);
    let millis = millis.and_then(|millis| millis.checked_add(i64::from(at.nanos / 1_000_000)));
    match millis {
        Some(millis) if (0..1_000_000_000).contains(&at.nanos) => Ok(WallTime::from_millis(millis)),
        _ => Err(bad_input(format!("`{name}` is no moment"))),
    }
}

pub(crate) fn state(state: Option<State>) -> v1::MeetingState {
    match state {
        None => v1::MeetingState::Unspecified,
        Some(State::Created) => v1::MeetingState::Created,
        Some(State::Recording) => v1::MeetingState::Recording,
        Some(State::Stopping) => v1::MeetingState::Stopping,
        Some(State::Stopped) => v1::MeetingState::Stopped,
        Some(State::Completed) => v1::MeetingState::Completed,
    }
}

pub(crate) fn wanted_state(number: i32) -> Result<State, Status> {
    match v1::MeetingState::try_from(number) {
        Ok(v1::MeetingState::Created) => Ok(State::Created),
        Ok(v1::MeetingState::Recording) => Ok(State::Recording),
        Ok(v1::MeetingState::Stopping) => Ok(State::Stopping),
        Ok(v1::MeetingState::Stopped) => Ok(State::Stopped),
        Ok(v1::MeetingState::Completed) => Ok(State::Completed),
        Ok(v1::MeetingState::Unspecified) | Err(_) => {
            Err(bad_input(format!("{number} is no state of a meeting")))
        }
    }
}

pub(crate) fn meeting(view: &MeetingView) -> v1::Meeting {
    let Meeting {
        title,
        notes,
        summary,
        project,
        created_at,
        source,
        state: furthest,
        reached,
        error,
        tags,
        participants,
        action_items,
        deletion,
        conflicts,
        ..
    } = view.meeting.clone();
    v1::Meeting {
        id: view.id.to_string(),
        title,
        notes,
        summary,
        project_id: project.map(|project| project.to_string()),
        created_at: created_at.map(timestamp),
        source,
        state: state(furthest).into(),
        reached: reached
            .into_iter()
            .map(|(reached, at)| v1::ReachedState {
                state: state(Some(reached)).into(),
                at: Some(timestamp(at)),
            })
            .collect(),
        error: error.map(|error| v1::MeetingError {
            cause: error.cause,
            at: error.at.map(timestamp),
        }),
        tags: tags.into_iter().collect(),
        participants: participants
            .into_iter()
            .map(|(id, participant)| v1::Participant {
                id,
                name: participant.name,
            })
            .collect(),
        action_items: action_items
            .into_iter()
            .map(|(id, item)| v1::ActionItem {
                id,
                text: item.text,
                done: item.done,
                assignee: item.assignee,
            })
            .collect(),
        page_ids: view
            .meeting
            .pages_in_order()
            .iter()
            .map(ToString::to_string)
            .collect(),
        version: view.version.clone(),
        has_conflicts: !conflicts.is_empty() || view.pages.iter().any(has_conflicts),
        deletion_at: deletion.and_then(|deletion| deletion.at).map(timestamp),
    }
}

fn has_conflicts(page: &PageView) -> bool {
    matches!(page, PageView::Present { page, .. } if !page.conflicts.is_empty())
}

/// The pages of a meeting's transcript, in reading order.
pub(crate) fn pages(view: MeetingView) -> Vec<v1::TranscriptPage> {
    let ids = view.meeting.pages_in_order();
    let pages = view.pages.into_iter().zip(ids);
    pages
        .map(|(page, id)| match page {
            PageView::Present { page, .. } => {
                let order_only = !matches!(page.timebase, Timebase::Ms);
                let TranscriptPage {
                    recorder, segments, ..
                } = page;
                v1::TranscriptPage {
                    id: id.to_string(),
                    missing: false,
                    recorder,
                    segments: segments.into_iter().map(segment).collect(),
                    order_only,
                }
            }
            PageView::Missing(_) => v1::TranscriptPage {
                id: id.to_string(),
                missing: true,
                ..v1::TranscriptPage::default()
            },
        })
        .collect()
}

fn segment(segment: Segment) -> v1::Segment {
    v1::Segment {
        id: segment.id,
        start_ms: segment.start,
        end_ms: segment.end,
        speaker: segment.speaker,
        text: segment.text,
    }
}

pub(crate) fn given_segment(segment: v1::Segment) -> Segment {
    Segment {
        id: segment.id,
        start: segment.start_ms,
        end: segment.end_ms,
        speaker: segment.speaker,
        text: segment.text,
    }
}

pub(crate) fn row(row: MeetingRow) -> v1::MeetingRow {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    v1::MeetingRow {
        id: row.id.to_string(),
        title: row.title,
        state: state(row.state).into(),
        project_id: row.project.map(|project| project.to_string()),
        created_at: row.created_at.map(timestamp),
        updated_at: row.updated_at.map(timestamp),
        tags: row.tags,
        participants: count(row.participants),
        pages: count(row.segment_pages),
        has_error: row.has_error,
        has_conflicts: row.has_conflicts,
    }
}

pub(crate) fn freshness(freshness: &Freshness) -> v1::Freshness {
    use v1::freshness::State;
    let (state, why) = match freshness.state {
        FreshnessState::Verified => (State::Verified, None),
        FreshnessState::Stale { why, .. } => (State::Stale, Some(name(&why))),
        FreshnessState::Local => (State::Local, None),
        _ => (State::Unspecified, None),
    };
    v1::Freshness {
        state: state.into(),
        as_of: freshness.as_of.map(timestamp),
        why,
        bound_ms: freshness.bound_ms,
        verified_at: freshness.verified_at.map(timestamp),
    }
}

pub(crate) fn holder(holder: &Holder) -> v1::Holder {
    v1::Holder {
        peer_id: holder.peer.to_string(),
        holds: holder.holds,
        refused: holder.refused.map(refusal),
    }
}

/// The stable name of a refusal's code.
pub(crate) fn refusal(code: RefusalCode) -> String {
    name(&code)
}

/// The name of a value that serialises as one.
fn name(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "unknown".to_owned(),
    }
}

/// The rule, and the projects of which none was taken.
pub(crate) fn resolution(resolution: Resolution) -> (v1::ProjectResolution, Vec<String>) {
    match resolution {
        Resolution::Explicit => (v1::ProjectResolution::Explicit, Vec::new()),
        Resolution::Active => (v1::ProjectResolution::Active, Vec::new()),
        Resolution::WorkspaceDefault => (v1::ProjectResolution::WorkspaceDefault, Vec::new()),
        Resolution::Ambiguous { candidates } => (
            v1::ProjectResolution::Ambiguous,
            candidates.iter().map(ToString::to_string).collect(),
        ),
        Resolution::None => (v1::ProjectResolution::None, Vec::new()),
    }
}

pub(crate) fn project(row: ProjectRow) -> v1::Project {
    v1::Project {
        id: row.id.to_string(),
        name: row.name,
        archived: row.archived,
        active: row.active,
    }
}

pub(crate) fn workspace(info: WorkspaceInfo) -> v1::Workspace {
    v1::Workspace {
        id: info.id.to_string(),
        name: info.name,
        current: info.current,
    }
}

pub(crate) fn run_status(found: RunStatus) -> v1::GetSyncStatusResponse {
    let status = match found.status {
        RunStanding::Running => v1::SyncStatus::Running,
        RunStanding::Succeeded => v1::SyncStatus::Succeeded,
        RunStanding::Failed => v1::SyncStatus::Failed,
        RunStanding::Cancelled => v1::SyncStatus::Cancelled,
        RunStanding::NotFound => v1::SyncStatus::NotFound,
        RunStanding::Unknown => v1::SyncStatus::Unspecified,
    };
    let reason = match found.not_found_reason {
        None => v1::NotFoundReason::Unspecified,
        Some(NotFoundReason::Expired) => v1::NotFoundReason::Expired,
        Some(NotFoundReason::NeverExisted) => v1::NotFoundReason::NeverExisted,
    };
    v1::GetSyncStatusResponse {
        status: status.into(),
        run: found.run.map(run),
        workspace_id: found.workspace.map(|id| id.to_string()),
        integration_id: found.integration.map(|id| id.to_string()),
        expires_at: found.expires_at.map(timestamp),
        not_found_reason: reason.into(),
    }
}

fn run(run: Run) -> v1::SyncRun {
    v1::SyncRun {
        trigger: run.trigger,
        done: run.done,
        total: run.total,
        items: run.items,
        error: run.error.map(problem),
        started_at: run.started_at.map(timestamp),
        finished_at: run.finished_at.map(timestamp),
    }
}

fn problem(Problem { code, message }: Problem) -> v1::Problem {
    v1::Problem { code, message }
}

pub(crate) fn integration(row: IntegrationRow) -> v1::Integration {
    let integration = row.integration;
    let state = match integration.state {
        IntegrationState::Unchecked => v1::IntegrationState::Unspecified,
        IntegrationState::Valid => v1::IntegrationState::Valid,
        IntegrationState::Invalid => v1::IntegrationState::Invalid,
        IntegrationState::Unreachable => v1::IntegrationState::Unreachable,
    };
    v1::Integration {
        id: row.id.to_string(),
        adapter: integration.adapter,
        external_id: integration.external_id,
        account: integration.account,
        state: state.into(),
        validated_at: integration.validated_at.map(timestamp),
        error: integration.error.map(problem),
    }
}

//! The calls: each is a few calls of the replica, in the workspace that the request names.

mod append;
mod integrations;
mod syncs;
mod watch;

use std::sync::Arc;

use futures::stream::BoxStream;
use reconvene::{
    DocumentId, Error, ListOptions, MeetingFilter, MeetingView, NewMeeting, ProjectId, Replica,
    State,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::counts::Counts;
use crate::failure::{bad_input, detailed, status};
use crate::limits::STREAMS_MAX;
use crate::services::Stop;
use crate::v1::reconvene_server::Reconvene;
use crate::{convert, v1};

/// The implementation of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Calls {
    replica: Replica,
    counts: Arc<Counts>,
    stop: Stop,
    streams: Arc<Semaphore>,
    calls: Arc<Semaphore>,
}

impl Calls {
    pub(crate) fn new(replica: Replica, counts: Arc<Counts>, stop: Stop, calls: usize) -> Self {
        Self {
            replica,
            counts,
            stop,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            calls: Arc::new(Semaphore::new(calls.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Makes a call that is no stream, if there is a place for it among those in flight, and counts it.
    async fn called<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let placed = async {
            let _place = self.calls.try_acquire().map_err(|_| {
                detailed(
                    Code::ResourceExhausted,
                    "too_many_calls",
                    "as many calls are in flight as the server takes at a time".to_owned(),
                    Some("try again in a moment"),
                )
            })?;
            work.await
        };
        self.counted(call, placed).await
    }

    /// Counts a call by how it ended.
    async fn counted<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let ended = work.await;
        let code = ended.as_ref().err().map_or(Code::Ok, Status::code);
        self.counts.call(call, code);
        if let Err(status) = &ended
            && matches!(code, Code::Internal | Code::DataLoss | Code::Unknown)
        {
            tracing::error!(call, message = status.message(), "a call failed");
        }
        ended.map(Response::new)
    }

    /// The replica, used on the workspace that a request names, or on the current shared one. Homes are
    /// for their members alone.
    async fn within(&self, workspace: Option<&str>) -> Result<Replica, Status> {
        let within = async {
            let scoped = match workspace {
                Some(named) => self.replica.in_workspace(named).await?,
                None => self.replica.clone(),
            };
            let chosen = scoped.ensure_shared_workspace().await?;
            self.replica.in_workspace(&chosen.id.to_string()).await
        };
        within.await.map_err(|error| status(&error))
    }

    /// A place among the streams that may be open, for as long as it is held.
    fn stream(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            detailed(
                Code::ResourceExhausted,
                "too_many_streams",
                format!("{STREAMS_MAX} streams are open already"),
                Some("end one, or try again later"),
            )
        })
    }

    async fn server_info(&self) -> Result<v1::GetServerInfoResponse, Status> {
        let read = async {
            let status = self.replica.status().await?;
            let workspaces = self.replica.workspaces().await?;
            Ok::<_, Error>((status, workspaces))
        };
        let (state, workspaces) = read.await.map_err(|error| status(&error))?;
        let shared = workspaces.into_iter().filter(|workspace| !workspace.home);
        Ok(v1::GetServerInfoResponse {
            peer_id: state.device.peer_id.to_string(),
            name: state.device.name,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workspaces: shared.map(convert::workspace).collect(),
            low_space: state.disk.low_space,
            state_version: state.state_version.into(),
        })
    }

    async fn create(
        &self,
        request: v1::CreateMeetingRequest,
    ) -> Result<v1::CreateMeetingResponse, Status> {
        let v1::CreateMeetingRequest {
            workspace,
            title,
            project,
        } = request;
        let replica = self.within(workspace.as_deref()).await?;
        let created = async {
            let added = replica
                .meetings()
                .add(NewMeeting { title, project })
                .await?;
            let view = replica.meetings().show(added.meeting.id).await?;
            Ok::<_, Error>((added, view))
        };
        let (added, view) = created.await.map_err(|error| status(&error))?;
        let (resolution, candidates) = convert::resolution(added.resolution);
        Ok(v1::CreateMeetingResponse {
            meeting: Some(convert::meeting(&view)),
            resolved_project_id: added.resolved_project_id.map(|id| id.to_string()),
            resolution: resolution.into(),
            candidates,
        })
    }

    async fn get(&self, request: v1::GetMeetingRequest) -> Result<v1::GetMeetingResponse, Status> {
        let replica = self.within(request.workspace.as_deref()).await?;
        let view = show(&replica, document_id(&request.meeting_id)?).await?;
        let mut response = v1::GetMeetingResponse {
            meeting: Some(convert::meeting(&view)),
            pages: Vec::new(),
            freshness: Some(convert::freshness(&view.freshness)),
            held_by: view.held_by.iter().map(convert::holder).collect(),
        };
        if request.with_transcript {
            response.pages = convert::pages(view);
        }
        Ok(response)
    }

    async fn list(
        &self,
        request: v1::ListMeetingsRequest,
    ) -> Result<v1::ListMeetingsResponse, Status> {
        let replica = self.within(request.workspace.as_deref()).await?;
        let project = match &request.project {
            Some(named) => Some(find_project(&replica, named).await?),
            None => None,
        };
        let states = request.states.iter().copied();
        let filter = MeetingFilter {
            project,
            states: states
                .map(convert::wanted_state)
                .collect::<Result<_, _>>()?,
            since: moment("since", request.since.as_ref())?,
            until: moment("until", request.until.as_ref())?,
            text: request.text,
            tags: request.tags.into_iter().collect(),
            deleted: request.deleted,
        };
        let mut options = ListOptions {
            filter,
            ..ListOptions::default()
        };
        if request.page_size > 0 {
            options.limit = usize::try_from(request.page_size).unwrap_or(usize::MAX);
        }
        if !request.page_token.is_empty() {
            let after = request.page_token.parse::<DocumentId>();
            options.after = Some(after.map_err(|_| bad_input("`page_token` is of no page"))?);
        }
        let page = replica.meetings().list(options).await;
        let page = page.map_err(|error| status(&error))?;
        Ok(v1::ListMeetingsResponse {
            meetings: page.meetings.into_iter().map(convert::row).collect(),
            next_page_token: page.next.map(|id| id.to_string()).unwrap_or_default(),
            freshness: Some(convert::freshness(&page.freshness)),
        })
    }

    async fn update(
        &self,
        request: v1::UpdateMeetingRequest,
    ) -> Result<v1::UpdateMeetingResponse, Status> {
        let v1::UpdateMeetingRequest {
            workspace,
            meeting_id: id,
            title,
            notes,
            tags,
            mut add_tags,
            mut remove_tags,
            project,
        } = request;
        let replica = self.within(workspace.as_deref()).await?;
        let id = document_id(&id)?;
        let project = match project.as_deref() {
            None => None,
            Some("") => Some(None),
            Some(named) => Some(Some(find_project(&replica, named).await?)),
        };
        if let Some(v1::Tags { tags: wanted }) = tags {
            if !add_tags.is_empty() || !remove_tags.is_empty() {
                return Err(bad_input(
                    "`tags` sets all of them; leave it out to add or remove some",
                ));
            }
            let known = show(&replica, id).await?.meeting.tags;
            let removed = known.iter().filter(|tag| !wanted.contains(tag));
            remove_tags = removed.cloned().collect();
            let added = wanted.into_iter().filter(|tag| !known.contains(tag));
            add_tags = added.collect();
        }
        let meetings = replica.meetings();
        let edit = meetings.edit(id, move |meeting| {
            if let Some(title) = &title {
                meeting.set_title(title)?;
            }
            if let Some(notes) = &notes {
                meeting.set_notes(notes)?;
            }
            for tag in &remove_tags {
                meeting.remove_tag(tag)?;
            }
            for tag in &add_tags {
                meeting.add_tag(tag)?;
            }
            match project {
                Some(project) => meeting.set_project(project),
                None => Ok(()),
            }
        });
        edit.await.map_err(|error| status(&error))?;
        let meeting = Some(convert::meeting(&show(&replica, id).await?));
        Ok(v1::UpdateMeetingResponse { meeting })
    }

    async fn stop(
        &self,
        request: v1::StopMeetingRequest,
    ) -> Result<v1::StopMeetingResponse, Status> {
        let replica = self.within(request.workspace.as_deref()).await?;
        let id = document_id(&request.meeting_id)?;
        let meetings = replica.meetings();
        let stopped = meetings.edit(id, |meeting| meeting.reach_state(State::Stopped));
        stopped.await.map_err(|error| status(&error))?;
        let meeting = Some(convert::meeting(&show(&replica, id).await?));
        Ok(v1::StopMeetingResponse { meeting })
    }

    async fn activate(
        &self,
        request: v1::SetActiveProjectRequest,
    ) -> Result<v1::SetActiveProjectResponse, Status> {
        let replica = self.within(request.workspace.as_deref()).await?;
        let row = replica.projects().activate(&request.project).await;
        let project = Some(convert::project(row.map_err(|error| status(&error))?));
        Ok(v1::SetActiveProjectResponse { project })
    }
}

#[tonic::async_trait]
impl Reconvene for Calls {
    async fn get_server_info(
        &self,
        _request: Request<v1::GetServerInfoRequest>,
    ) -> Result<Response<v1::GetServerInfoResponse>, Status> {
        self.called("GetServerInfo", self.server_info()).await
    }

    async fn create_meeting(
        &self,
        request: Request<v1::CreateMeetingRequest>,
    ) -> Result<Response<v1::CreateMeetingResponse>, Status> {
        let work = self.create(request.into_inner());
        self.called("CreateMeeting", work).await
    }

    async fn get_meeting(
        &self,
        request: Request<v1::GetMeetingRequest>,
    ) -> Result<Response<v1::GetMeetingResponse>, Status> {
        let work = self.get(request.into_inner());
        self.called("GetMeeting", work).await
    }

    async fn list_meetings(
        &self,
        request: Request<v1::ListMeetingsRequest>,
    ) -> Result<Response<v1::ListMeetingsResponse>, Status> {
        let work = self.list(request.into_inner());
        self.called("ListMeetings", work).await
    }

    async fn update_meeting(
        &self,
        request: Request<v1::UpdateMeetingRequest>,
    ) -> Result<Response<v1::UpdateMeetingResponse>, Status> {
        let work = self.update(request.into_inner());
        self.called("UpdateMeeting", work).await
    }

    async fn stop_meeting(
        &self,
        request: Request<v1::StopMeetingRequest>,
    ) -> Result<Response<v1::StopMeetingResponse>, Status> {
        let work = self.stop(request.into_inner());
        self.called("StopMeeting", work).await
    }

    async fn append_segments(
        &self,
        request: Request<Streaming<v1::AppendSegmentsRequest>>,
    ) -> Result<Response<v1::AppendSegmentsResponse>, Status> {
        let work = self.append(request.into_inner());
        self.counted("AppendSegments", work).await
    }

    async fn set_active_project(
        &self,
        request: Request<v1::SetActiveProjectRequest>,
    ) -> Result<Response<v1::SetActiveProjectResponse>, Status> {
        let work = self.activate(request.into_inner());
        self.called("SetActiveProject", work).await
    }

    async fn start_integration_sync(
        &self,
        request: Request<v1::StartIntegrationSyncRequest>,
    ) -> Result<Response<v1::StartIntegrationSyncResponse>, Status> {
        let work = self.start_sync(request.into_inner());
        self.called("StartIntegrationSync", work).await
    }

    async fn get_sync_status(
        &self,
        request: Request<v1::GetSyncStatusRequest>,
    ) -> Result<Response<v1::GetSyncStatusResponse>, Status> {
        let work = self.sync_status(request.into_inner());
        self.called("GetSyncStatus", work).await
    }

    async fn cancel_sync(
        &self,
        request: Request<v1::CancelSyncRequest>,
    ) -> Result<Response<v1::CancelSyncResponse>, Status> {
        let work = self.end_sync(request.into_inner());
        self.called("CancelSync", work).await
    }

    async fn validate_integrations(
        &self,
        request: Request<v1::ValidateIntegrationsRequest>,
    ) -> Result<Response<v1::ValidateIntegrationsResponse>, Status> {
        let work = self.validate(request.into_inner());
        self.called("ValidateIntegrations", work).await
    }

    type WatchEventsStream = BoxStream<'static, Result<v1::Event, Status>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let work = self.watch(request.into_inner());
        self.counted("WatchEvents", work).await
    }
}

fn document_id(text: &str) -> Result<DocumentId, Status> {
    text.parse::<DocumentId>()
        .map_err(|error| status(&error.into()))
}

async fn show(replica: &Replica, id: DocumentId) -> Result<MeetingView, Status> {
    let view = replica.meetings().show(id).await;
    view.map_err(|error| status(&error))
}

async fn find_project(replica: &Replica, named: &str) -> Result<ProjectId, Status> {
    let found = replica.projects().find(named).await;
    found.map_err(|error| status(&error))
}

fn moment(
    name: &str,
    at: Option<&prost_types::Timestamp>,
) -> Result<Option<reconvene::WallTime>, Status> {
    at.map(|at| convert::wall_time(name, at)).transpose()
}

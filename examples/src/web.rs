//! Meetings over HTTP, served from a replica: an axum app without a database or a cache of its own.
//!
//!     cargo run -p reconvene-examples --bin web              # serves on 127.0.0.1:8080
//!     cargo run -p reconvene-examples --bin web -- --once    # asks itself, and fails if it lies
//!
//! | request | answer |
//! |---|---|
//! | `GET /meetings` | the latest meetings, from the index |
//! | `POST /meetings` `{"title"}` | the meeting, once it is safe on disk, and which project it went to |
//! | `GET /meetings/ID` | the meeting with its transcript |
//! | `POST /meetings/ID/notes` `{"text"}` | the meeting with the note at its end |
//! | `GET /live` | server-sent events: what the list shows, and from then on what changes |
//!
//! The data is in `RECONVENE_DATA`, else in a directory that goes with the program.

mod web_check;

use std::convert::Infallible;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt as _};
use reconvene::{
    AddedMeeting, ListOptions, MeetingFilter, MeetingPage, MeetingView, NewMeeting, QueryBatch,
    Replica,
};
use serde::Deserialize;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let once = std::env::args().any(|arg| arg == "--once");
    let temporary = tempfile::tempdir()?;
    let directory = match std::env::var_os("RECONVENE_DATA") {
        Some(directory) if !once => directory.into(),
        _ => temporary.path().join("data"),
    };
    let replica = Replica::open(directory).await?;
    // Nobody but this machine.
    let listener = TcpListener::bind(("127.0.0.1", if once { 0 } else { 8080 })).await?;
    let address = listener.local_addr()?;
    println!("http://{address}/meetings");
    let serve = axum::serve(listener, app(replica.clone()));
    if once {
        tokio::select! {
            served = serve.into_future() => served?,
            checked = web_check::run(address) => checked?,
        }
        println!("everything was answered as it should be");
    } else {
        // A device that has joined a server stays in touch with it; one that has not works alone.
        match replica.connect().await {
            Err(reconvene::Error::NoServer) => {}
            connected => connected?,
        }
        serve.await?;
    }
    replica.close().await?;
    Ok(())
}

fn app(replica: Replica) -> Router {
    Router::new()
        .route("/meetings", get(list).post(add))
        .route("/meetings/{id}", get(show))
        .route("/meetings/{id}/notes", post(note))
        .route("/live", get(live))
        .with_state(replica)
}

async fn list(State(replica): State<Replica>) -> Result<Json<MeetingPage>, Failure> {
    let page = replica.meetings().list(ListOptions::default()).await?;
    Ok(Json(page))
}

#[derive(Deserialize)]
struct New {
    title: String,
}

async fn add(
    State(replica): State<Replica>,
    Json(new): Json<New>,
) -> Result<(StatusCode, Json<AddedMeeting>), Failure> {
    let added = replica
        .meetings()
        .add(NewMeeting::titled(new.title))
        .await?;
    Ok((StatusCode::CREATED, Json(added)))
}

async fn show(
    State(replica): State<Replica>,
    Path(id): Path<String>,
) -> Result<Json<MeetingView>, Failure> {
    let id = id.parse().map_err(reconvene::Error::from)?;
    Ok(Json(replica.meetings().show(id).await?))
}

#[derive(Deserialize)]
struct Note {
    text: String,
}

async fn note(
    State(replica): State<Replica>,
    Path(id): Path<String>,
    Json(note): Json<Note>,
) -> Result<Json<MeetingView>, Failure> {
    let id = id.parse().map_err(reconvene::Error::from)?;
    let edit = move |meeting: &mut reconvene::MeetingEditor<'_>| meeting.append_note(&note.text);
    replica.meetings().edit(id, edit).await?;
    Ok(Json(replica.meetings().show(id).await?))
}

/// The live query of this example as server-sent events. A browser that reads slowly, or goes away,
/// costs no memory: the query tells it each meeting's latest row when it comes.
async fn live(
    State(replica): State<Replica>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let query = replica.meetings().query(MeetingFilter::default());
    let batches = query.subscribe()?.into_stream();
    let events = batches.map(|batch| Ok(event(batch)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

fn event(batch: Result<QueryBatch, reconvene::Error>) -> Event {
    let event = match &batch {
        Ok(batch) => Event::default().event("batch").json_data(batch),
        Err(error) => Event::default().event("failed").json_data(error),
    };
    event.unwrap_or_else(|error| Event::default().event("failed").comment(error.to_string()))
}

/// A failed request: the replica's own words, and the status that goes with its code.
struct Failure(reconvene::Error);

impl From<reconvene::Error> for Failure {
    fn from(error: reconvene::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.code() {
            "not_found" => StatusCode::NOT_FOUND,
            "bad_id" | "bad_input" | "edit_refused" => StatusCode::BAD_REQUEST,
            "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            "closed" | "busy" => StatusCode::SERVICE_UNAVAILABLE,
            "no_space" => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

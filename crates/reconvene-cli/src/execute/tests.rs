//! Requests on a real store give the answers that the README documents.

use std::sync::Arc;

use reconvene::{MeetingFilter, OpenOptions, Replica, Role, State};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::execute;
use crate::exit;
use crate::failure::Failure;
use crate::import;
use crate::request::{ImportFile, ImportFormat, MeetingChanges, Request, Sinks, TagEdit, Wanted};

/// A store of its own for each test.
struct Store {
    replica: Replica,
    root: TempDir,
}

impl Store {
    async fn open(role: Role) -> Self {
        let root = TempDir::new().expect("a directory");
        let options = OpenOptions::new(root.path().join("store")).role(role);
        let replica = options.open().await.expect("opens");
        Self { replica, root }
    }

    async fn ask(&self, request: Request) -> Result<Value, Failure> {
        execute(
            &self.replica,
            request,
            &Sinks::progress_only(Arc::new(|_| {})),
        )
        .await
    }

    async fn answer(&self, request: Request) -> Value {
        self.ask(request).await.expect("is carried out")
    }

    async fn close(self) {
        self.replica.close().await.expect("closes");
    }
}

fn add(title: &str) -> Request {
    Request::MeetingAdd {
        title: title.to_owned(),
        project: None,
    }
}

fn list(limit: usize, after: Option<String>) -> Request {
    Request::MeetingList {
        limit,
        after,
        wanted: Wanted::default(),
    }
}

fn named(answer: &Value, pointer: &str) -> String {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    found
        .unwrap_or_else(|| panic!("{pointer} is not in {answer}"))
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn adding_a_meeting_names_the_project_and_the_rule() {
    let store = Store::open(Role::Device).await;
    let added = store.answer(add("a")).await;
    assert_eq!(added["resolved_project_id"], Value::Null);
    assert_eq!(added["resolution"]["rule"], "none");

    let name = "Apollo".to_owned();
    let project = store
        .answer(Request::ProjectAdd { name: name.clone() })
        .await;
    let id = named(&project, "/project/id");
    store
        .answer(Request::ProjectActivate { project: name })
        .await;
    let added = store.answer(add("b")).await;
    assert_eq!(named(&added, "/resolved_project_id"), id);
    assert_eq!(added["resolved_project_name"], "Apollo");
    assert_eq!(added["resolution"]["rule"], "active");
    assert_eq!(added["meeting"]["title"], "b");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_edit_makes_every_change_and_notes_are_lines() {
    let store = Store::open(Role::Device).await;
    let id = named(&store.answer(add("a")).await, "/meeting/id");
    let edit = |changes| Request::MeetingEdit {
        id: id.clone(),
        changes,
    };
    store
        .answer(edit(MeetingChanges {
            append_note: Some("first".to_owned()),
            tags: vec![TagEdit::Add("x".to_owned()), TagEdit::Add("y".to_owned())],
            ..MeetingChanges::default()
        }))
        .await;
    let edited = store
        .answer(edit(MeetingChanges {
            title: Some("b".to_owned()),
            append_note: Some("second\n".to_owned()),
            state: Some(State::Stopped),
            tags: vec![TagEdit::Remove("x".to_owned())],
        }))
        .await;
    let meeting = &edited["meeting"];
    assert_eq!(meeting["id"], json!(id));
    assert_eq!(meeting["title"], "b");
    assert_eq!(meeting["notes"], "first\nsecond\n");
    assert_eq!(meeting["state"], "stopped");
    assert_eq!(meeting["tags"], json!(["y"]));
    assert_eq!(store.answer(Request::MeetingShow { id }).await, edited);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_list_join_up() {
    let store = Store::open(Role::Device).await;
    let mut added = Vec::new();
    for title in ["a", "b", "c"] {
        added.push(named(&store.answer(add(title)).await, "/meeting/id"));
    }
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = store.answer(list(2, after)).await;
        for meeting in page["meetings"].as_array().expect("a list") {
            listed.push(named(meeting, "/id"));
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    listed.reverse();
    assert_eq!(listed, added);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_says_when_it_ends() {
    let store = Store::open(Role::Server).await;
    store.replica.listen(&[]).await.expect("listens");
    let invite = Request::Invite {
        member: Some("Ann".to_owned()),
        expires_ms: 60_000,
    };
    let invited = store.answer(invite).await;
    let expires_at = named(&invited, "/expires_at");
    let parsed = humantime::parse_rfc3339(&expires_at).expect("RFC 3339");
    let since_epoch = parsed
        .duration_since(std::time::UNIX_EPOCH)
        .expect("not that old");
    let ms = invited["expires_at_ms"].as_u64().expect("a number");
    assert_eq!(since_epoch.as_secs(), ms / 1_000);
    let ticket = reconvene::Ticket::decode(&named(&invited, "/ticket")).expect("a ticket");
    assert_eq!(ticket.member_name, "Ann");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_does_not_keep_the_others_out() {
    let store = Store::open(Role::Device).await;
    let good = r#"{"general_query_list": [], "meeting_transcripts": []}"#;
    let mut files = Vec::new();
    for (name, text) in [("one.json", good), ("bad.json", "{"), ("two.json", good)] {
        let path = store.root.path().join(name);
        std::fs::write(&path, text).expect("written");
        let given = name.to_owned();
        files.push(ImportFile { given, path });
    }
    let format = ImportFormat::Qmsum;
    let imported = store.answer(Request::Import { format, files }).await;
    assert_eq!(imported["imported"], 2);
    assert_eq!(imported["meetings"].as_array().map(Vec::len), Some(2));
    for (place, file) in ["one.json", "two.json"].into_iter().enumerate() {
        assert_eq!(named(&imported, &format!("/taken/{place}/file")), file);
        assert_eq!(
            imported["taken"][place]["meeting"],
            imported["meetings"][place]
        );
    }
    assert_eq!(named(&imported, "/failed/0/file"), "bad.json");
    assert_eq!(import::exit_code(&imported), exit::INCOMPLETE);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_typed_failure() {
    let store = Store::open(Role::Device).await;
    let unknown = "00000000-0000-0000-0000-000000000000";
    let show = |id: &str| Request::MeetingShow { id: id.to_owned() };
    let project = Some("Nope".to_owned());
    for (request, code) in [
        (show(unknown), "not_found"),
        (show("42"), "bad_id"),
        (
            Request::MeetingAdd {
                title: "a".to_owned(),
                project,
            },
            "unknown_project",
        ),
        (
            Request::Join {
                ticket: "x".to_owned(),
                adopt: false,
            },
            "bad_ticket",
        ),
        (
            Request::Sync {
                timeout_ms: 10,
                with: Vec::new(),
            },
            "no_server",
        ),
        (
            Request::WorkspaceUse {
                workspace: unknown.to_owned(),
            },
            "not_found",
        ),
        (
            Request::Export {
                workspace: Some(unknown.to_owned()),
            },
            "not_found",
        ),
        (
            Request::ExportMarkdown {
                meeting: Some(unknown.to_owned()),
            },
            "not_found",
        ),
        (
            Request::ExportMarkdown {
                meeting: Some("42".to_owned()),
            },
            "bad_id",
        ),
    ] {
        let name = request.name();
        let failure = store.ask(request).await.expect_err(&name);
        assert_eq!(failure.code, code, "{name}");
        assert!(failure.hint.is_some(), "{name}: {failure:?}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_its_own_bytes() {
    let store = Store::open(Role::Device).await;
    store.answer(add("a")).await;
    let request = Request::Export { workspace: None };
    let exported = store.answer(request).await;
    let direct = store.replica.export(None).await.expect("exports");
    assert_eq!(exported.as_str(), Some(direct.as_str()));
    let status = store.answer(Request::status()).await;
    for pointer in [
        "/documents",
        "/documents_materialised_by",
        "/workspaces/0/id",
    ] {
        assert!(
            status.pointer(pointer).is_some(),
            "{pointer} is not in {status}"
        );
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_streams_take_the_same_filter_with_the_project_by_name() {
    let store = Store::open(Role::Device).await;
    let name = "Apollo".to_owned();
    store
        .answer(Request::ProjectAdd { name: name.clone() })
        .await;
    store.answer(add("outside")).await;
    store
        .answer(Request::MeetingAdd {
            title: "Inside".to_owned(),
            project: Some(name.clone()),
        })
        .await;
    let wanted = Wanted {
        project: Some(name),
        filter: MeetingFilter {
            text: Some("IN".to_owned()),
            ..MeetingFilter::default()
        },
    };
    let (items, mut told) = mpsc::channel(4);
    let sinks = Sinks {
        progress: Arc::new(|_| {}),
        items,
    };
    let replica = store.replica.clone();
    let request = Request::MeetingWatch {
        wanted: wanted.clone(),
    };
    let stream = tokio::spawn(async move { execute(&replica, request, &sinks).await });
    // The row is there once its batch is stored, which may be after the answer.
    let mut item = told.recv().await.expect("an item");
    while item["change"] == "complete" {
        item = told.recv().await.expect("an item");
    }
    assert_eq!(item["change"], "added");
    assert_eq!(item["meeting"]["title"], "Inside");
    let listed = store
        .answer(Request::MeetingList {
            limit: 10,
            after: None,
            wanted,
        })
        .await;
    assert_eq!(listed["meetings"].as_array().map(Vec::len), Some(1));
    assert_eq!(listed["meetings"][0]["title"], "Inside");
    drop(told);
    assert_eq!(stream.await.expect("no panic"), Ok(Value::Null));
    let unknown = Wanted {
        project: Some("Nope".to_owned()),
        ..Wanted::default()
    };
    let failure = store.ask(Request::MeetingWatch { wanted: unknown }).await;
    assert_eq!(failure.expect_err("unknown").code, "unknown_project");
    store.close().await;
}

#[test]
fn a_request_is_named_without_what_it_holds() {
    assert_eq!(Request::status().name(), "status");
    let ticket = "secret".to_owned();
    let adopt = false;
    assert_eq!(Request::Join { ticket, adopt }.name(), "join");
}

//! What the cache that this replaces got wrong, with real replicas that things happen to: stale data
//! on screen, links that came back without their state, changes that nobody told of.

use std::collections::BTreeSet;
use std::time::Duration;

use reconvene::{
    AddedMeeting, AtLeast, Delivery, DocumentId, Error, FreshnessState, HeldBy, ListOptions,
    ManualClock, MeetingFilter, MeetingSubscription, NewMeeting, PageView, Replica, ReplicaEvent,
    Resolution, Segment, StaleReason, State,
};
use reconvene_testkit::{ClientOptions, Fault, Strike, TestClient, TestServer, Way, patience};
use tokio::time::timeout;

/// How long a whole test may take.
const WHOLE: Duration = Duration::from_secs(180);

/// Runs a test on a runtime of its own.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(WHOLE, test).await.unwrap() });
}

/// A server and two members' devices.
async fn pair() -> (TestServer, TestClient, TestClient) {
    let mut server = TestServer::start().await.unwrap();
    let ada = server.client("Ada").await.unwrap();
    let ben = server.client("Ben").await.unwrap();
    (server, ada, ben)
}

async fn add(replica: &Replica, title: &str) -> DocumentId {
    let added = replica.meetings().add(NewMeeting::titled(title)).await;
    added.unwrap().meeting.id
}

async fn added(client: &TestClient, title: &str) -> AddedMeeting {
    let meetings = client.replica().meetings();
    meetings.add(NewMeeting::titled(title)).await.unwrap()
}

async fn title(replica: &Replica, id: DocumentId) -> String {
    let shown = replica.meetings().show(id).await.unwrap();
    shown.meeting.title
}

async fn retitle(replica: &Replica, id: DocumentId, title: &'static str) {
    let meetings = replica.meetings();
    let edit = meetings.edit(id, move |meeting| meeting.set_title(title));
    edit.await.unwrap();
}

async fn export(replica: &Replica) -> String {
    replica.export(None).await.unwrap().to_string()
}

fn subscribe(replica: &Replica) -> MeetingSubscription {
    let query = replica.meetings().query(MeetingFilter::default());
    query.subscribe().unwrap()
}

/// Reads a live query until it shows a meeting like this.
async fn until_titled(query: &mut MeetingSubscription, title: &str) {
    loop {
        let batch = timeout(patience(), query.next()).await.unwrap().unwrap();
        let mut rows = batch.added.iter().chain(&batch.changed);
        if rows.any(|row| row.title == title) {
            return;
        }
    }
}

/// Waits for an event.
async fn until(events: &mut reconvene::Events, wanted: impl Fn(&ReplicaEvent) -> bool) {
    while let Some(event) = timeout(patience(), events.next()).await.unwrap() {
        if wanted(&event) {
            return;
        }
    }
    panic!("the replica was closed");
}

async fn state(replica: &Replica) -> FreshnessState {
    let page = replica.meetings().list(ListOptions::default()).await;
    page.unwrap().freshness.state
}

#[test]
fn meeting_modified_by_other_client() {
    run(async {
        let (_server, ada, ben) = pair().await;
        let id = add(ada.replica(), "Planning").await;
        // What is on Ben's screen: nobody asks for anything again.
        let mut shown = subscribe(ben.replica());
        until_titled(&mut shown, "Planning").await;
        retitle(ada.replica(), id, "Planning, moved").await;
        until_titled(&mut shown, "Planning, moved").await;
        assert_eq!(title(ben.replica(), id).await, "Planning, moved");
        // And back, from a document that is open on both.
        retitle(ben.replica(), id, "Cancelled").await;
        let mut events = subscribe(ada.replica());
        until_titled(&mut events, "Cancelled").await;
        assert_eq!(title(ada.replica(), id).await, "Cancelled");
    });
}

#[test]
fn server_restart_keeps_state_true() {
    run(async {
        let (mut server, ada, ben) = pair().await;
        let id = add(ada.replica(), "Planning").await;
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        let mut shown = subscribe(ben.replica());
        until_titled(&mut shown, "Planning").await;
        server.stop().await.unwrap();
        // Both go on, and neither claims to know of the other.
        retitle(ada.replica(), id, "Planning, moved").await;
        add(ben.replica(), "Made meanwhile").await;
        let written = ada.replica().meetings().written(id).await.unwrap();
        let held = Delivery::HeldBy(HeldBy::Server);
        let early = written.wait(held, Duration::from_millis(200)).await;
        assert!(matches!(early, Err(Error::Timeout { .. })), "{early:?}");
        let now = AtLeast::MaxStale(Duration::ZERO);
        let read = ben.replica().read_at_least(now, Duration::from_millis(200));
        let early = read.await;
        assert!(matches!(early, Err(Error::Timeout { .. })), "{early:?}");
        server.begin().await.unwrap();
        ada.settle().await.unwrap();
        written.wait(held, patience()).await.unwrap();
        // What is fresh now is what the server has now.
        ben.settle().await.unwrap();
        assert_eq!(title(ben.replica(), id).await, "Planning, moved");
        until_titled(&mut shown, "Planning, moved").await;
        assert_eq!(state(ben.replica()).await, FreshnessState::Verified);
        ada.settle().await.unwrap();
        assert_eq!(export(ada.replica()).await, export(server.replica()).await);
        assert_eq!(export(ben.replica()).await, export(server.replica()).await);
    });
}

#[test]
fn reconnection() {
    run(async {
        let (server, ada, ben) = pair().await;
        let both = add(ada.replica(), "Edited by both").await;
        let kept = add(ada.replica(), "Edited by one").await;
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        let mut shown = subscribe(ben.replica());
        until_titled(&mut shown, "Edited by one").await;
        ben.cut_off();
        retitle(ada.replica(), kept, "Edited by Ada").await;
        let notes = ada.replica().meetings();
        let note = notes.edit(both, |meeting| meeting.append_note("From Ada.\n"));
        note.await.unwrap();
        let notes = ben.replica().meetings();
        let note = notes.edit(both, |meeting| meeting.append_note("From Ben.\n"));
        note.await.unwrap();
        let new = add(ben.replica(), "Made offline").await;
        let before = ben.replica().pending().await.unwrap();
        let owed = before.workspaces.iter().flat_map(|of| &of.peers);
        let owed: u64 = owed
            .map(|peer| peer.owed.expect("it is known").documents)
            .sum();
        assert_eq!(owed, 2, "{before:?}");
        // Also after a restart while offline.
        let ben = ben.restart().await.unwrap();
        assert_eq!(ben.replica().pending().await.unwrap(), before);
        let mut shown = subscribe(ben.replica());
        ben.let_through();
        ben.settle().await.unwrap();
        until_titled(&mut shown, "Edited by Ada").await;
        ada.settle().await.unwrap();
        let ours = export(server.replica()).await;
        assert_eq!(export(ada.replica()).await, ours);
        assert_eq!(export(ben.replica()).await, ours);
        let shown = ada.replica().meetings().show(both).await.unwrap();
        for said in ["From Ada.", "From Ben."] {
            assert!(
                shown.meeting.notes.contains(said),
                "{}",
                shown.meeting.notes
            );
        }
        assert_eq!(title(ada.replica(), new).await, "Made offline");
        let after = ben.replica().pending().await.unwrap();
        let mut owed = after.workspaces.iter().flat_map(|of| &of.peers);
        assert!(owed.all(|peer| peer.owed.is_some_and(|debt| debt.documents == 0)));
    });
}

#[test]
fn what_changed_while_away_is_told_once_with_its_conflicts() {
    run(async {
        let (_server, ada, ben) = pair().await;
        let projects = ada.replica().projects();
        let apollo = projects.add("Apollo").await.unwrap().id;
        let gemini = projects.add("Gemini").await.unwrap().id;
        let mut ids = BTreeSet::new();
        for title in ["One", "Two", "Three", "Four"] {
            ids.insert(add(ada.replica(), title).await);
        }
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        let mut shown = subscribe(ben.replica());
        assert_eq!(shown.next().await.unwrap().added.len(), 4);
        let mut events = ben.replica().events();
        ben.cut_off();
        let file = async |client: &TestClient, id, project| {
            let meetings = client.replica().meetings();
            let filed = meetings.edit(id, move |meeting| meeting.set_project(Some(project)));
            filed.await.unwrap();
        };
        let mut changed: Vec<_> = ids.iter().copied().take(3).collect();
        file(&ben, changed[0], gemini).await;
        assert_eq!(shown.next().await.unwrap().changed.len(), 1);
        for id in &changed {
            file(&ada, *id, apollo).await;
        }
        ada.settle().await.unwrap();
        ben.let_through();
        ben.settle().await.unwrap();
        let caught_up = loop {
            match events.next().await.unwrap() {
                ReplicaEvent::CaughtUp {
                    meetings,
                    changed,
                    conflicts,
                    workspace,
                    ..
                } if Some(workspace) == ben.replica().device().current => {
                    break (meetings, changed, conflicts);
                }
                _ => {}
            }
        };
        changed.sort_unstable();
        assert_eq!(caught_up, (changed.clone(), 3, 1));
        // The live query tells each of them once, too.
        let mut told = Vec::new();
        while told.len() < 3 {
            let batch = shown.next().await.unwrap();
            assert!(batch.added.is_empty() && batch.removed.is_empty());
            told.extend(batch.changed.into_iter().map(|row| row.id));
        }
        told.sort_unstable();
        assert_eq!(told, changed);
    });
}

#[test]
fn state_version_bump() {
    run(async {
        let mut server = TestServer::start().await.unwrap();
        let ada = server.client("Ada").await.unwrap();
        let id = add(ada.replica(), "Planning").await;
        ada.settle().await.unwrap();
        let mut events = ada.replica().events();
        let mut shown = subscribe(ada.replica());
        until_titled(&mut shown, "Planning").await;
        server.stop().await.unwrap();
        // Not synced when everything derived is thrown away.
        retitle(ada.replica(), id, "Planning, moved").await;
        let offline = add(ada.replica(), "Made offline").await;
        let before = ada.replica().status().await.unwrap();
        server.set_state_version(7).await.unwrap();
        ada.replica().network_changed().await.unwrap();
        until(&mut events, |event| {
            matches!(
                event,
                ReplicaEvent::StateVersionChanged { from: 1, to: 7, .. }
            )
        })
        .await;
        let shared = ada.replica().device().current.unwrap();
        until(
            &mut events,
            |event| matches!(event, ReplicaEvent::Rebuilt { workspace } if *workspace == shared),
        )
        .await;
        // Every row was made anew, from the documents.
        let after = ada.replica().status().await.unwrap();
        let indexed = |status: &reconvene::Status| {
            let by = status.documents_materialised_by.get("index").copied();
            by.unwrap_or_default()
        };
        assert!(indexed(&after) >= indexed(&before) + 3, "{after:?}");
        ada.settle().await.unwrap();
        assert_eq!(title(ada.replica(), id).await, "Planning, moved");
        assert_eq!(title(ada.replica(), offline).await, "Made offline");
        assert_eq!(export(ada.replica()).await, export(server.replica()).await);
        until_titled(&mut shown, "Made offline").await;
        // Known by now: the same version again changes nothing.
        let mut events = ada.replica().events();
        server.restart().await.unwrap();
        ada.settle().await.unwrap();
        let ada = ada.restart().await.unwrap();
        ada.settle().await.unwrap();
        while let Ok(Some(event)) = timeout(Duration::ZERO, events.next()).await {
            let is_anew = matches!(event, ReplicaEvent::StateVersionChanged { .. });
            assert!(!is_anew, "{event:?}");
        }
    });
}

#[test]
fn server_wiped() {
    run(async {
        let (mut server, ada, ben) = pair().await;
        let id = add(ada.replica(), "Planning").await;
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        let backup = server.back_up().await.unwrap();
        retitle(ada.replica(), id, "Planning, moved").await;
        let other = add(ben.replica(), "After the backup").await;
        let cleo = server.client("Cleo").await.unwrap();
        for client in [&ada, &ben, &ada] {
            client.settle().await.unwrap();
        }
        let all = export(ada.replica()).await;
        assert_eq!(export(ben.replica()).await, all);
        let written = ben.replica().meetings().written(other).await.unwrap();
        let held = Delivery::HeldBy(HeldBy::Server);
        written.wait(held, patience()).await.unwrap();
        // A server that lost everything lets its devices in all the same, and gets it all again.
        ben.cut_off();
        server.wipe().await.unwrap();
        assert_ne!(export(server.replica()).await, all);
        ada.settle().await.unwrap();
        assert_eq!(export(server.replica()).await, all);
        ben.let_through();
        ben.settle().await.unwrap();
        assert_eq!(export(ben.replica()).await, all);
        // One that is set back to an old history is found out, and gets what it lost.
        server.restore(&backup).await.unwrap();
        ben.settle().await.unwrap();
        assert_eq!(export(server.replica()).await, all);
        // Whoever joined since the backup is let in, too.
        for client in [&ada, &cleo] {
            client.settle().await.unwrap();
            assert_eq!(export(client.replica()).await, all);
        }
        let stranger = TestServer::start().await.unwrap();
        assert_ne!(export(stranger.replica()).await, all);
    });
}

#[test]
fn staleness_bound_holds() {
    run(async {
        let mut server = TestServer::start().await.unwrap();
        let ada = server.client("Ada").await.unwrap();
        let clock = ManualClock::new();
        let options = ClientOptions {
            clock: Some(clock.clone()),
            staleness_bound: None,
        };
        let ben = server.client_with("Ben", options).await.unwrap();
        let id = add(ada.replica(), "Standup").await;
        let meetings = ada.replica().meetings();
        let begun = meetings.edit(id, |meeting| meeting.reach_state(State::Recording));
        begun.await.unwrap();
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        assert_eq!(state(ben.replica()).await, FreshnessState::Verified);
        let mut events = ben.replica().events();
        ben.cut_off();
        until(&mut events, |event| {
            matches!(event, ReplicaEvent::LinkDown { .. })
        })
        .await;
        // Within the bound it says as of when; past it, that it is not fresh. An active meeting, too.
        clock.advance(Duration::from_secs(31));
        until(&mut events, |event| {
            matches!(event, ReplicaEvent::Stale { .. })
        })
        .await;
        let shown = ben.replica().meetings().show(id).await.unwrap();
        let FreshnessState::Stale { since, why } = shown.freshness.state else {
            panic!("{:?}", shown.freshness);
        };
        assert_eq!((since, why), (shown.freshness.as_of, StaleReason::Offline));
        // A wall clock that is set back does not make it fresh again.
        clock.set_back(Duration::from_secs(3600));
        assert_ne!(state(ben.replica()).await, FreshnessState::Verified);
        clock.set_forward(Duration::from_secs(3600));
        retitle(ada.replica(), id, "Standup, late").await;
        ada.settle().await.unwrap();
        ben.let_through();
        ben.settle().await.unwrap();
        until(&mut events, |event| {
            matches!(event, ReplicaEvent::Fresh { .. })
        })
        .await;
        let shown = ben.replica().meetings().show(id).await.unwrap();
        assert_eq!(shown.freshness.state, FreshnessState::Verified);
        assert_eq!(shown.meeting.title, "Standup, late");
        // With the link up, time alone makes nothing stale.
        for _ in 0..12 {
            clock.advance(Duration::from_secs(5));
            ben.settle().await.unwrap();
            assert_eq!(state(ben.replica()).await, FreshnessState::Verified);
        }
    });
}

#[test]
fn live_transcript_survives_cut() {
    run(async {
        const SEGMENTS: usize = 120;
        let (_server, ada, ben) = pair().await;
        let begun = serde_json::json!({
            "general_query_list": [],
            "meeting_transcripts": [{ "speaker": "Ada", "content": "Shall we begin?" }],
        });
        let begun = begun.to_string();
        let meeting = reconvene::qmsum::parse("standup.json", begun.as_bytes()).unwrap();
        let id = ada.replica().meetings().import(meeting).await.unwrap();
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        let mut heard = subscribe(ben.replica());
        let shown = ada.replica().meetings().show(id).await.unwrap();
        let PageView::Present { id: page, .. } = shown.pages[0] else {
            panic!("the page is there");
        };
        for number in 0..SEGMENTS {
            // The one who speaks and the one who listens lose their links now and then, in the middle
            // of whatever is on its way, and neither is told.
            if number % 30 == 10 {
                let at = (number as u64) * 7 % 400;
                drop(ada.proxy().arm(Some(Strike::new(Way::Up, at, Fault::Cut))));
            }
            if number % 30 == 20 {
                let at = (number as u64) * 11 % 400;
                drop(
                    ben.proxy()
                        .arm(Some(Strike::new(Way::Down, at, Fault::Cut))),
                );
            }
            let segment = Segment {
                id: format!("s{number}"),
                start: 1_000 + number as i64,
                end: None,
                speaker: None,
                text: format!("Sentence {number}."),
            };
            let meetings = ada.replica().meetings();
            let said = meetings.edit_page(page, move |page| page.append_segment(&segment));
            said.await.unwrap();
        }
        ada.settle().await.unwrap();
        ben.settle().await.unwrap();
        let said = |client: &TestClient| {
            let meetings = client.replica().meetings();
            async move {
                let shown = meetings.show(id).await.unwrap();
                let PageView::Present { page, .. } = &shown.pages[0] else {
                    panic!("the page is there");
                };
                let segments = page.segments.iter();
                segments
                    .skip(1)
                    .map(|segment| segment.id.clone())
                    .collect::<Vec<_>>()
            }
        };
        let expected: Vec<_> = (0..SEGMENTS).map(|number| format!("s{number}")).collect();
        assert_eq!(said(&ada).await, expected);
        assert_eq!(said(&ben).await, expected, "none lost, none doubled");
        assert!(ada.proxy().connections() > 1 || ben.proxy().connections() > 1);
        // The one who listens was told without asking.
        heard.next().await.unwrap();
    });
}

#[test]
fn active_project_resolved() {
    run(async {
        let mut server = TestServer::start().await.unwrap();
        let ada = server.client("Ada").await.unwrap();
        let phone = server.client("Ada").await.unwrap();
        let ben = server.client("Ben").await.unwrap();
        let (projects, meetings) = (ada.replica().projects(), ada.replica().meetings());
        let unfiled = meetings.add(NewMeeting::titled("Before")).await.unwrap();
        assert_eq!(unfiled.resolved_project_id, None);
        assert_eq!(unfiled.resolution, Resolution::None);
        let apollo = projects.add("Apollo").await.unwrap().id;
        let gemini = projects.add("Gemini").await.unwrap().id;
        projects.activate("Apollo").await.unwrap();
        let filed = meetings.add(NewMeeting::titled("Landing")).await.unwrap();
        assert_eq!(filed.resolved_project_id, Some(apollo));
        assert_eq!(filed.resolution, Resolution::Active);
        let named = |name: &str| NewMeeting {
            title: "Docking".to_owned(),
            project: Some(name.to_owned()),
        };
        let explicit = meetings.add(named("Gemini")).await.unwrap();
        assert_eq!(explicit.resolved_project_id, Some(gemini));
        assert_eq!(explicit.resolution, Resolution::Explicit);
        // It is the member's, on all of their devices, and nobody else's.
        for client in [&ada, &phone, &ben] {
            client.settle().await.unwrap();
        }
        let elsewhere = NewMeeting::titled("On the phone");
        let elsewhere = phone.replica().meetings().add(elsewhere).await.unwrap();
        assert_eq!(elsewhere.resolved_project_id, Some(apollo));
        let others = added(&ben, "Ben's").await;
        assert_eq!(others.resolution, Resolution::None);
        // What is out of use is an error where it is named, and is not chosen where it is not.
        projects.archive("Apollo", true).await.unwrap();
        let code = |name: &'static str| {
            let adding = meetings.add(named(name));
            async { adding.await.unwrap_err().code() }
        };
        assert_eq!(code("Apollo").await, "project_archived");
        assert_eq!(code("Mercury").await, "unknown_project");
        let activated = projects.activate("Apollo").await.unwrap_err();
        assert_eq!(activated.code(), "project_archived");
        let unfiled = meetings.add(NewMeeting::titled("After")).await.unwrap();
        assert_eq!(unfiled.resolved_project_id, None);
        assert_eq!(unfiled.resolution, Resolution::None);
    });
}

#[test]
fn active_project_conflict() {
    run(async {
        let mut server = TestServer::start().await.unwrap();
        let ada = server.client("Ada").await.unwrap();
        let phone = server.client("Ada").await.unwrap();
        let ben = server.client("Ben").await.unwrap();
        let projects = ada.replica().projects();
        let apollo = projects.add("Apollo").await.unwrap().id;
        let gemini = projects.add("Gemini").await.unwrap().id;
        for client in [&ada, &phone, &ben] {
            client.settle().await.unwrap();
        }
        ben.replica().projects().activate("Apollo").await.unwrap();
        phone.cut_off();
        projects.activate("Apollo").await.unwrap();
        let chosen = phone.replica().projects().activate("Gemini").await;
        assert!(chosen.unwrap().active);
        phone.let_through();
        for client in [&phone, &ada, &phone, &ben] {
            client.settle().await.unwrap();
        }
        let mut candidates = vec![apollo, gemini];
        candidates.sort_unstable();
        for client in [&ada, &phone] {
            let added = added(client, "Which?").await;
            assert_eq!(added.resolved_project_id, None, "nobody chose for them");
            let candidates = candidates.clone();
            assert_eq!(added.resolution, Resolution::Ambiguous { candidates });
            let shown = client.replica().projects().list().await.unwrap();
            assert!(shown.iter().all(|project| project.active), "{shown:?}");
        }
        let others = added(&ben, "Ben's").await;
        assert_eq!(others.resolved_project_id, Some(apollo));
        // Choosing again settles it, everywhere.
        phone.replica().projects().activate("Gemini").await.unwrap();
        for client in [&phone, &ada] {
            client.settle().await.unwrap();
            let added = added(client, "This.").await;
            assert_eq!(added.resolved_project_id, Some(gemini));
            assert_eq!(added.resolution, Resolution::Active);
        }
    });
}

#[test]
fn multi_client_consistency() {
    run(async {
        const CLIENTS: usize = 5;
        let mut random = Random(0x5eed);
        let mut server = TestServer::start().await.unwrap();
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let member = format!("Member {}", number % 3);
            clients.push(server.client(&member).await.unwrap());
        }
        let first = add(clients[0].replica(), "The first").await;
        clients[0].settle().await.unwrap();
        for client in &clients[1..] {
            client.settle().await.unwrap();
        }
        let mut made = vec![BTreeSet::from([first]); CLIENTS];
        for operation in 0..1_000 {
            // Two partitions, one after the other, each with its own members.
            match operation {
                200 => [0, 1]
                    .iter()
                    .for_each(|one: &usize| clients[*one].cut_off()),
                450 => clients.iter().for_each(TestClient::let_through),
                600 => [2, 3, 4]
                    .iter()
                    .for_each(|one: &usize| clients[*one].cut_off()),
                850 => clients.iter().for_each(TestClient::let_through),
                _ => {}
            }
            let who = random.below(CLIENTS);
            let replica = clients[who].replica();
            let known: Vec<_> = made[who].iter().copied().collect();
            let which = known[random.below(known.len())];
            let meetings = replica.meetings();
            let done = match random.below(8) {
                0 => {
                    made[who].insert(add(replica, &format!("Made {operation}")).await);
                    Ok(())
                }
                1 => {
                    let tag = format!("tag{}", random.below(5));
                    meetings
                        .edit(which, move |meeting| meeting.add_tag(&tag))
                        .await
                }
                2 => {
                    let tag = format!("tag{}", random.below(5));
                    let edit =
                        move |meeting: &mut reconvene::MeetingEditor<'_>| meeting.remove_tag(&tag);
                    meetings.edit(which, edit).await
                }
                3 => {
                    let title = format!("Title {operation}");
                    meetings
                        .edit(which, move |meeting| meeting.set_title(&title))
                        .await
                }
                4 => {
                    let at = [State::Recording, State::Stopped][random.below(2)];
                    meetings
                        .edit(which, move |meeting| meeting.reach_state(at))
                        .await
                }
                5 => meetings.delete(which).await.map(drop),
                6 => match meetings.restore(which).await {
                    // It is not deleted, as far as is known here.
                    Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error),
                },
                _ => {
                    let note = format!("Note {operation}. ");
                    meetings
                        .edit(which, move |meeting| meeting.append_note(&note))
                        .await
                }
            };
            match done {
                Ok(()) | Err(Error::MeetingDeleted { .. }) => {}
                Err(error) => panic!("operation {operation}: {error}"),
            }
        }
        // Twice: the first round brings the server everything, the second everyone.
        for _ in 0..2 {
            for client in &clients {
                client.settle().await.unwrap();
            }
        }
        let all = export(server.replica()).await;
        for client in &clients {
            assert_eq!(export(client.replica()).await, all);
        }
        let count = made.iter().flatten().collect::<BTreeSet<_>>().len();
        assert!(count > 50, "{count}");
    });
}

/// Numbers that look random and are the same each time (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

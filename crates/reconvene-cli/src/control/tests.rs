//! Host and caller over a real local socket, with a stand-in for the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interprocess::local_socket::tokio::Stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Mutex, Notify, mpsc};

use super::caller::call;
use super::endpoint::Endpoint;
use super::frames::{
    CALL_BYTES_MAX, CALL_DEADLINE, LineError, LineReader, PART_BYTES_MAX, REPLY_BYTES_MAX,
    REPLY_DEADLINE, Reply, VERSION, encode, parts, write_line,
};
use super::host::{Executor, Host, STREAMS_MAX, bind};
use crate::failure::Failure;
use crate::request::{Progress, Request, Sinks};

/// A store's directory and a place for its socket.
struct Place {
    endpoint: Endpoint,
    _root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = TempDir::new().expect("a directory");
        let endpoint = Endpoint::for_test(root.path(), root.path());
        Self {
            endpoint,
            _root: root,
        }
    }

    fn host(&self, executor: Executor) -> Host {
        bind(&self.endpoint).expect("binds").host(executor)
    }

    async fn connect(&self) -> (LineReader<ReadHalf<Stream>>, WriteHalf<Stream>) {
        let stream = self
            .endpoint
            .connect()
            .await
            .expect("looks")
            .expect("a host");
        let (source, sink) = split(stream);
        (
            LineReader::new(source, REPLY_BYTES_MAX, REPLY_DEADLINE),
            sink,
        )
    }
}

fn executor<F>(execute: impl Fn(Request, Sinks) -> F + Send + Sync + 'static) -> Executor
where
    F: Future<Output = Result<Value, Failure>> + Send + 'static,
{
    Arc::new(move |request, sinks| Box::pin(execute(request, sinks)))
}

fn answering(answer: Result<Value, Failure>) -> Executor {
    executor(move |_, _| std::future::ready(answer.clone()))
}

fn no_progress() -> Sinks {
    Sinks::progress_only(Arc::new(|_| {}))
}

#[tokio::test]
async fn an_answer_of_many_parts_arrives_whole() {
    let place = Place::new();
    // Characters of several bytes, across the parts' ends, and ones that JSON escapes at length.
    let text = "\u{1}é漢🦀".repeat(PART_BYTES_MAX);
    let host = place.host(answering(Ok(json!({ "text": text }))));
    let answer = call(&place.endpoint, &Request::status(), &no_progress()).await;
    assert_eq!(answer, Ok(Some(json!({ "text": text }))));
    host.close().await;
}

#[tokio::test]
async fn requests_failures_and_progress_cross_unchanged() {
    let place = Place::new();
    let failure = Failure::new("not_found", "there is no meeting `x`");
    let refusal = failure.clone();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sent = Arc::clone(&seen);
    let host = place.host(executor(move |request, sinks| {
        let (sent, refusal) = (Arc::clone(&sent), refusal.clone());
        async move {
            (sinks.progress)(Progress {
                what: "looking".to_owned(),
                done: 1,
                total: Some(2),
            });
            sent.lock().await.push(request);
            tokio::task::yield_now().await;
            Err(refusal)
        }
    }));
    let request = Request::MeetingShow { id: "x".to_owned() };
    let progressed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&progressed);
    let sink = Sinks::progress_only(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
    }));
    assert_eq!(call(&place.endpoint, &request, &sink).await, Err(failure));
    assert_eq!(*seen.lock().await, [request]);
    assert_eq!(progressed.load(Ordering::SeqCst), 1);
    host.close().await;
}

#[tokio::test]
async fn without_a_host_nobody_takes_the_request() {
    let place = Place::new();
    assert_eq!(
        call(&place.endpoint, &Request::status(), &no_progress()).await,
        Ok(None)
    );
    let host = place.host(answering(Ok(Value::Null)));
    host.close().await;
    assert_eq!(
        call(&place.endpoint, &Request::status(), &no_progress()).await,
        Ok(None)
    );
}

#[tokio::test]
async fn a_host_takes_over_where_another_ended() {
    let place = Place::new();
    for turn in 0..3 {
        let host = place.host(answering(Ok(json!(turn))));
        let answer = call(&place.endpoint, &Request::status(), &no_progress()).await;
        assert_eq!(answer, Ok(Some(json!(turn))));
        host.close().await;
    }
}

#[tokio::test]
async fn a_call_that_is_too_long_is_refused_on_both_sides() {
    let place = Place::new();
    let host = place.host(answering(Ok(Value::Null)));
    let long = Request::Join {
        ticket: "x".repeat(CALL_BYTES_MAX),
        adopt: false,
    };
    let failure = call(&place.endpoint, &long, &no_progress())
        .await
        .expect_err("too long");
    assert_eq!(failure.code, "too_large");

    let (mut replies, mut sink) = place.connect().await;
    sink.write_all(&vec![b'x'; CALL_BYTES_MAX + 1])
        .await
        .expect("written");
    match replies.read().await.expect("a reply") {
        Reply::Failed(failure) => assert!(failure.message.contains("longer than"), "{failure:?}"),
        other => panic!("{other:?}"),
    }
    host.close().await;
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
    let place = Place::new();
    let host = place.host(answering(Ok(Value::Null)));
    for (line, why) in [
        (json!("hello"), "not readable"),
        (json!({ "version": VERSION, "request": "fly" }), "bad call"),
        (
            json!({ "version": VERSION + 1, "request": "status" }),
            "another release",
        ),
    ] {
        let (mut replies, mut sink) = place.connect().await;
        write_line(&mut sink, &line).await.expect("written");
        match replies.read().await.expect("a reply") {
            Reply::Failed(failure) => {
                assert_eq!(failure.code, "control_failed");
                assert!(failure.message.contains(why), "{line}: {failure:?}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    // And the host still answers.
    let answer = call(&place.endpoint, &Request::status(), &no_progress()).await;
    assert_eq!(answer, Ok(Some(Value::Null)));
    host.close().await;
}

#[tokio::test]
async fn a_command_that_changes_something_outlives_its_caller() {
    let place = Place::new();
    let (go_on, finished) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, tell) = (Arc::clone(&go_on), Arc::clone(&finished));
    let host = place.host(executor(move |_, sinks| {
        let (wait, tell) = (Arc::clone(&wait), Arc::clone(&tell));
        async move {
            wait.notified().await;
            (sinks.progress)(Progress {
                what: "half".to_owned(),
                done: 1,
                total: None,
            });
            tokio::task::yield_now().await;
            tell.notify_one();
            Ok(Value::Null)
        }
    }));
    let (mut replies, mut sink) = place.connect().await;
    let request = Request::ProjectAdd {
        name: "p".to_owned(),
    };
    let call = json!({ "version": VERSION, "request": request });
    write_line(&mut sink, &call).await.expect("written");
    assert_eq!(
        replies.read::<Reply>().await.expect("a reply"),
        Reply::Alive
    );
    drop((replies, sink));
    go_on.notify_one();
    finished.notified().await;
    host.close().await;
}

/// A stream that tells numbers until nobody takes them, and says then that it has ended.
fn counting(ended: &Arc<Notify>) -> Executor {
    let ended = Arc::clone(ended);
    executor(move |_, sinks| {
        let ended = Ended(Arc::clone(&ended));
        async move {
            for number in 0_u64.. {
                if sinks.items.send(json!({ "number": number })).await.is_err() {
                    break;
                }
            }
            drop(ended);
            Ok(Value::Null)
        }
    })
}

/// Tells that a stream is over, also when it was dropped.
struct Ended(Arc<Notify>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_stream_arrives_in_order_and_ends_with_its_reader() {
    let place = Place::new();
    let ended = Arc::new(Notify::new());
    let host = place.host(counting(&ended));
    let (items, mut told) = mpsc::channel(1);
    let sinks = Sinks {
        items,
        ..no_progress()
    };
    let endpoint = place.endpoint.clone();
    let reader = tokio::spawn(async move { call(&endpoint, &Request::Events, &sinks).await });
    // Far more than every buffer on the way holds.
    for number in 0..50_000_u64 {
        assert_eq!(told.recv().await, Some(json!({ "number": number })));
    }
    drop(told);
    let answer = reader.await.expect("no panic");
    assert_eq!(answer, Ok(Some(Value::Null)));
    ended.notified().await;
    host.close().await;
}

#[tokio::test]
async fn a_stream_without_items_ends_when_its_caller_hangs_up() {
    let place = Place::new();
    let ended = Arc::new(Notify::new());
    let told = Arc::clone(&ended);
    let host = place.host(executor(move |_, _| {
        let ended = Ended(Arc::clone(&told));
        async move {
            std::future::pending::<()>().await;
            drop(ended);
            Ok(Value::Null)
        }
    }));
    let (mut replies, mut sink) = place.connect().await;
    let call = json!({ "version": VERSION, "request": Request::Events });
    write_line(&mut sink, &call).await.expect("written");
    let reply = replies.read::<Reply>().await.expect("a reply");
    assert_eq!(reply, Reply::Alive);
    drop((replies, sink));
    ended.notified().await;
    host.close().await;
}

#[tokio::test]
async fn streams_leave_room_for_commands_and_end_when_the_host_closes() {
    let place = Place::new();
    let host = place.host(executor(move |request, _| async move {
        match request.is_stream() {
            true => std::future::pending().await,
            false => Ok(Value::Null),
        }
    }));
    let mut streams = Vec::new();
    for _ in 0..STREAMS_MAX {
        let (mut replies, mut sink) = place.connect().await;
        let call = json!({ "version": VERSION, "request": Request::Events });
        write_line(&mut sink, &call).await.expect("written");
        let reply = replies.read::<Reply>().await.expect("a reply");
        assert_eq!(reply, Reply::Alive);
        streams.push((replies, sink));
    }
    let refused = call(&place.endpoint, &Request::Events, &no_progress()).await;
    assert_eq!(refused.expect_err("one too many").code, "busy");
    let answer = call(&place.endpoint, &Request::status(), &no_progress()).await;
    assert_eq!(answer, Ok(Some(Value::Null)));
    host.close().await;
    for (mut replies, _sink) in streams {
        let failure = loop {
            match replies.read().await.expect("a reply") {
                Reply::Alive => {}
                Reply::Failed(failure) => break failure,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(failure.code, "closed");
    }
}

#[tokio::test]
async fn lines_have_a_length_and_a_deadline() {
    let read =
        async |bytes: &'static [u8]| LineReader::new(bytes, 4, CALL_DEADLINE).read::<u32>().await;
    assert_eq!(read(b"1234\n").await.expect("fits"), 1234);
    assert!(matches!(
        read(b"12345\n").await,
        Err(LineError::TooLong { max: 4 })
    ));
    assert!(matches!(
        read(b"12345678").await,
        Err(LineError::TooLong { max: 4 })
    ));
    assert!(matches!(read(b"12").await, Err(LineError::Ended)));
    assert!(matches!(read(b"").await, Err(LineError::Ended)));
    assert!(matches!(read(b"x\n").await, Err(LineError::Unreadable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let (_silent, source) = tokio::io::duplex(64);
    let mut lines = LineReader::new(source, 64, CALL_DEADLINE);
    assert!(matches!(lines.read::<u32>().await, Err(LineError::Late)));
}

#[test]
fn the_worst_part_still_fits_a_line() {
    let text = "\u{1}".repeat(PART_BYTES_MAX * 2 + 1);
    let cut: Vec<_> = parts(&text).collect();
    assert_eq!(cut.concat(), text);
    for part in cut {
        let line = encode(&Reply::Part(part.to_owned())).expect("encodes");
        assert!(line.len() < REPLY_BYTES_MAX);
    }
}

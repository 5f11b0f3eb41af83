//! The caller's side: finds the host, sends one call, waits for its answer.

use serde_json::Value;

use super::endpoint::Endpoint;
use super::frames::{
    ANSWER_BYTES_MAX, CALL_BYTES_MAX, Call, LineError, LineReader, REPLY_BYTES_MAX, REPLY_DEADLINE,
    Reply, VERSION, WRITE_DEADLINE, encode, write_bytes,
};
use crate::failure::Failure;
use crate::request::{Request, Sinks};

/// Has a request carried out by the process that has the store open; `None` if nobody took it, in
/// which case nothing was done. Dropping this midway leaves the command to the host, which ends a
/// stream and carries through anything else.
pub(crate) async fn call(
    endpoint: &Endpoint,
    request: &Request,
    sinks: &Sinks,
) -> Result<Option<Value>, Failure> {
    let call = Call {
        version: VERSION,
        request,
    };
    let call = encode(&call).map_err(|error| no_answer(&error.to_string()))?;
    let Some(stream) = endpoint.connect().await? else {
        return Ok(None);
    };
    if call.len() > CALL_BYTES_MAX {
        let message = "the command is too long for a store that another process has open";
        return Err(Failure::new("too_large", message));
    }
    match write_bytes(&mut &stream, call, WRITE_DEADLINE).await {
        Ok(()) => {}
        // It hung up; why, if it said so, is still there to be read.
        Err(LineError::Ended | LineError::Io(_)) => {}
        Err(error) => return Err(no_answer(&error.to_string())),
    }
    let mut lines = LineReader::new(&stream, REPLY_BYTES_MAX, REPLY_DEADLINE);
    let mut text = String::new();
    let mut taken = false;
    loop {
        match lines.read::<Reply>().await {
            Ok(Reply::Alive) => {}
            Ok(Reply::Progress(made)) => (sinks.progress)(made),
            Ok(Reply::Part(part)) => {
                if text.len() + part.len() > ANSWER_BYTES_MAX {
                    return Err(no_answer("its answer is too large"));
                }
                text.push_str(&part);
            }
            Ok(Reply::Item) => {
                let item = read_text(&std::mem::take(&mut text))?;
                if sinks.items.send(item).await.is_err() {
                    // Whoever wanted the stream is gone; hanging up ends it.
                    return Ok(Some(Value::Null));
                }
            }
            Ok(Reply::Done) => return read_text(&text).map(Some),
            Ok(Reply::Failed(failure)) => return Err(failure),
            // The host was about to end when we connected; a call it takes is replied to at once.
            Err(LineError::Ended | LineError::Io(_)) if !taken => return Ok(None),
            Err(error) => return Err(no_answer(&error.to_string())),
        }
        taken = true;
    }
}

fn read_text(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| no_answer(&format!("its answer is not readable: {error}")))
}

fn no_answer(why: &str) -> Failure {
    let message = format!("the process that has the store open did not answer: {why}");
    Failure::new("control_failed", message)
}

//! Answers as text for people. What scripts rely on is the JSON; this may change at any time.
//!
//! Names and titles come from other people's devices: nothing in them reaches the terminal as a
//! control sequence.

use std::fmt::Write;
use std::time::Duration;

use reconvene::WallTime;
use serde_json::Value;

use crate::time::rfc3339;

pub(crate) mod archive;
pub(crate) mod outbox;

/// Answer of `init`.
pub(crate) fn initialised(answer: &Value) -> String {
    format!(
        "This store is device {}, called {}.\nIts home workspace is {}.\n  next: `reconvene meeting \
         add TITLE`, or `reconvene join TICKET` to share\n",
        text(&answer["peer_id"]),
        text(&answer["name"]),
        text(&answer["home"]),
    )
}

/// The one workspace of `workspace add` and `workspace use`.
pub(crate) fn workspace(answer: &Value) -> String {
    let workspace = &answer["workspace"];
    let current = if is(&workspace["current"]) {
        ", and is current"
    } else {
        ""
    };
    format!(
        "Workspace {} is called {}{current}.\n",
        text(&workspace["id"]),
        text(&workspace["name"])
    )
}

/// Answer of `workspace list`.
pub(crate) fn workspaces(answer: &Value) -> String {
    let rows = items(&answer["workspaces"]).iter().map(|workspace| {
        vec![
            mark(&workspace["current"], "*"),
            text(&workspace["id"]),
            mark(&workspace["home"], "home"),
            text(&workspace["name"]),
        ]
    });
    table(rows.collect(), "No workspaces.")
}

/// Answer of `invite`: the ticket alone on its line, to be copied.
pub(crate) fn invitation(answer: &Value) -> String {
    format!(
        "{}\n\nFor one device of {}, until {}.\n  next: on that device, `reconvene join` with this \
         ticket\n",
        text(&answer["ticket"]),
        text(&answer["member_name"]),
        text(&answer["expires_at"]),
    )
}

/// The line that says where a device lets others in.
pub(crate) fn listening(info: &Value) -> String {
    let mut out = String::from("Listening for other devices at\n");
    for address in items(&info["listening"]) {
        put(&mut out, format_args!("  {}\n", text(address)));
    }
    out
}

/// Answer of `workspace leave`.
pub(crate) fn left(answer: &Value) -> String {
    let mut out = format!(
        "Left workspace {} ({}).\n",
        text(&answer["workspace_name"]),
        text(&answer["workspace"]),
    );
    out.push_str(match is(&answer["removed"]) {
        true => "Its documents were removed from this device.\n",
        false => "Its documents stay on this device, shared with nobody.\n",
    });
    if !is(&answer["told_server"]) {
        out.push_str("The server could not be told: it goes on offering the workspace.\n");
    }
    out
}

/// Answer of `join`.
pub(crate) fn joined(answer: &Value) -> String {
    format!(
        "Joined workspace {} ({}) as {}.\n  next: `reconvene sync`\n",
        text(&answer["workspace_name"]),
        text(&answer["workspace"]),
        text(&answer["member_name"]),
    )
}

/// The one project of `project add` and `project activate`.
pub(crate) fn project(answer: &Value) -> String {
    let project = &answer["project"];
    let active = if is(&project["active"]) {
        " and is active: new meetings go there"
    } else {
        ""
    };
    format!(
        "Project {} is called {}{active}.\n",
        text(&project["id"]),
        text(&project["name"])
    )
}

/// Answer of `project list`.
pub(crate) fn projects(answer: &Value) -> String {
    let rows = items(&answer["projects"]).iter().map(|project| {
        vec![
            mark(&project["active"], "*"),
            text(&project["id"]),
            state_of(project),
            text(&project["name"]),
        ]
    });
    table(rows.collect(), "No projects.")
}

fn state_of(project: &Value) -> String {
    match &project["deleted_at"] {
        Value::Null => mark(&project["archived"], "archived"),
        _ => "deleted".to_owned(),
    }
}

/// Answer of `meeting delete`.
pub(crate) fn meeting_deleted(answer: &Value) -> String {
    let id = text(&answer["id"]);
    format!("Meeting {id} is deleted.\n  next: `reconvene meeting restore {id}` brings it back\n")
}

/// Answer of `purge`.
pub(crate) fn purged(answer: &Value) -> String {
    let (meetings, documents) = (text(&answer["meetings"]), text(&answer["documents"]));
    format!("Purged {meetings} deleted meetings, {documents} documents.\n")
}

/// Answer of `compact`.
pub(crate) fn compacted(answer: &Value) -> String {
    let mut out = format!(
        "Compacted {} of {} documents: {} changes in {} became {}.\n",
        text(&answer["compacted"]),
        text(&answer["considered"]),
        text(&answer["changes"]),
        bytes(&answer["bytes_before"]),
        bytes(&answer["bytes_after"]),
    );
    for (kind, what) in [("held", "not now"), ("kept", "keeps its changes")] {
        for document in items(&answer[kind]) {
            let (id, why) = (text(&document["document"]), text(&document["why"]));
            put(&mut out, format_args!("  {what}: {id}: {why}\n"));
        }
    }
    out
}

/// Answer of `meeting add`: also which project was chosen, and by which rule.
pub(crate) fn meeting_added(answer: &Value) -> String {
    let meeting = &answer["meeting"];
    format!(
        "Meeting {} is called {}.\n{}\n",
        text(&meeting["id"]),
        text(&meeting["title"]),
        resolution(answer)
    )
}

fn resolution(answer: &Value) -> String {
    let project = match &answer["resolved_project_name"] {
        Value::Null => text(&answer["resolved_project_id"]),
        name => format!("{} ({})", text(name), text(&answer["resolved_project_id"])),
    };
    let resolution = &answer["resolution"];
    match resolution["rule"].as_str() {
        Some("explicit") => format!("It is filed under {project}, as you said."),
        Some("active") => format!("It is filed under {project}: that is the active project."),
        Some("workspace_default") => {
            format!("It is filed under {project}: no project is active, and that is the default.")
        }
        Some("ambiguous") => {
            let candidates: Vec<_> = items(&resolution["candidates"]).iter().map(text).collect();
            format!(
                "It is filed under no project: several are active ({}).\n  next: `reconvene project \
                 activate` one of them",
                candidates.join(", ")
            )
        }
        Some("none") => {
            "It is filed under no project: none is active, and none is the default.".to_owned()
        }
        // A rule of the future is at least named.
        _ => format!("It is filed under {project} (rule: {resolution})."),
    }
}

/// Answer of `meeting list`.
pub(crate) fn meetings(answer: &Value) -> String {
    let rows = items(&answer["meetings"]).iter().map(|meeting| {
        let tags: Vec<_> = items(&meeting["tags"]).iter().map(text).collect();
        vec![
            text(&meeting["id"]),
            moment(&meeting["created_at"]),
            text(&meeting["state"]),
            text(&meeting["title"]),
            tags.join(" "),
        ]
    });
    let mut out = table(rows.collect(), "No meetings.");
    if let Some(next) = answer["next"].as_str() {
        put(
            &mut out,
            format_args!(
                "\n  next: `reconvene meeting list --after {}`\n",
                clean(next)
            ),
        );
    }
    out
}

/// One item of `meeting list --watch`: a line, or nothing.
pub(crate) fn change(item: &Value) -> String {
    let meeting = &item["meeting"];
    let sign = match item["change"].as_str() {
        Some("added") => "+",
        Some("changed") => "~",
        Some("removed") => return format!("- {}\n", text(&item["id"])),
        // That the list is whole shows in that nothing more comes.
        _ => return String::new(),
    };
    let tags: Vec<_> = items(&meeting["tags"]).iter().map(text).collect();
    let cells = [
        text(&meeting["id"]),
        moment(&meeting["created_at"]),
        text(&meeting["state"]),
        text(&meeting["title"]),
        tags.join(" "),
    ];
    let cells = cells.into_iter().filter(|cell| !cell.is_empty());
    format!("{sign} {}\n", cells.collect::<Vec<_>>().join("  "))
}

/// Answer of `meeting show` and `meeting edit`.
pub(crate) fn meeting(answer: &Value) -> String {
    let meeting = &answer["meeting"];
    let mut out = format!("{}\n", text(&meeting["title"]));
    let tags: Vec<_> = items(&meeting["tags"]).iter().map(text).collect();
    let participants: Vec<_> = values(&meeting["participants"])
        .map(|participant| text(&participant["name"]))
        .collect();
    for (name, value) in [
        ("id", text(&meeting["id"])),
        ("state", text(&meeting["state"])),
        ("created", moment(&meeting["created_at"])),
        ("project", text(&meeting["project"])),
        ("tags", tags.join(" ")),
        ("participants", participants.join(", ")),
        ("source", text(&meeting["source"])),
        ("error", text(&meeting["error"]["cause"])),
    ] {
        if !value.is_empty() {
            put(&mut out, format_args!("  {name}: {value}\n"));
        }
    }
    let conflicts = items(&meeting["conflicts"]).len();
    if conflicts > 0 {
        put(
            &mut out,
            format_args!("  conflicts: {conflicts}, see --json\n"),
        );
    }
    for (name, value) in [
        ("Summary", &meeting["summary"]),
        ("Notes", &meeting["notes"]),
    ] {
        let body = lines(value);
        if !body.trim().is_empty() {
            put(&mut out, format_args!("\n{name}\n{}\n", body.trim_end()));
        }
    }
    let items_to_do: Vec<_> = values(&meeting["action_items"]).collect();
    if !items_to_do.is_empty() {
        out.push_str("\nAction items\n");
        for item in items_to_do {
            let done = if is(&item["done"]) { "x" } else { " " };
            put(&mut out, format_args!("[{done}] {}\n", text(&item["text"])));
        }
    }
    for page in items(&answer["pages"]) {
        transcript(&mut out, page);
    }
    out
}

fn transcript(out: &mut String, page: &Value) {
    out.push_str("\nTranscript\n");
    if page["page"].is_null() {
        out.push_str("  (this page has not arrived yet)\n");
        return;
    }
    for segment in items(&page["page"]["segments"]) {
        match segment["speaker"].as_str() {
            Some(speaker) => {
                put(
                    out,
                    format_args!("{}: {}\n", clean(speaker), text(&segment["text"])),
                );
            }
            None => put(out, format_args!("{}\n", text(&segment["text"]))),
        }
    }
}

/// Answer of `import`: what was imported. What was not is told on stderr.
pub(crate) fn imported(answer: &Value) -> String {
    let mut out = format!("Imported {} of {} files.\n", text(&answer["imported"]), {
        items(&answer["meetings"]).len() + items(&answer["failed"]).len()
    });
    for taken in items(&answer["taken"]) {
        let (id, file) = (text(&taken["meeting"]), text(&taken["file"]));
        put(&mut out, format_args!("  {id}  {file}\n"));
    }
    out
}

/// The files that an `import` left out, one line each.
pub(crate) fn not_imported(answer: &Value) -> String {
    let mut out = String::new();
    for failed in items(&answer["failed"]) {
        let (file, place) = (text(&failed["file"]), text(&failed["place"]));
        let message = text(&failed["message"]);
        match place.is_empty() {
            true => put(&mut out, format_args!("{file}: {message}\n")),
            false => put(&mut out, format_args!("{file}: {place}: {message}\n")),
        }
    }
    out
}

/// Answer of `sync`.
pub(crate) fn synced(answer: &Value) -> String {
    let elapsed = Duration::from_millis(answer["elapsed_ms"].as_u64().unwrap_or_default());
    format!(
        "Verified: both sides hold what the other held.\n  documents: {} sent, {} received\n  frames: \
         {} sent, {} received\n  round trips: {}\n  took: {elapsed:.2?}\n",
        text(&answer["documents_sent"]),
        text(&answer["documents_received"]),
        bytes(&answer["bytes_sent"]),
        bytes(&answer["bytes_received"]),
        text(&answer["round_trips"]),
    )
}

/// Answer of `verify`.
pub(crate) fn verified(answer: &Value) -> String {
    let mut out = format!(
        "Read {} records: {} documents, {} changes, {} feed entries; and {} journal entries.\n",
        text(&answer["records"]),
        text(&answer["documents"]),
        text(&answer["changes"]),
        text(&answer["feed_entries"]),
        text(&answer["journal_entries"]),
    );
    if is(&answer["intact"]) {
        out.push_str("Nothing is damaged.\n");
        return out;
    }
    put(
        &mut out,
        format_args!(
            "{} damages; next: `reconvene repair`\n",
            text(&answer["damages"])
        ),
    );
    for damage in items(&answer["damaged"]) {
        put(
            &mut out,
            format_args!(
                "  document {}: {}: {}\n",
                text(&damage["document"]),
                text(&damage["record"]),
                text(&damage["what"]),
            ),
        );
    }
    out
}

/// Answer of `repair`.
pub(crate) fn repaired(answer: &Value) -> String {
    let mut out = format!(
        "Kept {} documents with {} changes; {} records did not read.\nThe damaged database is now in {}\n",
        text(&answer["documents"]),
        text(&answer["changes"]),
        text(&answer["damages"]),
        text(&answer["set_aside"]),
    );
    out.push_str("  next: `reconvene sync`, which brings back what is missing\n");
    out
}

/// Answer of `status`.
pub(crate) fn status(answer: &Value) -> String {
    let device = &answer["device"];
    let mut out = format!(
        "{} {} ({}), of {}\n  documents: {}\n",
        capital(&text(&device["role"])),
        text(&device["name"]),
        text(&device["peer_id"]),
        text(&device["member_name"]),
        text(&answer["documents"]),
    );
    let disk = &answer["disk"];
    put(
        &mut out,
        format_args!(
            "  disk: {} store, {} journal, {} set aside as damaged\n",
            bytes(&disk["store_bytes"]),
            bytes(&disk["journal_bytes"]),
            bytes(&disk["quarantine_bytes"]),
        ),
    );
    if disk["low_space"].is_string() {
        let why = text(&disk["low_space"]);
        put(&mut out, format_args!("  nothing is written: {why}\n"));
    }
    if answer["store_failed"].is_string() {
        let why = text(&answer["store_failed"]);
        put(
            &mut out,
            format_args!("  nothing is written until the store is opened again: {why}\n"),
        );
    }
    for found in items(&answer["found_on_open"]) {
        put(&mut out, format_args!("  found: {}\n", text(found)));
    }
    let links = items(&answer["links"]).len();
    put(&mut out, format_args!("  links: {links}\n"));
    for peer in items(&answer["unreached"]) {
        let why = match peer["refused"].as_str() {
            Some(code) => format!("refused ({})", clean(code)),
            None => text(&peer["why"]),
        };
        put(
            &mut out,
            format_args!("  not reached: {}: {why}\n", text(&peer["peer"])),
        );
    }
    for (kind, used) in answer["records"]["by_kind"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let (records, bytes) = (text(&used["records"]), bytes(&used["bytes"]));
        put(
            &mut out,
            format_args!("  {kind}: {records} records, {bytes}\n"),
        );
    }
    for workspace in items(&answer["workspaces"]) {
        let of = items(&answer["pending"]["workspaces"])
            .iter()
            .find(|of| of["workspace"] == workspace["id"]);
        workspace_status(&mut out, workspace, of);
    }
    out
}

/// One item of `status --watch`.
pub(crate) fn status_again(answer: &Value) -> String {
    format!("{}\n", status(answer))
}

/// What a peer is not known to hold.
fn owed(owed: &Value) -> String {
    let count = |name: &str| owed[name].as_u64().unwrap_or(0);
    if owed.is_null() {
        return "what it holds of ours is not known".to_owned();
    }
    if count("changes") == 0 && count("documents") == 0 {
        return "holds everything of ours".to_owned();
    }
    let more = if is(&owed["at_least"]) {
        "at least "
    } else {
        ""
    };
    let oldest = match owed["oldest"].as_i64() {
        Some(_) => format!(", the oldest of {}", moment(&owed["oldest"])),
        None => String::new(),
    };
    format!(
        "{more}{} documents of ours to go, {} changes, {}{oldest}",
        count("documents"),
        count("changes"),
        bytes(&owed["bytes"]),
    )
}

fn workspace_status(out: &mut String, workspace: &Value, pending: Option<&Value>) {
    let home = if is(&workspace["home"]) { ", home" } else { "" };
    let current = if is(&workspace["current"]) {
        ", current"
    } else {
        ""
    };
    put(
        out,
        format_args!(
            "\nWorkspace {} ({}){home}{current}\n  documents: {}\n  freshness: {}\n",
            text(&workspace["name"]),
            text(&workspace["id"]),
            text(&workspace["documents"]),
            freshness(&workspace["freshness"]),
        ),
    );
    for damaged in items(&workspace["damaged"]) {
        put(
            out,
            format_args!(
                "  damaged since {}: document {}, {} changes lost; peers are asked for them\n",
                moment(&damaged["since"]),
                text(&damaged["document"]),
                text(&damaged["lost"]),
            ),
        );
    }
    let pending = pending.map_or(&[][..], |of| items(&of["peers"]));
    for peer in pending {
        let what = if is(&peer["is_server"]) {
            "server"
        } else {
            "my device"
        };
        let linked = if is(&peer["linked"]) {
            "linked"
        } else {
            "not linked"
        };
        let (name, owed) = (text(&peer["peer"]), owed(&peer["owed"]));
        put(out, format_args!("  {what} {name}: {linked}, {owed}\n"));
    }
    let told = |peer: &Value| pending.iter().any(|of| of["peer"] == peer["peer"]);
    for peer in items(&workspace["peers"]) {
        if told(peer) {
            troubles(out, peer);
            continue;
        }
        let linked = if is(&peer["linked"]) {
            "linked"
        } else {
            "not linked"
        };
        let owed = match peer["owed"].as_u64() {
            Some(0) => "holds everything of ours".to_owned(),
            Some(owed) => format!("{owed} changed documents of ours to go"),
            None => "what it holds of ours is not known".to_owned(),
        };
        put(
            out,
            format_args!("  peer {}: {linked}, {owed}\n", text(&peer["peer"])),
        );
        troubles(out, peer);
    }
}

/// Refusals and stalls of a peer.
fn troubles(out: &mut String, peer: &Value) {
    for (name, side) in [("refused_here", "here"), ("refused_there", "there")] {
        let listed = peer[name].as_object().map_or(0, serde_json::Map::len) as u64;
        let further = peer[format!("{name}_unlisted")].as_u64().unwrap_or(0);
        let codes: std::collections::BTreeSet<_> = values(&peer[name]).map(text).collect();
        if listed + further > 0 {
            put(
                out,
                format_args!(
                    "    refused {side}: {} documents ({})\n",
                    listed + further,
                    codes.into_iter().collect::<Vec<_>>().join(", ")
                ),
            );
        }
    }
    let offences = peer["offences"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(last) = offences.last() {
        put(
            out,
            format_args!(
                "    does not keep the protocol: {} times lately, last at {} with document {} ({})\n",
                offences.len(),
                moment(&last["at"]),
                text(&last["document"]),
                text(&last["what"])
            ),
        );
    }
    if let Some(since) = peer["stalled"].get("since") {
        put(
            out,
            format_args!("    nothing moves since {}\n", moment(since)),
        );
    }
}

fn freshness(freshness: &Value) -> String {
    let state = &freshness["state"];
    match state["is"].as_str() {
        Some("local") => "nobody else has it".to_owned(),
        Some("verified") => format!("verified as of {}", moment(&freshness["as_of"])),
        _ if freshness["as_of"].is_null() => format!("never verified ({})", text(&state["why"])),
        _ => format!(
            "as of {} ({})",
            moment(&freshness["as_of"]),
            text(&state["why"])
        ),
    }
}

/// What `sync --watch` tells: where it listens, then events.
pub(crate) fn watched(item: &Value) -> String {
    if item.get("event").is_none() {
        return listening(item);
    }
    event(item)
}

/// One event of `events` and `sync --watch`, on one line.
pub(crate) fn event(event: &Value) -> String {
    let mut out = text(&event["event"]).replace('_', " ");
    for (name, value) in event.as_object().into_iter().flatten() {
        let value = match value {
            Value::Array(items) => format!("{} {name}", items.len()),
            Value::Null => continue,
            _ if name == "event" => continue,
            _ if name == "as_of" => format!("as of {}", moment(value)),
            _ if name == "since" => format!("since {}", moment(value)),
            value => format!("{name} {}", text(value)),
        };
        put(&mut out, format_args!(", {value}"));
    }
    out.push('\n');
    out
}

/// An export is its own text.
pub(crate) fn export(answer: &Value) -> String {
    answer.as_str().unwrap_or_default().to_owned()
}

/// Markdown, too; what people wrote is escaped in it.
pub(crate) fn markdown(answer: &Value) -> String {
    export(&answer["markdown"])
}

/// A scalar as one line without control characters; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        other => clean(&other.to_string()),
    }
}

fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if is_unsafe(c) { ' ' } else { c })
        .collect()
}

/// Like [`text`], but lines stay lines.
fn lines(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars()
        .map(|c| if is_unsafe(c) && c != '\n' { ' ' } else { c })
        .collect()
}

/// Control characters, and those that reorder what is written around them.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn moment(value: &Value) -> String {
    value
        .as_i64()
        .map_or_else(String::new, |ms| rfc3339(WallTime::from_millis(ms)))
}

fn bytes(value: &Value) -> String {
    value.as_u64().map_or_else(String::new, |bytes| {
        indicatif::HumanBytes(bytes).to_string()
    })
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

fn mark(value: &Value, mark: &str) -> String {
    if is(value) {
        mark.to_owned()
    } else {
        String::new()
    }
}

fn is(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn values(value: &Value) -> impl Iterator<Item = &Value> {
    value
        .as_object()
        .into_iter()
        .flat_map(|object| object.values())
}

/// Rows with their columns in line; columns that are empty everywhere are left out.
fn table(rows: Vec<Vec<String>>, empty: &str) -> String {
    if rows.is_empty() {
        return format!("{empty}\n");
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            put(&mut line, format_args!("{cell:<width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes every write");
}

#[cfg(test)]
mod tests;

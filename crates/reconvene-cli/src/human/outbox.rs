//! Commands, the inbox, integrations and sync runs as text for people.

use serde_json::Value;

use super::{clean, items, mark, moment, put, table, text};

/// Answer of whatever issues or shows a command.
pub(crate) fn command(answer: &Value) -> String {
    let command = &answer["command"];
    let id = text(&command["id"]);
    let outcome = &command["outcome"];
    let mut out = format!("{} is command {id}.\n", text(&command["name"]));
    match outcome["state"].as_str() {
        None => {
            let taken = match command["accepted_at"].is_null() {
                true => "It waits in the outbox for the server.",
                false => "The server has taken it up.",
            };
            put(
                &mut out,
                format_args!(
                    "{taken}\n  next: `reconvene sync`, then `reconvene commands show {id}`\n"
                ),
            );
        }
        Some("done") => {
            out.push_str("It is done.\n");
            for (name, value) in outcome["result"].as_object().into_iter().flatten() {
                put(
                    &mut out,
                    format_args!("  {}: {}\n", clean(name), text(value)),
                );
            }
            if let Some(run) = outcome["result"]["run"].as_str() {
                put(
                    &mut out,
                    format_args!("  next: `reconvene runs show {}`\n", clean(run)),
                );
            }
        }
        Some(state) => {
            put(
                &mut out,
                format_args!("It was {}: {}\n", clean(state), problem(outcome)),
            );
        }
    }
    out
}

fn problem(value: &Value) -> String {
    match (text(&value["message"]), text(&value["code"])) {
        (message, code) if message.is_empty() => code,
        (message, code) => format!("{message} ({code})"),
    }
}

/// Answer of `commands list`.
pub(crate) fn commands(answer: &Value) -> String {
    let rows = items(&answer["commands"]).iter().map(command_cells);
    table(rows.collect(), "The outbox is empty.")
}

fn command_cells(command: &Value) -> Vec<String> {
    let outcome = &command["outcome"];
    let state = match outcome["state"].as_str() {
        Some(state) => clean(state),
        None if command["cancel"] == true => "to be cancelled".to_owned(),
        None if command["accepted_at"].is_null() => "waiting".to_owned(),
        None => "taken up".to_owned(),
    };
    vec![
        text(&command["id"]),
        moment(&command["issued_at"]),
        text(&command["name"]),
        state,
        problem(outcome),
    ]
}

/// Answer of `inbox list`.
pub(crate) fn entries(answer: &Value) -> String {
    let rows = items(&answer["entries"]).iter().map(entry_cells);
    table(rows.collect(), "Nothing needs you.")
}

fn entry_cells(entry: &Value) -> Vec<String> {
    let resolved = match entry["resolved"]["how"].as_str() {
        Some(how) => clean(how),
        None => mark(&entry["retryable"], "can be retried"),
    };
    vec![
        text(&entry["id"]),
        moment(&entry["filed_at"]),
        text(&entry["subject"]["kind"]),
        text(&entry["code"]),
        message(entry),
        resolved,
    ]
}

/// What an entry says, with the title of the meeting that it is about.
fn message(entry: &Value) -> String {
    match text(&entry["details"]["title"]) {
        title if title.is_empty() => text(&entry["message"]),
        title => format!("{title}: {}", text(&entry["message"])),
    }
}

/// Answer of `inbox show`.
pub(crate) fn shown_entry(answer: &Value) -> String {
    let entry = &answer["entry"];
    let id = text(&entry["id"]);
    let mut out = format!("{} ({})\n", message(entry), text(&entry["code"]));
    if let Some(how) = entry["resolved"]["how"].as_str() {
        let how = clean(how).replace('_', " ");
        put(&mut out, format_args!("  it is {how}\n"));
        return out;
    }
    let conflict = &answer["conflict"];
    if let Some(base) = conflict.get("base") {
        let base = match base {
            Value::Null => "nothing".to_owned(),
            base => text(base),
        };
        put(&mut out, format_args!("  before: {base}\n"));
    }
    for (place, value) in items(&conflict["values"]).iter().enumerate() {
        let from = match value["origin"]["from"].as_str() {
            Some("here") => "written on this device".to_owned(),
            Some(_) => format!("came from {}", text(&value["origin"]["peer"])),
            None => "where it came from is not known".to_owned(),
        };
        put(
            &mut out,
            format_args!(
                "  {}: {}, {}, {from}, by actor {}{}\n",
                place + 1,
                text(&value["value"]),
                moment(&value["at"]),
                text(&value["actor"]),
                if value["shown"] == true {
                    "; shown now"
                } else {
                    ""
                },
            ),
        );
    }
    let next = match text(&entry["code"]).as_str() {
        "conflict" if conflict.is_object() => format!("reconvene inbox settle {id} NUMBER"),
        "deletion_without_effect" => format!("reconvene inbox settle {id} keep` or `delete"),
        _ => format!("reconvene inbox discard {id}"),
    };
    put(&mut out, format_args!("  next: `{next}`\n"));
    out
}

/// Answer of `inbox discard`, `inbox resolve` and `inbox settle`.
pub(crate) fn entry(answer: &Value) -> String {
    let entry = &answer["entry"];
    let how = text(&entry["resolved"]["how"]);
    format!(
        "Entry {} is {}.\n",
        text(&entry["id"]),
        how.replace('_', " ")
    )
}

/// Answer of `inbox retry` and `inbox amend`.
pub(crate) fn retried(answer: &Value) -> String {
    format!("{}{}", entry(answer), command(answer))
}

/// Answer of `integrations add`, `edit` and `remove`.
pub(crate) fn integration(answer: &Value) -> String {
    let integration = &answer["integration"];
    let id = text(&integration["id"]);
    let (adapter, place) = (
        text(&integration["adapter"]),
        text(&integration["external_id"]),
    );
    match integration["removed_at"].is_null() {
        true => format!(
            "Integration {id}: {adapter} {place}, {}\n",
            standing(integration)
        ),
        false => format!("Integration {id} ({adapter} {place}) is removed.\n"),
    }
}

fn standing(integration: &Value) -> String {
    let state = text(&integration["state"]);
    match integration["error"].is_null() {
        true => state,
        false => format!("{state}: {}", problem(&integration["error"])),
    }
}

/// Answer of `integrations list`.
pub(crate) fn integrations(answer: &Value) -> String {
    let rows = items(&answer["integrations"]).iter().map(integration_cells);
    table(rows.collect(), "No integrations.")
}

fn integration_cells(integration: &Value) -> Vec<String> {
    vec![
        text(&integration["id"]),
        text(&integration["adapter"]),
        text(&integration["external_id"]),
        moment(&integration["validated_at"]),
        standing(integration),
    ]
}

/// Answer of `runs list`.
pub(crate) fn runs(answer: &Value) -> String {
    let rows = items(&answer["runs"]).iter().map(|status| {
        vec![
            text(&status["id"]),
            moment(&status["run"]["started_at"]),
            text(&status["status"]),
            progress(&status["run"]),
            problem(&status["run"]["error"]),
        ]
    });
    table(rows.collect(), "No sync runs are kept.")
}

fn progress(run: &Value) -> String {
    let (done, items) = (text(&run["done"]), text(&run["items"]));
    match run["total"].is_null() {
        true => format!("{done} done, {items} changed"),
        false => format!("{done} of {} done, {items} changed", text(&run["total"])),
    }
}

/// Answer of `runs show`, and each item of it with `--watch`.
pub(crate) fn run(status: &Value) -> String {
    let (id, run) = (text(&status["id"]), &status["run"]);
    match (
        status["status"].as_str(),
        status["not_found_reason"].as_str(),
    ) {
        (Some("not_found"), Some("expired")) => {
            format!("Sync info expired: what became of run {id} is not kept any more.\n")
        }
        (Some("not_found"), _) => format!("There never was a sync run {id}.\n"),
        (Some("unknown"), _) => format!(
            "Run {id} is not known on this device, and the server has not answered yet.\n  next: \
             `reconvene sync`, then `reconvene runs show {id}`\n"
        ),
        (state, _) => {
            let state = clean(state.unwrap_or_default());
            let mut out = format!("Run {id}: {state}, {}", progress(run));
            if !run["error"].is_null() {
                put(&mut out, format_args!(": {}", problem(&run["error"])));
            }
            if !status["expires_at"].is_null() {
                put(
                    &mut out,
                    format_args!(", kept until {}", moment(&status["expires_at"])),
                );
            }
            out.push('\n');
            out
        }
    }
}

/// One item of a `--watch` of commands, entries or integrations: a line, or nothing.
pub(crate) fn change(item: &Value) -> String {
    let sign = match item["change"].as_str() {
        Some("added") => "+",
        Some("changed") => "~",
        Some("removed") => return format!("- {}\n", text(&item["id"])),
        // That the list is whole shows in that nothing more comes.
        _ => return String::new(),
    };
    let cells = if item["command"].is_object() {
        command_cells(&item["command"])
    } else if item["entry"].is_object() {
        entry_cells(&item["entry"])
    } else {
        integration_cells(&item["integration"])
    };
    let cells = cells.into_iter().filter(|cell| !cell.is_empty());
    format!("{sign} {}\n", cells.collect::<Vec<_>>().join("  "))
}

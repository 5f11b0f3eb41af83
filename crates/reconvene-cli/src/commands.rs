//! From the command line to its answer: which request a command is, and how its answer is told.
//!
//! A command is added as words in `args`, a request in `request`, its arm in `execute`, and here the
//! line that joins them with its text in `human`. Whether it runs here or over the control socket is
//! nobody's business but `session`'s; what cannot run beside an open store stands in `beside`.

mod archive;
mod hosting;
mod outbox;
mod serve;
mod watch;

use std::io::{self, Write};
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use reconvene::{MeetingFilter, OpenOptions, Ticket};
use serde_json::Value;

use crate::args::{
    Args, ChangeArgs, Command, EditArgs, ExportArgs, FilterArgs, ImportCommand, ListArgs,
    MeetingCommand, ProjectCommand, WorkspaceCommand,
};
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, to_value, write_line};
use crate::progress::Indicator;
use crate::request::{ImportFile, ImportFormat, MeetingChanges, Request, Sinks, Wanted};
use crate::{beside, demo, human, import, place, session};

/// Whether a command runs on and so tells in its logs what a user would notice.
pub(crate) fn is_chatty(command: &Command) -> bool {
    matches!(command, Command::Serve(_))
}

/// Runs a command on a runtime of its own and yields its exit code.
pub(crate) fn run(args: Args, output: Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::new("io", format!("no threads: {error}")))?;
    if let Command::Demo { meetings } = args.command {
        // Never the store of whoever runs it: only a directory named for this very run.
        let meetings = meetings.and_then(|meetings| usize::try_from(meetings).ok());
        return runtime.block_on(demo::run(args.data.as_deref(), meetings, output));
    }
    let data = place::data_directory(args.data.as_deref())?;
    let within = args.within;
    runtime.block_on(dispatch(args.command, &data, within, output))
}

async fn dispatch(
    command: Command,
    data: &Path,
    within: Option<String>,
    output: Output,
) -> Result<u8, Failure> {
    let is_within_one = matches!(
        command,
        Command::Project(_)
            | Command::Meeting(_)
            | Command::Commands(_)
            | Command::Integrations(_)
            | Command::Runs(_)
            | Command::Import(_)
            | Command::Export(_)
            | Command::Archive(_)
            | Command::Compact
            | Command::Purge { .. }
            | Command::Status { records: true, .. }
            | Command::Status {
                document: Some(_),
                ..
            }
            | Command::Invite { .. }
    );
    if within.is_some() && !is_within_one {
        let message = "this command is not about one workspace, so --workspace means nothing to it";
        return Err(Failure::new("usage", message));
    }
    let at = At {
        data,
        within,
        output,
    };
    match command {
        Command::Init { name } => at.init(name).await,
        Command::Serve(args) => serve::run(data, args, output).await,
        Command::Workspace(command) => {
            let (request, human) = workspace(command);
            at.answer(request, human).await
        }
        Command::Invite { member, expires } => {
            let expires_ms = millis(expires);
            at.answer(Request::Invite { member, expires_ms }, human::invitation)
                .await
        }
        Command::Join { ticket, adopt } => at.join(ticket, adopt).await,
        Command::Project(command) => {
            let (request, human) = project(command);
            at.answer(request, human).await
        }
        Command::Meeting(MeetingCommand::List(ListArgs {
            watch: true,
            filter,
            ..
        })) => {
            let wanted = wanted(filter);
            at.watch(Request::MeetingWatch { wanted }, human::change)
                .await
        }
        Command::Meeting(command) => {
            let (request, human) = meeting(command)?;
            at.answer(request, human).await
        }
        Command::Commands(command) => at.ask(outbox::commands(command)).await,
        Command::Inbox(command) => at.ask(outbox::inbox(command)).await,
        Command::Integrations(command) => at.ask(outbox::integrations(command)?).await,
        Command::Runs(command) => at.ask(outbox::runs(command)).await,
        Command::Import(command) => at.import(command).await,
        Command::Sync {
            watch: true,
            with,
            listen,
            ..
        } => {
            let request = Request::SyncWatch { with, listen };
            at.watch(request, human::watched).await
        }
        Command::Sync { timeout, with, .. } => {
            let timeout_ms = millis(timeout);
            at.answer(Request::Sync { timeout_ms, with }, human::synced)
                .await
        }
        Command::Compact => at.answer(Request::Compact, human::compacted).await,
        Command::Purge { deleted_for } => {
            let deleted_for_ms = millis(deleted_for);
            at.answer(Request::Purge { deleted_for_ms }, human::purged)
                .await
        }
        Command::Status { watch: true, .. } => {
            at.watch(Request::StatusWatch, human::status_again).await
        }
        Command::Status {
            records, document, ..
        } => {
            let request = Request::Status { records, document };
            at.answer(request, human::status).await
        }
        Command::Verify => at.verify().await,
        Command::Repair => at.repair().await,
        Command::Export(ExportArgs {
            markdown: true,
            meeting,
        }) => {
            let request = Request::ExportMarkdown { meeting };
            at.answer(request, human::markdown).await
        }
        Command::Export(_) => at.export().await,
        Command::Archive(command) => at.archive(command).await,
        Command::Events => at.watch(Request::Events, human::event).await,
        Command::Demo { .. } => unreachable!("it was run without a data directory"),
    }
}

/// How an answer is told to people.
type Human = fn(&Value) -> String;

fn workspace(command: WorkspaceCommand) -> (Request, Human) {
    match command {
        WorkspaceCommand::Add { name } => (Request::WorkspaceAdd { name }, human::workspace),
        WorkspaceCommand::List => (Request::WorkspaceList, human::workspaces),
        WorkspaceCommand::Use { workspace } => {
            (Request::WorkspaceUse { workspace }, human::workspace)
        }
        WorkspaceCommand::Leave {
            workspace,
            discard,
            remove,
        } => {
            let leave = Request::WorkspaceLeave {
                workspace,
                discard,
                remove,
            };
            (leave, human::left)
        }
    }
}

fn project(command: ProjectCommand) -> (Request, Human) {
    match command {
        ProjectCommand::Add { name } => (Request::ProjectAdd { name }, human::project),
        ProjectCommand::List { all } => (Request::ProjectList { all }, human::projects),
        ProjectCommand::Rename { project, name } => {
            (Request::ProjectRename { project, name }, human::project)
        }
        ProjectCommand::Archive { project, undo } => {
            let archived = !undo;
            (
                Request::ProjectArchive { project, archived },
                human::project,
            )
        }
        ProjectCommand::Delete { project } => (Request::ProjectDelete { project }, human::project),
        ProjectCommand::Restore { project } => {
            (Request::ProjectRestore { project }, human::project)
        }
        ProjectCommand::Activate { project } => {
            (Request::ProjectActivate { project }, human::project)
        }
    }
}

fn meeting(command: MeetingCommand) -> Result<(Request, Human), Failure> {
    Ok(match command {
        MeetingCommand::Add { title, project } => {
            (Request::MeetingAdd { title, project }, human::meeting_added)
        }
        MeetingCommand::List(ListArgs {
            limit,
            after,
            filter,
            ..
        }) => {
            let limit = usize::try_from(limit)
                .map_err(|_| Failure::new("usage", "this machine cannot count that far"))?;
            let wanted = wanted(filter);
            let request = Request::MeetingList {
                limit,
                after,
                wanted,
            };
            (request, human::meetings)
        }
        MeetingCommand::Show { id } => (Request::MeetingShow { id }, human::meeting),
        MeetingCommand::Delete { id, seen } => {
            (Request::MeetingDelete { id, seen }, human::meeting_deleted)
        }
        MeetingCommand::Restore { id } => (Request::MeetingRestore { id }, human::meeting),
        MeetingCommand::Stop { id, issue } => {
            let issue = outbox::issue(issue);
            (Request::MeetingStop { id, issue }, human::outbox::command)
        }
        MeetingCommand::Edit(EditArgs { id, changes }) => {
            let ChangeArgs {
                title,
                append_note,
                state,
                tag,
            } = changes;
            let changes = MeetingChanges {
                title,
                append_note,
                state,
                tags: tag,
            };
            (Request::MeetingEdit { id, changes }, human::meeting)
        }
    })
}

fn wanted(args: FilterArgs) -> Wanted {
    let FilterArgs {
        project,
        state,
        since,
        until,
        text,
        tag,
        deleted,
    } = args;
    let filter = MeetingFilter {
        project: None,
        states: state.into_iter().collect(),
        since,
        until,
        text,
        tags: tag.into_iter().collect(),
        deleted,
    };
    Wanted { project, filter }
}

/// Where commands run and how they answer.
struct At<'a> {
    data: &'a Path,
    /// The workspace to use instead of the current one.
    within: Option<String>,
    output: Output,
}

impl At<'_> {
    async fn init(&self, name: Option<String>) -> Result<u8, Failure> {
        let opened = session::open(&self.named(name).create_new(true)).await;
        let replica = opened.map_err(|failure| beside::in_use("init", failure))?;
        let device = to_value(&replica.device());
        session::close(replica).await;
        self.output.answer(&device?, human::initialised)?;
        Ok(exit::OK)
    }

    async fn join(&self, ticket: String, adopt: bool) -> Result<u8, Failure> {
        // Before a store is made for it.
        Ticket::decode(&ticket).map_err(reconvene::Error::from)?;
        let answer = self
            .perform(self.named(None), Request::Join { ticket, adopt })
            .await?;
        self.output.answer(&answer, human::joined)?;
        Ok(exit::OK)
    }

    async fn import(&self, command: ImportCommand) -> Result<u8, Failure> {
        let (format, files) = match command {
            ImportCommand::Qmsum { files } => (ImportFormat::Qmsum, files),
            ImportCommand::Vtt { files } => (ImportFormat::Vtt, files),
            ImportCommand::Srt { files } => (ImportFormat::Srt, files),
        };
        let files = files.into_iter().map(absolute).collect::<Result<_, _>>()?;
        let answer = self
            .perform(self.existing(), Request::Import { format, files })
            .await?;
        self.output.answer(&answer, human::imported)?;
        let code = import::exit_code(&answer);
        if code != exit::OK && !self.output.is_json() {
            let told = io::stderr().write_all(human::not_imported(&answer).as_bytes());
            told.map_err(|error| Failure::new("io", error.to_string()))?;
        }
        Ok(code)
    }

    async fn verify(&self) -> Result<u8, Failure> {
        let answer = self.perform(self.existing(), Request::Verify).await?;
        self.output.answer(&answer, human::verified)?;
        match answer["intact"].as_bool() {
            Some(true) => Ok(exit::OK),
            _ => Ok(exit::code_of("store_damaged")),
        }
    }

    /// Only in this process: nobody else may have the store open.
    async fn repair(&self) -> Result<u8, Failure> {
        let indicator = Indicator::start("repairing");
        let report = self.existing().repair().await?;
        drop(indicator);
        self.output.answer(&to_value(&report)?, human::repaired)?;
        Ok(exit::OK)
    }

    async fn export(&self) -> Result<u8, Failure> {
        let workspace = None;
        let answer = self
            .perform(self.existing(), Request::Export { workspace })
            .await?;
        // Canonical JSON both ways: it is written as it is.
        write_line(&human::export(&answer))?;
        Ok(exit::OK)
    }

    /// Answers, or goes on with items.
    async fn ask(&self, (request, human): (Request, Human)) -> Result<u8, Failure> {
        match request.is_stream() {
            true => self.watch(request, human).await,
            false => self.answer(request, human).await,
        }
    }

    async fn answer(&self, request: Request, human: Human) -> Result<u8, Failure> {
        let answer = self.perform(self.existing(), request).await?;
        self.output.answer(&answer, human)?;
        Ok(exit::OK)
    }

    async fn perform(&self, options: OpenOptions, request: Request) -> Result<Value, Failure> {
        let indicator = Indicator::start(request.doing());
        let sinks = Sinks::progress_only(indicator.sink());
        session::perform(self.data, &options, self.within(request), &sinks).await
    }

    async fn watch(&self, request: Request, human: Human) -> Result<u8, Failure> {
        let request = self.within(request);
        watch::run(self.data, &self.existing(), request, self.output, human).await
    }

    /// The request, in the workspace that was named.
    fn within(&self, request: Request) -> Request {
        match &self.within {
            Some(workspace) => Request::In {
                workspace: workspace.clone(),
                request: Box::new(request),
            },
            None => request,
        }
    }

    /// Opens a store that is there.
    fn existing(&self) -> OpenOptions {
        OpenOptions::new(self.data).create(false)
    }

    /// Makes a store where there is none, named as given or after the machine.
    fn named(&self, name: Option<String>) -> OpenOptions {
        let options = OpenOptions::new(self.data);
        match name.or_else(place::machine_name) {
            Some(name) => options.name(name),
            None => options,
        }
    }
}

fn absolute(given: PathBuf) -> Result<ImportFile, Failure> {
    let path = path::absolute(&given).map_err(|error| {
        Failure::new(
            "bad_input",
            format!("{} is no path: {error}", given.display()),
        )
    })?;
    // Requests are JSON; a name that is not Unicode can only be imported under another.
    if path.to_str().is_none() {
        let message = format!("the name of {} is not Unicode", given.display());
        return Err(Failure::new("bad_input", message).with_hint("rename the file"));
    }
    Ok(ImportFile {
        given: given.display().to_string(),
        path,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

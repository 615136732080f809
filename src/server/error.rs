//! What a request can fail with, in the codes and words of a real server; and why a server cannot start.

use std::path::PathBuf;

use crate::error::{Explain, Kind};

/// A refused request: HTTP status, subcode and the message the client shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    /// The HTTP status and `meta.result_code`.
    pub code: u16,
    /// `meta.result_subcode`: which of the errors of that code.
    pub subcode: u16,
    /// `meta.result_msg`.
    pub message: String,
}

impl ApiError {
    pub(super) fn new(code: u16, subcode: u16, message: impl Into<String>) -> Self {
        Self { code, subcode, message: message.into() }
    }

    fn bad(subcode: u16, message: impl Into<String>) -> Self {
        Self::new(400, subcode, message)
    }

    pub(super) fn field_required(field: &str) -> Self {
        Self::bad(12, format!("Validation error (error for field '{field}'. field is required!)"))
    }

    pub(super) fn field_invalid(field: &str, why: &str) -> Self {
        Self::bad(12, format!("Validation error (error for field '{field}': {why}.)"))
    }

    pub(super) fn field_invalid_choice(field: &str, value: &str) -> Self {
        Self::field_invalid(field, &format!("value '{value}' is not a valid choice."))
    }

    pub(super) fn validation(why: &str) -> Self {
        Self::bad(12, format!("Validation error ({why})"))
    }

    pub(super) fn too_small(field: &str, least: usize) -> Self {
        Self::bad(12, format!("Validation error ({field} must be >={least}): field={field}"))
    }

    pub(super) fn missing_fields(field: &str) -> Self {
        Self::bad(11, format!("Missing required fields: missing=({field})"))
    }

    pub(super) fn unknown_field(field: &str) -> Self {
        let why = "Lookup error (probably an invalid field name or unsupported nested field)";
        Self::bad(14, format!("{why}: err=Cannot resolve field \"{field}\""))
    }

    pub(super) fn values(why: &str, field: &str) -> Self {
        Self::bad(16, format!("Invalid value for fields ({why}): field={field}"))
    }

    pub(super) fn regex(field: &str) -> Self {
        Self::bad(21, format!("Malformed regular expression: field={field}"))
    }

    pub(super) fn too_short(field: &str) -> Self {
        Self::bad(800, format!("Data validation error: {field}=String value is too short"))
    }

    pub(super) fn duplicate() -> Self {
        let why = "Value combination already exists (unique field already contains this value)";
        Self::bad(801, format!("{why}: err=Tried to save duplicate unique keys (E11000 Duplicate Key Error)"))
    }

    pub(super) fn object_id(field: &str) -> Self {
        Self::bad(10, format!("Invalid object id: {field}=None"))
    }

    pub(super) fn task_id(id: &str) -> Self {
        Self::bad(101, format!("Invalid task id: id={id}"))
    }

    pub(super) fn task_ids(ids: &[&str]) -> Self {
        Self::bad(101, format!("Invalid task id: ids=({})", ids.join(", ")))
    }

    pub(super) fn task_status_change(current: &str, new: &str) -> Self {
        let change = format!("current_status={current}, new_status={new}");
        Self::bad(110, format!("Invalid task status (Invalid status change): {change}"))
    }

    pub(super) fn task_not_draft(status: &str) -> Self {
        Self::bad(110, format!("Invalid task status: expected=created, status={status}"))
    }

    pub(super) fn task_status(id: &str, status: &str) -> Self {
        Self::bad(110, format!("Invalid task status: task_id={id}, status={status}"))
    }

    pub(super) fn lost_race(current: &str, new: &str) -> Self {
        let change = format!("current_status={current}, new_status={new}");
        Self::bad(121, format!("Failed changing task status (possible race condition): {change}"))
    }

    pub(super) fn task_not_deletable(id: &str, status: &str) -> Self {
        let what = format!("task={id}, expected=created, current={status}");
        Self::bad(123, format!("Task cannot be deleted (due to status, use force=True): {what}"))
    }

    pub(super) fn no_events(reasons: &str) -> Self {
        Self::bad(131, format!("Events not added: {reasons}"))
    }

    pub(super) fn model_id(id: &str) -> Self {
        Self::bad(201, format!("Invalid model id: id={id}"))
    }

    pub(super) fn model_is_ready(id: &str) -> Self {
        Self::bad(203, format!("Model is ready: model={id}"))
    }

    pub(super) fn model_in_use(tasks: usize) -> Self {
        let why = "as execution model, use force=True to delete";
        Self::bad(205, format!("Model is used by tasks ({why}): num_tasks={tasks}"))
    }

    pub(super) fn model_of_published(task: &str) -> Self {
        let why = "and published, use force=True to delete";
        Self::bad(206, format!("Task that created this model exists ({why}): task={task}"))
    }

    pub(super) fn project_id(id: &str) -> Self {
        Self::bad(401, format!("Invalid project id: id={id}"))
    }

    pub(super) fn project_has_tasks(count: usize) -> Self {
        Self::bad(402, format!("Project has associated tasks (use force=true to delete): tasks={count}"))
    }

    pub(super) fn project_has_models(count: usize) -> Self {
        Self::bad(405, format!("Project has associated models (use force=true to delete): models={count}"))
    }

    pub(super) fn queue_id(id: &str, company: &str) -> Self {
        Self::bad(701, format!("Invalid queue id: id={id}, company={company}"))
    }

    pub(super) fn queue_not_empty(id: &str) -> Self {
        Self::bad(702, format!("Queue is not empty (use force=true to delete): id={id}"))
    }

    pub(super) fn not_in_queue(queue: &str, task: &str, company: &str) -> Self {
        let what = format!("task={task}, id={queue}, company={company}");
        Self::bad(703, format!("Invalid queue id or task not in queue: {what}"))
    }

    pub(super) fn already_queued(task: &str) -> Self {
        Self::bad(706, format!("Failed adding task to queue since task is already queued: task={task}"))
    }

    pub(super) fn no_default_queue() -> Self {
        Self::bad(707, "Queue has no default (no queue is marked as default)")
    }

    pub(super) fn user_id(id: &str) -> Self {
        Self::bad(301, format!("Invalid user id: id={id}"))
    }

    pub(super) fn internal(what: &dyn std::fmt::Display) -> Self {
        Self::new(500, 100, format!("General data error: err={what}"))
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        Self::internal(&error)
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(&error)
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file of the data directory cannot be read or written.
    #[error("cannot use the data directory")]
    Data(#[source] std::io::Error),
    /// Another server holds the directory.
    #[error("another server is using `{0}`")]
    InUse(PathBuf),
    /// The database is of a format this program does not know.
    #[error("`{path}` has format {found}, this program knows {known}")]
    Format {
        /// The database.
        path: PathBuf,
        /// The format found.
        found: i64,
        /// The format this program writes.
        known: i64,
    },
    /// The database cannot be opened.
    #[error("cannot open the database `{path}`: {why}")]
    Database {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// The file with the server's keys is not what this program wrote.
    #[error("`{path}` is damaged: {why}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

impl Explain for ServerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Data(source) => Kind::of_io(source),
            Self::InUse(_) => Kind::Conflict,
            Self::Format { .. } | Self::Keys { .. } => Kind::Input,
            Self::Database { .. } | Self::Listen { .. } => Kind::System,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Self::InUse(_) => vec!["Stop the other server, or give this one a directory of its own.".into()],
            Self::Format { .. } => vec!["Use the program that wrote it, or a new directory.".into()],
            Self::Listen { .. } => vec!["Choose another port, or port 0 for any free one.".into()],
            Self::Data(_) | Self::Database { .. } | Self::Keys { .. } => Vec::new(),
        }
    }
}

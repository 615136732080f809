//! `tasks.*`.

mod artifacts;
mod create;
mod edit;
mod params;
mod read;
mod remove;
mod state;
mod store;

pub(super) use remove::delete_task;
pub(super) use state::{dequeue_entry, set_queued};
pub(super) use store::{Task, refresh_duration};

use crate::server::call::Type::{Any, Choice, Flag, Integer, List, Object, Text, Texts};
use crate::server::call::{Endpoint, Field, Version, endpoint, may, must, must_old};

const V1: Version = Version(1, 0);

const TYPES: &[&str] = &[
    "training",
    "testing",
    "inference",
    "data_processing",
    "application",
    "monitor",
    "controller",
    "optimizer",
    "service",
    "qc",
    "custom",
    "report",
];

const TASK: &[Field] = &[must("task", Text)];
const CHANGE: &[Field] =
    &[must("task", Text), may("force", Flag), may("status_reason", Text), may("status_message", Text)];
const MANY: &[Field] =
    &[must("ids", List), may("force", Flag), may("status_reason", Text), may("status_message", Text)];
const ENQUEUE: &[Field] = &[
    must("task", Text),
    may("queue", Text),
    may("queue_name", Text),
    may("force", Flag),
    may("status_reason", Text),
    may("status_message", Text),
];
const ENQUEUE_MANY: &[Field] = &[must("ids", List), may("queue", Text), may("queue_name", Text), may("force", Flag)];
const CREATE: &[Field] = &[
    must("name", Text),
    must("type", Choice(TYPES)),
    may("tags", List),
    may("system_tags", List),
    may("comment", Text),
    may("parent", Text),
    may("project", Text),
    may("output_dest", Text),
    may("execution", Object),
    may("script", Object),
    may("hyperparams", Object),
    may("configuration", Object),
    may("runtime", Object),
    may("models", Object),
    may("container", Object),
];
const EDIT: &[Field] = &[
    must("task", Text),
    may("force", Flag),
    may("name", Text),
    may("type", Choice(TYPES)),
    may("tags", List),
    may("system_tags", List),
    may("comment", Text),
    may("parent", Text),
    may("project", Text),
    may("output_dest", Text),
    may("execution", Object),
    may("script", Object),
    may("hyperparams", Object),
    may("configuration", Object),
    may("runtime", Object),
    may("models", Object),
    may("container", Object),
];
const CLONE: &[Field] = &[
    must("task", Text),
    may("new_task_name", Text),
    may("new_task_comment", Text),
    may("new_task_tags", List),
    may("new_task_system_tags", List),
    may("new_task_parent", Text),
    may("new_task_project", Text),
    may("new_project_name", Text),
    may("execution_overrides", Object),
    may("new_task_hyperparams", Object),
    may("new_task_configuration", Object),
    may("new_task_container", Object),
];
const LIST: &[Field] = &[
    may("id", Texts),
    may("name", Text),
    may("only_fields", Texts),
    may("order_by", Texts),
    may("page", Integer),
    may("page_size", Integer),
    may("size", Integer),
    may("project", Texts),
    may("status", Texts),
    may("type", Texts),
    may("tags", Texts),
    may("system_tags", Texts),
    may("user", Texts),
    may("search_text", Text),
    may("search_hidden", Flag),
    may("_any_", Object),
    may("_all_", Object),
];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    endpoint("tasks.get_by_id", V1, TASK, read::get_by_id),
    endpoint("tasks.get_all", V1, LIST, read::get_all),
    endpoint("tasks.get_all_ex", V1, LIST, read::get_all_ex),
    endpoint("tasks.get_by_id_ex", V1, &[must_old("id")], read::get_all_ex),
    endpoint("tasks.get_types", Version(2, 8), &[may("projects", Texts)], read::get_types),
    endpoint("tasks.validate", V1, CREATE, create::validate),
    endpoint("tasks.create", V1, CREATE, create::create),
    endpoint("tasks.clone", Version(1, 0), CLONE, create::clone),
    endpoint("tasks.edit", V1, EDIT, edit::edit),
    endpoint("tasks.update", V1, TASK, edit::update),
    endpoint("tasks.update_batch", V1, &[], edit::update_batch),
    endpoint("tasks.set_requirements", V1, &[must("task", Text), must("requirements", Object)], edit::set_requirements),
    endpoint(
        "tasks.edit_runtime",
        V1,
        &[must("task", Text), must("runtime", Object), may("force", Flag)],
        edit::edit_runtime,
    ),
    endpoint("tasks.move", V1, &[must("ids", List), may("project", Text), may("project_name", Text)], edit::move_tasks),
    endpoint("tasks.ping", V1, TASK, edit::ping),
    endpoint("tasks.get_hyper_params", V1, &[must("tasks", List)], params::get_hyper_params),
    endpoint(
        "tasks.edit_hyper_params",
        V1,
        &[
            must("task", Text),
            must("hyperparams", List),
            may("replace_hyperparams", Choice(&["none", "section", "all"])),
            may("force", Flag),
        ],
        params::edit_hyper_params,
    ),
    endpoint(
        "tasks.delete_hyper_params",
        V1,
        &[must("task", Text), must("hyperparams", List), may("force", Flag)],
        params::delete_hyper_params,
    ),
    endpoint("tasks.get_configurations", V1, &[must("tasks", List), may("names", List)], params::get_configurations),
    endpoint("tasks.get_configuration_names", V1, &[must("tasks", List)], params::get_configuration_names),
    endpoint(
        "tasks.edit_configuration",
        V1,
        &[must("task", Text), must("configuration", List), may("replace_configuration", Flag), may("force", Flag)],
        params::edit_configuration,
    ),
    endpoint(
        "tasks.delete_configuration",
        V1,
        &[must("task", Text), must("configuration", List), may("force", Flag)],
        params::delete_configuration,
    ),
    endpoint(
        "tasks.add_or_update_artifacts",
        Version(2, 10),
        &[must("task", Text), must("artifacts", List), may("force", Flag)],
        artifacts::add_or_update_artifacts,
    ),
    endpoint(
        "tasks.delete_artifacts",
        Version(2, 10),
        &[must("task", Text), must("artifacts", List), may("force", Flag)],
        artifacts::delete_artifacts,
    ),
    endpoint(
        "tasks.add_or_update_model",
        V1,
        &[
            must("task", Text),
            must("name", Text),
            must("model", Text),
            must("type", Choice(&["input", "output"])),
            may("iteration", Integer),
        ],
        artifacts::add_or_update_model,
    ),
    endpoint("tasks.delete_models", V1, &[must("task", Text), must("models", List)], artifacts::delete_models),
    endpoint("tasks.enqueue", V1, ENQUEUE, state::enqueue),
    endpoint("tasks.enqueue_many", V1, ENQUEUE_MANY, state::enqueue_many),
    endpoint("tasks.dequeue", V1, &[must("task", Text), may("new_status", Any)], state::dequeue),
    endpoint("tasks.dequeue_many", V1, MANY, state::dequeue_many),
    endpoint("tasks.started", V1, CHANGE, state::started),
    endpoint("tasks.stop", V1, CHANGE, state::stop),
    endpoint("tasks.stop_many", V1, MANY, state::stop_many),
    endpoint("tasks.stopped", V1, CHANGE, state::stopped),
    endpoint("tasks.failed", V1, CHANGE, state::failed),
    endpoint("tasks.completed", Version(2, 2), CHANGE, state::completed),
    endpoint("tasks.close", V1, CHANGE, state::close),
    endpoint("tasks.publish", V1, CHANGE, state::publish),
    endpoint("tasks.publish_many", V1, MANY, state::publish_many),
    endpoint("tasks.reset", V1, CHANGE, remove::reset),
    endpoint("tasks.reset_many", V1, MANY, remove::reset_many),
    endpoint("tasks.delete", V1, CHANGE, remove::delete),
    endpoint("tasks.delete_many", V1, MANY, remove::delete_many),
    endpoint("tasks.archive", Version(2, 12), &[must("tasks", List)], remove::archive),
    endpoint("tasks.archive_many", V1, MANY, remove::archive_many),
    endpoint("tasks.unarchive_many", V1, MANY, remove::unarchive_many),
];

//! The services, a file each. Every one declares its endpoints in a constant table; [`find`] looks a call up in them.

mod auth;
mod debug;
mod events;
mod models;
mod organization;
mod projects;
mod queues;
mod references;
mod tasks;
mod users;
mod workers;

use super::call::Endpoint;

const SERVICES: &[&[Endpoint]] = &[
    tasks::ENDPOINTS,
    events::ENDPOINTS,
    queues::ENDPOINTS,
    workers::ENDPOINTS,
    projects::ENDPOINTS,
    models::ENDPOINTS,
    auth::ENDPOINTS,
    users::ENDPOINTS,
    organization::ENDPOINTS,
    debug::ENDPOINTS,
];

/// The endpoint of that name.
pub(super) fn find(name: &str) -> Option<&'static Endpoint> {
    SERVICES.iter().flat_map(|it| it.iter()).find(|it| it.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_taken_once() {
        let mut names: Vec<_> = SERVICES.iter().flat_map(|it| it.iter()).map(|it| it.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

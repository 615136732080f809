//! A lock as it is left with its task on the server, in a configuration object of the task's own.
//!
//! It is the document, without what the task has itself: the task record, which would hold it in turn, and large texts,
//! which are found again in the task by their digest. What is no longer found belongs to a part that was edited.

use std::io;

use super::{Asked, Lock, Text, asked};
use crate::digest::Digest;
use crate::lock::document::DocumentError;
use crate::task::Task;

/// The largest document that is left with a task, in bytes: servers keep a task in one record of 16 MiB at most.
const LARGEST: usize = 4 << 20;

impl Lock {
    /// The text to leave with a task whose commit is written back; none where it would be too large.
    #[must_use]
    pub fn carried(&self) -> Option<String> {
        let mut lock = self.clone();
        lock.launch.record = Text::of("{}");
        // Found anew each time; an agent's default arguments have directories of its machine in them.
        lock.launch.container_arguments = None;
        lock.launch.env.clear();
        lock.asks_for_its_commit();
        Some(lock.documents().toml).filter(|it| it.len() <= LARGEST)
    }

    /// Lets the commit be what was asked for: whoever takes it away from the task again asks for what the branch has then.
    pub(crate) fn asks_for_its_commit(&mut self) {
        if let (Some(asked), Some(revision)) = (&mut self.asked, asked::pinned(self.code.as_ref())) {
            asked.revision = revision;
        }
    }

    /// The lock that a task carries, if it carries one.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn of_task(task: &Task) -> Result<Option<Self>, DocumentError> {
        let Some(text) = &task.lock else { return Ok(None) };
        let own = |digest: &Digest| {
            let setup = task.container.setup_script.as_deref().unwrap_or_default().trim();
            let found = [task.script.diff.as_str(), setup].into_iter().find(|it| Digest::of(it) == *digest);
            found.map(|it| it.as_bytes().to_vec()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        let (mut lock, missing) = Self::parse_partly("the task's lock", text, own)?;
        let mut code = lock.code.iter().flat_map(|it| it.diff.iter().chain(it.script.as_ref().map(|it| &it.text)));
        let whole = code.all(|it| !missing.contains(&it.sha256));
        if let (Some(asked), false) = (&mut lock.asked, whole) {
            *asked = Asked { code: Digest::of(""), ..asked.clone() };
        }
        Ok(Some(lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::document::tests::lock;

    #[test]
    fn a_task_gives_a_carried_lock_its_own_texts_back() {
        let mut whole = lock();
        let diff = "diff --git a/x b/x\n".repeat(10_000);
        let code = whole.code.as_mut().unwrap();
        code.script = None;
        code.diff = Some(Text::of(&diff));
        whole.launch.record = Text::of("{\"name\": 1}".repeat(20_000));
        let asked = Asked {
            base: Digest::of("base"),
            revision: Digest::of("revision"),
            code: Digest::of("code"),
            system: Digest::of("system"),
            interpreter: Digest::of("interpreter"),
            requirements: vec![Digest::of("text")],
            gathered: Vec::new(),
            variables: false,
        };
        whole.asked = Some(asked.clone());
        whole.launch.container_arguments = Some("-v /srv/data:/data".to_owned());
        let text = whole.carried().unwrap();
        assert!(!text.contains("/srv/data"), "{text}");
        assert!(text.len() < 4096, "{text}");
        let mut task = Task { lock: Some(text), ..Task::default() };
        task.script.diff = diff;
        let found = Lock::of_task(&task).unwrap().unwrap();
        assert_eq!((&found.code, &found.asked), (&whole.code, &whole.asked));
        task.script.diff = "another\n".to_owned();
        let found = Lock::of_task(&task).unwrap().unwrap();
        assert_eq!(found.asked.unwrap(), Asked { code: Digest::of(""), ..asked });
        task.lock = Some("nonsense".to_owned());
        assert!(Lock::of_task(&task).is_err());
        assert_eq!(Lock::of_task(&Task::default()).unwrap(), None);
    }
}

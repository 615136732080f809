//! The engines that units of this machine are in. A daemon or an `agent execute` that was started with another engine goes
//! on with what an earlier one left: each unit names its engine, and that one is opened when it is first needed.
//!
//! One that cannot be opened counts as one that does not answer: its units wait, and say on the server what for. Only
//! where the machine was started anew since they began is it known without their engine that nothing of them runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use super::journal::{Record, boot};
use super::unit::Executor;
use crate::engine::Docker;
use crate::error::{Explain, Failure, Kind};
use crate::run::native::NativeEngine;
use crate::run::{Engine, EngineKind, Found, Ground, Outcome, RunId, RunImage, RunSpec, engine_of};

/// Opens an engine.
pub type Open = Arc<dyn Fn(EngineKind) -> BoxFuture<'static, Result<Arc<dyn Engine>, Failure>> + Send + Sync>;

/// Opens engines on the same ground as one's own.
#[must_use]
pub fn on(ground: Ground) -> Open {
    Arc::new(move |kind| {
        let ground = ground.clone();
        Box::pin(async move {
            match kind {
                // What it left can be attended also where nothing new may be started.
                EngineKind::Native => Ok(Arc::new(NativeEngine::attending(&ground)) as Arc<dyn Engine>),
                kind => engine_of(kind, &ground).await,
            }
        })
    })
}

/// Why a unit's engine does not answer.
#[derive(Debug, thiserror::Error)]
enum Unopened {
    /// It cannot be opened now.
    #[error("{name} cannot be used: {reason}")]
    Closed { name: &'static str, reason: String, hints: Vec<String> },
}

impl Explain for Unopened {
    fn kind(&self) -> Kind {
        Kind::Unreachable
    }

    fn hints(&self) -> Vec<String> {
        let Self::Closed { hints, .. } = self;
        hints.clone()
    }
}

/// The executor that goes on with a unit: one's own, or one with the engine that the unit is in.
#[must_use]
pub fn executor_of(executor: &Arc<Executor>, record: &Record) -> Arc<Executor> {
    let kind = [EngineKind::Docker, EngineKind::Podman, EngineKind::Native]
        .into_iter()
        .find(|it| it.name() == record.engine)
        .filter(|_| record.engine != executor.engine.name());
    // What has not been started anywhere is built and run as new tasks are.
    let Some(kind) = kind.filter(|_| !record.is_unstarted()) else { return Arc::clone(executor) };
    let restarted = record.boot.as_ref().is_some_and(|it| *it != boot());
    let late = Late { kind, open: Arc::clone(&executor.open), opened: OnceCell::new(), restarted };
    let mut settings = executor.settings.clone();
    settings.engine = kind;
    Arc::new(Executor { settings, engine: Arc::new(late), ..executor.as_ref().clone() })
}

/// An engine that is opened when it is needed.
struct Late {
    kind: EngineKind,
    open: Open,
    opened: OnceCell<Arc<dyn Engine>>,
    /// Whether the machine was started anew since its run began.
    restarted: bool,
}

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Late").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Late {
    async fn engine(&self) -> Result<&Arc<dyn Engine>, Failure> {
        let opened = self.opened.get_or_try_init(|| (self.open)(self.kind)).await;
        opened.map_err(|failure| {
            let (name, reason, hints) = (self.kind.name(), failure.to_string(), failure.hints());
            Unopened::Closed { name, reason, hints }.into()
        })
    }

    /// The engine; nothing where it cannot be opened and nothing can be in it.
    async fn or_gone(&self) -> Result<Option<&Arc<dyn Engine>>, Failure> {
        match self.engine().await {
            Ok(engine) => Ok(Some(engine)),
            Err(_) if self.restarted => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

impl Engine for Late {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn docker(&self) -> Option<Docker> {
        self.opened.get()?.docker()
    }

    fn prepare<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { self.engine().await?.prepare(image).await })
    }

    fn start<'a>(&'a self, spec: &'a RunSpec) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { self.engine().await?.start(spec).await })
    }

    fn find<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Found, Failure>> {
        Box::pin(async {
            match self.or_gone().await? {
                Some(engine) => engine.find(run).await,
                None => Ok(Found::Absent),
            }
        })
    }

    fn wait<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async { self.engine().await?.wait(run).await })
    }

    fn stop<'a>(&'a self, run: &'a RunId, grace: Duration) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            match self.or_gone().await? {
                Some(engine) => engine.stop(run, grace).await,
                None => Ok(()),
            }
        })
    }

    fn remove<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            match self.or_gone().await? {
                Some(engine) => engine.remove(run).await,
                None => Ok(()),
            }
        })
    }

    fn runs(&self) -> BoxFuture<'_, Result<Vec<RunId>, Failure>> {
        Box::pin(async { self.engine().await?.runs().await })
    }

    fn discard<'a>(&'a self, image: &'a RunImage) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(async { self.engine().await?.discard(image).await })
    }
}

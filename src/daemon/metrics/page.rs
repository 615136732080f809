//! The page that Prometheus reads (text format 0.0.4), and the endpoint that answers with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

use super::Metrics;
use crate::error::{Explain, Kind};

const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer Prometheus at {address}")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

impl Explain for ListenError {
    fn kind(&self) -> Kind {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => Kind::Conflict,
            io::ErrorKind::PermissionDenied => Kind::Denied,
            _ => Kind::System,
        }
    }

    fn hints(&self) -> Vec<String> {
        vec!["Give --metrics-listen another address or port; each daemon needs its own.".to_owned()]
    }
}

/// Answers at an address until the future that comes back is dropped; the address listened on, for port 0.
///
/// # Errors
/// [`ListenError`]
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + 'static), ListenError> {
    let failed = |source| ListenError { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let page = get(move || {
        let text = metrics.render();
        std::future::ready(([(CONTENT_TYPE, TYPE)], text))
    });
    let router = Router::new().route("/metrics", page);
    Ok((bound, async move {
        // It ends with its future alone.
        let _ = axum::serve(listener, router).await;
    }))
}

/// A page that is being written.
#[derive(Debug, Default)]
pub(super) struct Page(String);

/// A metric on the page.
#[derive(Debug)]
pub(super) struct Metric<'a> {
    page: &'a mut String,
    name: String,
}

impl Page {
    /// A number that only grows.
    pub(super) fn counter(&mut self, name: &str, help: &str) -> Metric<'_> {
        self.metric(name, help, "counter")
    }

    /// A number that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str) -> Metric<'_> {
        self.metric(name, help, "gauge")
    }

    /// A sum and how many it is of.
    pub(super) fn summary(&mut self, name: &str, help: &str, (sum, count): (f64, &AtomicU64)) {
        let metric = self.metric(name, help, "summary");
        let (page, count) = (metric.page, count.load(Ordering::Relaxed));
        let _ = writeln!(page, "{name}_sum {sum}\n{name}_count {count}");
    }

    fn metric(&mut self, name: &str, help: &str, kind: &str) -> Metric<'_> {
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { page: &mut self.0, name: name.to_owned() }
    }

    /// What has been written.
    pub(super) fn text(self) -> String {
        self.0
    }
}

impl Metric<'_> {
    /// A value under labels.
    pub(super) fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.page, "{}{labels} {value}", self.name);
    }

    /// A value for each of a label's values.
    pub(super) fn values(&mut self, label: &str, values: &BTreeMap<String, u64>) {
        for (name, value) in values {
            self.value(&[(label, name)], *value as f64);
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn prometheus_is_answered_and_a_port_has_one_owner() {
        crate::http::init_tls();
        let metrics = Arc::new(Metrics::default());
        let (address, serving) = serve("127.0.0.1:0".parse().unwrap(), Arc::clone(&metrics)).await.unwrap();
        let serving = tokio::spawn(serving);
        metrics.ended("completed");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://{address}/metrics")).send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], TYPE);
        assert!(answer.text().await.unwrap().contains("agent_tasks_total{status=\"completed\"} 1\n"));
        let other = client.get(format!("http://{address}/")).send().await.unwrap();
        assert_eq!(other.status(), 404);
        let taken = serve(address, metrics).await.map(|_| ()).unwrap_err();
        assert_eq!(taken.kind(), Kind::Conflict);
        serving.abort();
    }
}

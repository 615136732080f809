//! The worker as the server knows it: registered, reported every half minute with what the machine does, unregistered.
//!
//! A daemon is a worker; a task that runs beside others (services, dynamic GPUs) has a worker of its own, which its unit
//! reports. What its GPUs do is told here, for in an image nobody asks the driver. Nothing here fails a run: a report that does not arrive is followed by the next one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::clearml::{ApiError, Client};
use crate::gpu::{self, Discovery, GpuSet};
use crate::machine::{Machine, Sample};

/// How often a worker is reported.
pub const EVERY: Duration = Duration::from_secs(30);
/// After how many failures in a row the driver is not asked any more.
const PATIENCE: u32 = 3;
/// "Unable to find endpoint": the free server has no runtime properties.
const NO_ENDPOINT: (u16, i64) = (404, 0);

/// What a worker works on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Busy {
    /// The task's id.
    pub task: String,
    /// The id of the queue it came from.
    pub queue: Option<String>,
}

/// A worker of a run beside others, and its GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// The worker's id.
    pub worker: String,
    /// The id of its task.
    pub task: String,
    /// Its devices.
    pub gpus: GpuSet,
}

/// Asks the driver what its devices do; nothing where it does not answer. May block.
type Driver = Box<dyn Fn() -> Option<Discovery> + Send + Sync>;

/// A daemon's worker.
#[derive(Clone)]
pub struct Worker(Arc<Inner>);

struct Inner {
    client: Client,
    id: String,
    queues: Mutex<Vec<String>>,
    tags: Vec<String>,
    gpus: GpuSet,
    machine: Machine,
    counted: Mutex<Counted>,
    busy: Mutex<Option<Busy>>,
    beside: Mutex<Vec<Beside>>,
    driver: Driver,
    /// One report at a time: what is said last is what holds.
    sending: tokio::sync::Mutex<()>,
}

/// Counters of the last report, and how often the driver failed since it last answered.
struct Counted {
    sample: Sample,
    failures: u32,
}

impl Worker {
    /// A worker; nothing is told yet. `machine` is what statistics are of, `gpus` those that count.
    #[must_use]
    pub fn new(client: Client, id: String, queues: Vec<String>, tags: Vec<String>, place: (Machine, GpuSet)) -> Self {
        Self::asking(client, id, (queues, tags), place, Box::new(|| gpu::discover().ok()))
    }

    fn asking(
        client: Client,
        id: String,
        (queues, tags): (Vec<String>, Vec<String>),
        (machine, gpus): (Machine, GpuSet),
        driver: Driver,
    ) -> Self {
        let counted = Mutex::new(Counted { sample: machine.sample(), failures: 0 });
        let (queues, sending) = (Mutex::new(queues), tokio::sync::Mutex::default());
        let (busy, beside) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { client, id, queues, tags, gpus, machine, counted, busy, beside, driver, sending }))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Notes which queues it serves from now on, by their ids; the next report says so.
    pub fn serves(&self, queues: Vec<String>) {
        *self.0.queues.lock().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    fn queues(&self) -> Vec<String> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what it works on; the next report says so.
    pub fn works_on(&self, busy: Option<Busy>) {
        *self.0.busy.lock().unwrap_or_else(PoisonError::into_inner) = busy;
    }

    /// Notes which workers there are beside it from now on whose GPUs are to be told of.
    pub fn runs_beside(&self, others: Vec<Beside>) {
        *self.0.beside.lock().unwrap_or_else(PoisonError::into_inner) = others;
    }

    fn beside(&self) -> Vec<Beside> {
        self.0.beside.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the server that there is such a worker.
    ///
    /// # Errors
    /// What [`Client::call`] gives.
    pub async fn register(&self) -> Result<(), ApiError> {
        let body = json!({ "worker": self.0.id, "queues": self.queues(), "tags": self.0.tags });
        self.0.client.call("workers.register", &body).await.map(drop)
    }

    /// Tells what it works on, and what the machine has done since the last report.
    ///
    /// # Errors
    /// What [`Client::call`] gives.
    pub async fn report(&self) -> Result<(), ApiError> {
        let it = self.clone();
        // The driver may take its time.
        let asked = tokio::task::spawn_blocking(move || it.statistics()).await;
        let (stats, others) = asked.unwrap_or_default();
        self.send(stats).await?;
        for (other, stats) in others {
            self.send_of(&other, stats).await?;
        }
        Ok(())
    }

    /// Tells what it works on, at once and without statistics.
    ///
    /// # Errors
    /// What [`Client::call`] gives.
    pub async fn says(&self) -> Result<(), ApiError> {
        self.send(Value::Null).await
    }

    /// The ids of all workers that the server lists.
    ///
    /// # Errors
    /// What [`Client::call`] gives.
    pub async fn listed(&self) -> Result<Vec<String>, ApiError> {
        let data = self.0.client.call("workers.get_all", &json!({ "last_seen": 0 })).await?;
        let workers = data.get("workers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(workers.iter().filter_map(|it| it.get("id")?.as_str()).map(str::to_owned).collect())
    }

    /// Tells the server that a worker, this one or one beside it, is gone.
    ///
    /// # Errors
    /// What [`Client::call`] gives.
    pub async fn unregister(&self, id: &str) -> Result<(), ApiError> {
        let _alone = self.0.sending.lock().await;
        // The same devices may be another run's by now.
        if self.beside().iter().any(|it| it.worker == id) {
            return Ok(());
        }
        let body = json!({ "worker": id, "queues": self.queues() });
        self.0.client.call("workers.unregister", &body).await.map(drop)
    }

    async fn send(&self, stats: Value) -> Result<(), ApiError> {
        let _alone = self.0.sending.lock().await;
        let busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut body = json!({
            "worker": self.0.id, "queues": self.queues(), "tags": self.0.tags, "is_daemon": true,
            "timestamp": now(), "machine_stats": stats,
        });
        if let Some(Busy { task, queue }) = busy {
            body["task"] = json!(task);
            if let Some(queue) = queue {
                body["queue"] = json!(queue);
            }
        }
        self.0.client.call("workers.status_report", &body).await.map(drop)
    }

    /// Tells of a worker beside this one, if it is still there: a report would bring one back that is gone.
    async fn send_of(&self, other: &Beside, stats: Value) -> Result<(), ApiError> {
        let _alone = self.0.sending.lock().await;
        if !self.beside().contains(other) {
            return Ok(());
        }
        // Queues that are not named stay as they are.
        let body = json!({
            "worker": other.worker, "task": other.task, "tags": self.0.tags, "is_daemon": false,
            "timestamp": now(), "machine_stats": stats,
        });
        self.0.client.call("workers.status_report", &body).await.map(drop)
    }

    /// What the machine does, and what the GPUs of the workers beside this one do.
    fn statistics(&self) -> (Value, Vec<(Beside, Value)>) {
        let mut counted = self.0.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.0.machine.sample();
        let mut stats = self.0.machine.report(&counted.sample, &now);
        counted.sample = now;
        let mut others = Vec::new();
        if !self.0.gpus.is_empty() && counted.failures < PATIENCE {
            match (self.0.driver)() {
                Some(found) => {
                    counted.failures = 0;
                    add_gpus(&mut stats, &found, &self.0.gpus);
                    for other in self.beside() {
                        let mut figures = json!({});
                        add_gpus(&mut figures, &found, &other.gpus);
                        others.push((other, figures));
                    }
                }
                None => counted.failures += 1,
            }
        }
        (stats, others)
    }
}

/// The moment in milliseconds; whole seconds, as the original sends them.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() * 1000
}

/// The figures of the GPUs that count, in the order they are numbered in; megabytes and per cent. A device that does
/// not tell how busy it is counts as busy, as the original has it.
fn add_gpus(stats: &mut Value, found: &Discovery, gpus: &GpuSet) {
    let Discovery::Found(inventory) = found else { return };
    let megabytes = |bytes: u64| (bytes as f64 / 1_048_576.0).round();
    let (mut usage, mut used, mut free, mut heat) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for wanted in &gpus.devices {
        let Some(device) = inventory.devices.iter().find(|it| it.uuid == wanted.uuid) else { continue };
        usage.push(device.utilization.unwrap_or(100));
        heat.extend(device.temperature);
        if let (Some(total), Some(taken)) = (device.memory_total, device.memory_used) {
            used.push(megabytes(taken));
            free.push(megabytes(total.saturating_sub(taken)));
        }
    }
    stats["gpu_usage"] = json!(usage);
    stats["gpu_memory_used"] = json!(used);
    stats["gpu_memory_free"] = json!(free);
    if !heat.is_empty() {
        stats["gpu_temperature"] = json!(heat);
    }
}

/// Properties that others set on a worker, and that it sets for others to see. Servers without them are asked once.
#[derive(Debug)]
pub struct Properties {
    supported: bool,
    asked: Option<Instant>,
    every: Duration,
    forced: Option<(bool, Option<Instant>)>,
    told: Vec<(&'static str, String)>,
}

impl Properties {
    /// Nothing is known yet; asked `every` so often.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { supported: true, asked: None, every, forced: None, told: Vec::new() }
    }

    /// What the property `force` says, until it expires.
    #[must_use]
    pub fn forced(&self, now: Instant) -> Option<bool> {
        self.forced.filter(|(_, until)| until.is_none_or(|it| now < it)).map(|it| it.0)
    }

    /// Asks for the properties, if it is time to.
    ///
    /// # Errors
    /// What [`Client::call`] gives; a server without properties is no error.
    pub async fn refresh(&mut self, client: &Client, worker: &str, now: Instant) -> Result<(), ApiError> {
        if !self.supported || self.asked.is_some_and(|it| now.duration_since(it) < self.every) {
            return Ok(());
        }
        match client.call("workers.get_runtime_properties", &json!({ "worker": worker })).await {
            Ok(data) => {
                self.asked = Some(now);
                self.forced = forced(&data, now);
                Ok(())
            }
            Err(error) if error.is(NO_ENDPOINT) => {
                self.supported = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sets a property of the worker, if it is not set to that already.
    ///
    /// # Errors
    /// What [`Client::call`] gives; a server without properties is no error.
    pub async fn tell(
        &mut self,
        client: &Client,
        worker: &str,
        key: &'static str,
        value: String,
    ) -> Result<(), ApiError> {
        if !self.supported || self.told.iter().any(|it| it.0 == key && it.1 == value) {
            return Ok(());
        }
        let properties = json!([{ "key": key, "value": value }]);
        let body = json!({ "worker": worker, "runtime_properties": properties });
        match client.call("workers.set_runtime_properties", &body).await {
            Ok(_) => {
                self.told.retain(|it| it.0 != key);
                self.told.push((key, value));
                Ok(())
            }
            Err(error) if error.is(NO_ENDPOINT) => {
                self.supported = false;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// The property `force`: `on` or `off`; `expiry` is the seconds it has left.
fn forced(data: &Value, now: Instant) -> Option<(bool, Option<Instant>)> {
    let properties = data.get("runtime_properties")?.as_array()?;
    let property = properties.iter().find(|it| it.get("key").and_then(Value::as_str) == Some("force"))?;
    let on = match property.get("value")?.as_str()? {
        "on" => true,
        "off" => false,
        _ => return None,
    };
    let left = property.get("expiry").and_then(Value::as_f64).filter(|it| it.is_finite());
    let until = left.map(|it| now + Duration::from_secs_f64(it.clamp(0.0, 1e9)));
    Some((on, until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clearml::testing::{client, serve};
    use crate::gpu::{Gpu, GpuDevice, Inventory};

    #[tokio::test]
    async fn a_report_has_the_originals_fields() {
        let (url, calls) = serve(|_| Ok(json!({ "token": "t" })));
        let place = (Machine::new("/"), GpuSet::default());
        let worker = Worker::new(client(url), "vm:0".to_owned(), vec!["q".to_owned()], vec!["a tag".to_owned()], place);
        worker.register().await.unwrap();
        let busy = Busy { task: "t1".to_owned(), queue: Some("q".to_owned()) };
        worker.works_on(Some(busy));
        worker.report().await.unwrap();
        worker.works_on(None);
        worker.says().await.unwrap();
        worker.unregister(worker.id()).await.unwrap();
        let calls = calls.lock().unwrap();
        let body = |at: usize| serde_json::from_slice::<Value>(&calls[at].body).unwrap();
        assert_eq!(body(1), json!({ "worker": "vm:0", "queues": ["q"], "tags": ["a tag"] }));
        let report = body(2);
        assert!(report["machine_stats"]["memory_used"].is_number(), "{report}");
        assert!(report["machine_stats"].get("gpu_usage").is_none());
        assert_eq!(report["timestamp"].as_u64().unwrap() % 1000, 0);
        let said = [&report["task"], &report["queue"], &report["queues"], &report["is_daemon"]];
        assert_eq!(said, [&json!("t1"), &json!("q"), &json!(["q"]), &json!(true)]);
        assert!(body(3).get("task").is_none() && body(3)["machine_stats"].is_null());
        assert!(calls[4].path.ends_with("workers.unregister"));
    }

    fn device(index: u32) -> GpuDevice {
        GpuDevice { index, uuid: format!("GPU-{index}"), instance: None }
    }

    fn found() -> Discovery {
        let gpu = |index: u32, used: u64, utilization| Gpu {
            index,
            uuid: format!("GPU-{index}"),
            name: "G".to_owned(),
            brand: None,
            minor: None,
            memory_total: Some(100 << 20),
            memory_used: Some(used << 20),
            compute_capability: None,
            utilization,
            temperature: utilization.map(|it| it + 30),
            processes: Vec::new(),
            mig: false,
            instances: Vec::new(),
        };
        let devices = vec![gpu(0, 1, Some(5)), gpu(1, 2, None), gpu(2, 40, Some(70))];
        Discovery::Found(Inventory { driver: "1".to_owned(), cuda: "12.4".to_owned(), devices, lost: Vec::new() })
    }

    #[tokio::test]
    async fn what_the_gpus_of_runs_beside_each_other_do_is_told_of_their_own_workers() {
        let (url, calls) = serve(|_| Ok(json!({ "token": "t" })));
        let place = (Machine::new("/"), GpuSet { devices: vec![device(0), device(1), device(2)] });
        let names = (vec!["q".to_owned()], vec!["a tag".to_owned()]);
        let worker = Worker::asking(client(url), "vm:dgpu0,1,2".to_owned(), names, place, Box::new(|| Some(found())));
        let beside = |id: &str, task: &str, gpus: &[u32]| Beside {
            worker: id.to_owned(),
            task: task.to_owned(),
            gpus: GpuSet { devices: gpus.iter().map(|it| device(*it)).collect() },
        };
        worker.runs_beside(vec![beside("vm:gpu0", "a", &[0]), beside("vm:gpu1,2", "b", &[1, 2])]);
        worker.report().await.unwrap();
        // One that is gone meanwhile is not brought back.
        let gone = beside("vm:gpu0", "a", &[0]);
        worker.runs_beside(Vec::new());
        worker.unregister("vm:gpu0").await.unwrap();
        worker.send_of(&gone, json!({})).await.unwrap();
        let calls = calls.lock().unwrap();
        let bodies: Vec<Value> = calls.iter().skip(1).map(|it| serde_json::from_slice(&it.body).unwrap()).collect();
        assert_eq!(bodies.len(), 4);
        assert_eq!(
            (&bodies[0]["worker"], &bodies[0]["machine_stats"]["gpu_usage"]),
            (&json!("vm:dgpu0,1,2"), &json!([5, 100, 70]))
        );
        let told =
            |at: usize| [&bodies[at]["worker"], &bodies[at]["task"], &bodies[at]["tags"], &bodies[at]["is_daemon"]];
        assert_eq!(told(1), [&json!("vm:gpu0"), &json!("a"), &json!(["a tag"]), &json!(false)]);
        assert_eq!(told(2), [&json!("vm:gpu1,2"), &json!("b"), &json!(["a tag"]), &json!(false)]);
        let expected = json!({
            "gpu_usage": [100, 70], "gpu_memory_used": [2.0, 40.0], "gpu_memory_free": [98.0, 60.0],
            "gpu_temperature": [100],
        });
        assert_eq!(bodies[2]["machine_stats"], expected);
        assert!(bodies[1].get("queues").is_none());
    }

    #[test]
    fn the_gpus_that_count_are_told_in_their_order() {
        let mut stats = json!({});
        add_gpus(&mut stats, &found(), &GpuSet { devices: vec![device(2), device(1)] });
        let expected = json!({
            "gpu_usage": [70, 100], "gpu_memory_used": [40.0, 2.0], "gpu_memory_free": [60.0, 98.0],
            "gpu_temperature": [100],
        });
        assert_eq!(stats, expected);
    }

    #[tokio::test]
    async fn a_server_without_properties_is_asked_once() {
        let (url, calls) = serve(|call| match call.path.as_str() {
            "/auth.login" => Ok(json!({ "token": "t" })),
            _ => Err((404, 0, "Unable to find endpoint")),
        });
        let client = client(url);
        let mut properties = Properties::new(Duration::ZERO);
        for _ in 0..3 {
            properties.refresh(&client, "w", Instant::now()).await.unwrap();
            properties.tell(&client, "w", "max_num_instances", "3".to_owned()).await.unwrap();
        }
        assert_eq!(calls.lock().unwrap().len(), 2);
    }

    #[test]
    fn force_counts_until_it_expires() {
        let now = Instant::now();
        let of = |value: &str, expiry: Value| {
            let data = json!({ "runtime_properties": [{ "key": "force", "value": value, "expiry": expiry }] });
            let mut properties = Properties::new(EVERY);
            properties.forced = forced(&data, now);
            [properties.forced(now), properties.forced(now + Duration::from_secs(20))]
        };
        assert_eq!(of("on", Value::Null), [Some(true); 2]);
        assert_eq!(of("off", json!(10)), [Some(false), None]);
        assert_eq!(of("perhaps", Value::Null), [None; 2]);
    }
}

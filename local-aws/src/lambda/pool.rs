//! Processes that wait for their next invocation, and the limit on invocations at the same time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::worker::Worker;
use crate::{disk::lock, server::Cloud};

/// Invocations at the same time in the whole account; more are answered 429.
pub const CONCURRENCY: usize = 64;
/// How long a process waits for another invocation.
const IDLE: Duration = Duration::from_secs(300);

/// Which invocations a process can serve.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The function's id, which its namesake does not share.
    pub function: String,
    /// The version's number or `$LATEST`.
    pub version: String,
    /// Which `$LATEST`; 0 for published versions.
    pub generation: u64,
}

/// The waiting processes.
pub struct Pool {
    idle: Mutex<HashMap<Key, Vec<Worker>>>,
    slots: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            slots: Arc::new(Semaphore::new(CONCURRENCY)),
            stopping: watch::Sender::new(false),
        }
    }
}

impl Pool {
    /// The right to run one invocation; `None` when the limit is reached.
    pub fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// A process that waits for this kind of invocation.
    pub fn take(&self, key: &Key) -> Option<Worker> {
        let mut idle = lock(&self.idle);
        let workers = idle.get_mut(key)?;
        while let Some(worker) = workers.pop() {
            if worker.usable() {
                return Some(worker);
            }
        }
        None
    }

    /// Keeps a process for the next invocation, unless all is ending.
    pub fn put(&self, key: Key, mut worker: Worker) {
        worker.idle_since = std::time::Instant::now();
        let mut idle = lock(&self.idle);
        // Asked under the lock, so that a process cannot slip in after the last look of `kill`.
        if !*self.stopping.borrow() {
            idle.entry(key).or_default().push(worker);
        }
    }

    /// Ends waiting processes whose key is no longer current.
    pub fn retire(&self, stale: impl Fn(&Key) -> bool) {
        lock(&self.idle).retain(|key, _| !stale(key));
    }

    /// Completes when all invocations are to be given up.
    pub async fn stopping(&self) {
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Ends all processes without waiting.
    pub fn kill(&self) {
        self.stopping.send_replace(true);
        lock(&self.idle).clear();
    }

    /// Ends all processes and waits for them.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let idle: Vec<Worker> = lock(&self.idle).drain().flat_map(|(_, workers)| workers).collect();
        for worker in idle {
            worker.stop().await;
        }
        // Invocations in flight give up, end their process and return their slot.
        let all = self.slots.acquire_many(CONCURRENCY as u32);
        let _ = tokio::time::timeout(Duration::from_secs(3), all).await;
    }
}

/// Ends processes that had nothing to do for a while.
pub fn end_idle_workers(cloud: &Arc<Cloud>) {
    let cloud = Arc::downgrade(cloud);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(IDLE / 10).await;
            let Some(cloud) = cloud.upgrade() else { return };
            let mut idle = lock(&cloud.lambda.pool.idle);
            for workers in idle.values_mut() {
                workers.retain(|worker| worker.usable() && worker.idle_since.elapsed() < IDLE);
            }
            idle.retain(|_, workers| !workers.is_empty());
        }
    });
}

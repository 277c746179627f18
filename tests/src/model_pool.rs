//! The real fleet over a real database, with a model of a cloud beneath it: agents
//! are played, and time is skipped instead of waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use browserfleet_control_plane::clock;
use browserfleet_control_plane::domain::health::Figures;
use browserfleet_control_plane::domain::instance::{Instance, Stage, Status};
use browserfleet_control_plane::domain::pool::Reuse;
use browserfleet_control_plane::error::Error;
use browserfleet_control_plane::fleet::authorities::Authorities;
use browserfleet_control_plane::fleet::{Converged, Fleet, Replica, Settings};
use browserfleet_control_plane::relay::{Attached, Link, Newcomer, Relay};
use browserfleet_control_plane::store::Store;
use browserfleet_proto::agent::v1::ToAgent;
use browserfleet_proto::ids::{BootId, InstanceId, LinkId};
use tempfile::TempDir;

use crate::model_provider::ModelProvider;

/// Life of the agents' certificates, of which there are none here.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(60 * 60);
/// How long the pool is given until nothing is left to do.
const SETTLES_IN: Duration = Duration::from_secs(30 * 60);
/// The least that passes between two rounds, as the job has it.
const BREATH: Duration = Duration::from_millis(5);
/// Time between two rounds that fail, as the job has it in the end.
const AFTER_A_FAILURE: Duration = Duration::from_secs(30);
/// An agent's machine that is well.
const WELL: Figures = Figures {
    sessions: 0,
    browsers: 1,
    load_percent: 20,
    processors: 2,
    memory_available: 4 << 30,
    disk_available: 9 << 30,
};

/// What the pool is wanted to be, unless a test says otherwise.
pub const SETTINGS: Settings = Settings {
    warm: 1,
    stopped: 0,
    max: 10,
    sessions_per_instance: 2,
    idle: Duration::from_secs(10 * 60),
    reuse: Reuse::Terminate,
    instances_per_user: 10,
    boot: Duration::from_secs(10 * 60),
};

/// One replica's services.
pub struct ModelReplica {
    /// Its fleet.
    pub fleet: Fleet,
    relay: Arc<Relay>,
    links: HashMap<InstanceId, Linked>,
    folder: TempDir,
}

struct Linked {
    link: Link,
    /// Keeps the link's queue open.
    _socket: Attached,
}

impl ModelReplica {
    async fn open(
        folder: TempDir,
        store: &Store,
        provider: &Arc<ModelProvider>,
        settings: Settings,
    ) -> Self {
        let authorities = Authorities::open(folder.path(), &[], CERTIFICATE_LIFE);
        let relay = Arc::new(Relay::default());
        let fleet = Fleet::open(
            Replica::claim(folder.path()).expect("nobody else has its folder"),
            store.clone(),
            Arc::clone(&relay),
            Arc::clone(provider) as _,
            authorities.expect("an authority can be made"),
            settings,
        );
        Self {
            fleet: fleet.await.expect("the database answers"),
            relay,
            links: HashMap::new(),
            folder,
        }
    }

    /// Agents that have booted say so, those that live say that, and those whose
    /// machines are gone are heard no more.
    ///
    /// # Panics
    /// Where the database does not answer.
    pub async fn play_agents(&mut self, provider: &ModelProvider, silent: &[InstanceId]) {
        let mut booted: Vec<InstanceId> = provider.booted().iter().map(|it| it.instance).collect();
        booted.retain(|it| !silent.contains(it));
        let gone: Vec<InstanceId> = self.links.keys().copied().collect();
        for instance in gone.into_iter().filter(|it| !booted.contains(it)) {
            if let Some(linked) = self.links.remove(&instance) {
                self.relay.detach(&linked.link);
                self.fleet.went_down(instance);
            }
        }
        for instance in booted {
            let may = self.fleet.may_connect(instance).await;
            if !may.expect("the database answers") {
                continue;
            }
            if !self.links.contains_key(&instance) {
                self.link(instance).await;
            }
            let heard = self.fleet.heard(instance, WELL).await;
            heard.expect("the database answers");
        }
    }

    /// Its name among the replicas of the database.
    ///
    /// # Panics
    /// Where it has none.
    #[must_use]
    pub fn name(&self) -> String {
        let name = std::fs::read_to_string(self.folder.path().join("replica"));
        name.expect("it has claimed its folder")
    }

    async fn link(&mut self, instance: InstanceId) {
        let boot = BootId::new();
        let newcomer = Newcomer {
            link: LinkId::new(),
            instance,
            boot,
        };
        let socket = self.relay.attach(newcomer, ToAgent::default());
        let up = self.fleet.came_up(instance, boot, &[]).await;
        up.expect("the database answers");
        let linked = Linked {
            link: socket.link.clone(),
            _socket: socket,
        };
        self.links.insert(instance, linked);
    }
}

/// A pool.
pub struct ModelPool {
    /// The database.
    pub store: Store,
    /// The cloud.
    pub provider: Arc<ModelProvider>,
    /// The control plane.
    pub replica: ModelReplica,
    /// What is wanted.
    pub settings: Settings,
    /// Agents that are not heard, whatever their machines do.
    pub silent: Vec<InstanceId>,
    /// Instances that were lost to their sessions, and why.
    pub lost: Arc<Mutex<Vec<(InstanceId, String)>>>,
    /// Rounds so far.
    pub rounds: usize,
}

impl ModelPool {
    /// A pool in an empty database.
    ///
    /// # Panics
    /// Where the database does not answer.
    pub async fn new(url: &str, settings: Settings) -> Self {
        let store = Store::open(url, clock::now()).await;
        let store = store.unwrap_or_else(|error| panic!("{url}: {error}"));
        let provider = Arc::new(ModelProvider::default());
        let folder = TempDir::new().expect("a folder can be made");
        let replica = ModelReplica::open(folder, &store, &provider, settings).await;
        Self {
            store,
            provider,
            replica,
            settings,
            silent: Vec::new(),
            lost: Arc::default(),
            rounds: 0,
        }
    }

    /// The control plane dies, and is started again.
    pub async fn restart(self) -> Self {
        let store = self.store.clone();
        self.restart_over(store).await
    }

    /// The same, over another database.
    pub async fn restart_over(mut self, store: Store) -> Self {
        let ModelReplica { fleet, folder, .. } = self.replica;
        // Its name is free from now on.
        drop(fleet);
        self.replica = ModelReplica::open(folder, &store, &self.provider, self.settings).await;
        self.store = store;
        self
    }

    /// One more replica of the same database.
    ///
    /// # Panics
    /// Where the database does not answer.
    pub async fn another_replica(&self) -> ModelReplica {
        let folder = TempDir::new().expect("a folder can be made");
        ModelReplica::open(folder, &self.store, &self.provider, self.settings).await
    }

    /// One round.
    ///
    /// # Errors
    /// As the fleet has them.
    pub async fn round(&mut self) -> Result<Converged, Error> {
        self.rounds += 1;
        let lost = |instance, reason| {
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.push((instance, reason));
        };
        self.replica.fleet.converge(&lost).await
    }

    /// Rounds for this long, with the agents that live meanwhile. A round that fails is
    /// followed by the next one.
    pub async fn passes(&mut self, duration: Duration) {
        let until = clock::now().plus(duration);
        while clock::now() < until {
            let wait = match self.round().await {
                Ok(done) => done.next.unwrap_or_default(),
                Err(_) => AFTER_A_FAILURE,
            };
            clock::skip(wait.max(BREATH).min(until.since(clock::now())));
            self.replica.play_agents(&self.provider, &self.silent).await;
        }
    }

    /// Rounds until as many instances are ready and nobody's as are wanted, and as many
    /// stopped, and every row is either, or held, or over.
    ///
    /// # Panics
    /// Where that does not come to be.
    pub async fn settles(&mut self) {
        let latest = clock::now().plus(SETTLES_IN);
        loop {
            self.passes(Duration::from_secs(1)).await;
            let rows = self.rows().await;
            let count = |so: &dyn Fn(&Instance) -> bool| rows.iter().filter(|it| so(it)).count();
            let running = count(&|it| it.status == Status::Running);
            let free = count(&|it| it.takes_work() && it.assigned_to.is_none());
            let stopped = count(&|it| it.is_parked_at(Stage::Stopped));
            let wanted = (self.settings.warm as usize, self.settings.stopped as usize);
            if running + stopped == rows.len() && free >= wanted.0 && stopped >= wanted.1 {
                return;
            }
            assert!(clock::now() < latest, "it does not settle: {rows:#?}");
        }
    }

    /// All rows that are not over.
    ///
    /// # Panics
    /// Where the database does not answer.
    pub async fn rows(&self) -> Vec<Instance> {
        self.store.instances().await.expect("the database answers")
    }

    /// The only row that is not over.
    ///
    /// # Panics
    /// Where there is another.
    pub async fn row(&self) -> Instance {
        let mut rows = self.rows().await;
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows.remove(0)
    }

    /// A row, over or not.
    ///
    /// # Panics
    /// Where there is none.
    pub async fn row_of(&self, id: InstanceId) -> Instance {
        let row = self.store.instance(id).await.expect("the database answers");
        row.expect("rows stay")
    }

    /// Machines and rows are one to one.
    ///
    /// # Panics
    /// Where they are not.
    pub async fn is_one_to_one(&self) {
        let rows = self.rows().await;
        let there = rows.iter().filter(|it| it.counts());
        let mut named: Vec<String> = there.filter_map(|it| it.reference.clone()).collect();
        let mut alive = self.provider.alive();
        named.sort();
        alive.sort();
        assert_eq!(named, alive, "{rows:#?}");
    }
}

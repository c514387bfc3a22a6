//! Asking everything that has a say in a launch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use eagleray_base::{Error, Kind, Result};
use eagleray_kube::render::{LAUNCH_LABEL, RUN_LABEL};
use eagleray_store::Store;
use serde_json::Value;

use super::pods::Pod;
use super::situation::{Claim, Events, Job, Ledger, Node, NodeTrouble, Ray, Situation, Workload};
use crate::cluster::Cluster;
use crate::launches::{Launch, Phase};
use crate::resource::{EVENT, NODE, NODE_CLAIM, POD, RAY_CLUSTER, RAY_JOB, Resource, WORKLOAD};

/// How often the store is asked: a listing there costs money, and steps take seconds.
const LEDGER_PERIOD: Duration = Duration::from_secs(15);

/// Where the events of objects without a namespace are.
const EVENTS_OF_NODES: &str = "default";

/// Kueue's label of a `Workload`: the identity of what it stands for.
const JOB_UID_LABEL: &str = "kueue.x-k8s.io/job-uid";

/// Looks at one launch, again and again.
#[derive(Debug)]
pub struct Watcher {
    cluster: Cluster,
    namespace: String,
    launch: String,
    run: String,
    store: Option<Store>,
    ledger: Option<(Instant, Ledger)>,
    /// What cannot be asked, and why: it is not asked again, and told once.
    unseen: BTreeMap<&'static str, String>,
    told: BTreeSet<&'static str>,
}

impl Watcher {
    /// One of a launch whose run has this store. A store that cannot be reached is told of, and done without.
    pub fn new(cluster: &Cluster, launch: &Launch, store: &str) -> Self {
        let mut watcher = Self {
            cluster: cluster.clone(),
            namespace: launch.namespace.clone(),
            launch: launch.name.clone(),
            run: launch.run.clone(),
            store: None,
            ledger: None,
            unseen: BTreeMap::new(),
            told: BTreeSet::new(),
        };
        match Store::open(store) {
            Ok(store) => watcher.store = Some(store),
            Err(error) => watcher.miss("the run's store", &error),
        }
        watcher
    }

    fn miss(&mut self, what: &'static str, error: &Error) {
        self.unseen.entry(what).or_insert_with(|| error.message().to_owned());
    }

    /// What could not be asked, each once.
    pub fn unseen(&mut self) -> Vec<String> {
        let new: Vec<&'static str> =
            self.unseen.keys().copied().filter(|what| !self.told.contains(what)).collect();
        self.told.extend(&new);
        new.into_iter().map(|what| format!("cannot look at {what}: {}", self.unseen[what])).collect()
    }

    /// How things stand.
    ///
    /// # Errors
    /// As [`Cluster::get`], for the launch itself, its cluster and its pods: without these there is nothing to say.
    pub fn look(&mut self, now: i64) -> Result<Situation> {
        match self.cluster.get(RAY_JOB, Some(&self.namespace), &self.launch)? {
            Some(job) => self.look_beside(&job, now),
            None => Ok(Situation { now, launch: self.launch.clone(), ..Situation::default() }),
        }
    }

    /// The same, where the launch itself has just been asked for.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn look_beside(&mut self, job: &Value, now: i64) -> Result<Situation> {
        let mut situation = Situation { now, launch: self.launch.clone(), ..Situation::default() };
        let job = Job::of(job);
        if !job.cluster.is_empty() {
            let cluster = self.cluster.get(RAY_CLUSTER, Some(&self.namespace), &job.cluster)?;
            situation.cluster = cluster.as_ref().map(Ray::of);
        }
        let label = format!("{LAUNCH_LABEL}={}", self.launch);
        let (namespace, pods) = (self.namespace.clone(), &mut situation.pods);
        self.cluster.each(POD, Some(&namespace), (&label, ""), &mut |pod| pods.extend(Pod::of(pod)))?;
        if job.phase.is_over() {
            // Whether all steps are done the job itself does not say.
            if job.phase == Phase::Succeeded && !job.builds {
                situation.ledger = self.ledger();
            }
            situation.job = Some(job);
            return Ok(situation);
        }
        if job.queue.is_some() {
            situation.workload = self.workload(&job.uid)?;
        }
        if matches!(job.phase, Phase::Starting | Phase::Running) {
            situation.claims = self.claims()?;
            situation.nodes = self.nodes(&situation.pods)?;
        }
        situation.events = self.events(&situation)?;
        if job.phase == Phase::Running && !job.builds {
            situation.ledger = self.ledger();
        }
        situation.job = Some(job);
        Ok(situation)
    }

    /// Tells each of something that one may do without: where it is not there, or may not be read.
    fn each(
        &mut self,
        what: &'static str,
        resource: Resource,
        namespace: Option<&str>,
        selectors: (&str, &str),
        tell: &mut dyn FnMut(&serde_json::Value),
    ) -> Result<()> {
        if self.unseen.contains_key(what) {
            return Ok(());
        }
        match self.cluster.each(resource, namespace, selectors, tell) {
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => {
                self.miss(what, &error);
                Ok(())
            }
            other => other,
        }
    }

    fn workload(&mut self, uid: &str) -> Result<Option<Workload>> {
        let (namespace, label) = (self.namespace.clone(), format!("{JOB_UID_LABEL}={uid}"));
        // An elastic job has one for each slice; the newest counts.
        let mut newest: Option<(String, Workload)> = None;
        self.each("Kueue's workloads", WORKLOAD, Some(&namespace), (&label, ""), &mut |found| {
            let created = found["metadata"]["creationTimestamp"].as_str().unwrap_or_default();
            if newest.as_ref().is_none_or(|(before, _)| before.as_str() < created) {
                newest = Some((created.to_owned(), Workload::of(found)));
            }
        })?;
        Ok(newest.map(|(_, workload)| workload))
    }

    fn claims(&mut self) -> Result<Vec<Claim>> {
        let (label, mut claims) = (format!("{RUN_LABEL}={}", self.run), Vec::new());
        self.each("Karpenter's machines", NODE_CLAIM, None, (&label, ""), &mut |claim| {
            claims.extend(Claim::of(claim));
        })?;
        Ok(claims)
    }

    fn nodes(&mut self, pods: &[Pod]) -> Result<Vec<Node>> {
        let mut absent: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.node.as_deref()).collect();
        if absent.is_empty() {
            return Ok(Vec::new());
        }
        let mut troubled = Vec::new();
        let what = "nodes";
        let ours = absent.clone();
        self.each(what, NODE, None, ("", ""), &mut |node| {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            absent.remove(name);
            if ours.contains(name) {
                troubled.extend(Node::of(node));
            }
        })?;
        if !self.unseen.contains_key(what) {
            let gone =
                absent.into_iter().map(|name| Node { name: name.to_owned(), trouble: NodeTrouble::Absent });
            troubled.extend(gone);
        }
        Ok(troubled)
    }

    fn events(&mut self, situation: &Situation) -> Result<Vec<super::situation::Event>> {
        let pods: BTreeSet<&str> = situation.pods.iter().map(|pod| pod.name.as_str()).collect();
        let cluster = situation.cluster.as_ref().map(|cluster| cluster.name.clone());
        let (namespace, launch, run) = (self.namespace.clone(), self.launch.clone(), self.run.clone());
        let mut events = Events::default();
        self.each("events", EVENT, Some(&namespace), ("", "type=Warning"), &mut |event| {
            let about = &event["involvedObject"];
            let name = about["name"].as_str().unwrap_or_default();
            let ours = match about["kind"].as_str() {
                Some("Pod") => pods.contains(name),
                Some("RayJob") => name == launch,
                Some("RayCluster") => cluster.as_deref() == Some(name),
                _ => false,
            };
            if ours {
                events.add(event);
            }
        })?;
        // A machine that EC2 had no room for is deleted at once: its event is all that is left of it.
        let prefix = format!("{run}-");
        for fields in
            ["type=Warning,involvedObject.kind=NodeClaim", "type=Warning,involvedObject.kind=NodePool"]
        {
            self.each("events of machines", EVENT, Some(EVENTS_OF_NODES), ("", fields), &mut |event| {
                let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
                if name.starts_with(&prefix) {
                    events.add(event);
                }
            })?;
        }
        Ok(events.list())
    }

    fn ledger(&mut self) -> Option<Ledger> {
        if let Some((asked, ledger)) = &self.ledger
            && asked.elapsed() < LEDGER_PERIOD
        {
            return Some(ledger.clone());
        }
        let store = self.store.clone()?;
        let read = || -> Result<Ledger> {
            let recent = eagleray_run::recent::recent(&store)?;
            let saves = eagleray_checkpoint::list(&store)?;
            let checkpoint = saves.iter().find(|save| save.newest).map(|save| save.step);
            Ok(Ledger { recent, checkpoint })
        };
        match read() {
            Ok(ledger) => {
                self.ledger = Some((Instant::now(), ledger.clone()));
                Some(ledger)
            }
            Err(error) => {
                self.miss("the run's store", &error);
                // A store that is away may come back; one that may not be read will not.
                if error.kind() != Kind::Unavailable {
                    self.store = None;
                }
                None
            }
        }
    }
}

//! Where the ranks of a run are, told on its store while they train.
//!
//! A run's workers are processes of a Ray cluster that only its driver knows. Whoever wants to look at them beside
//! the job needs the cluster's address and, for each rank, its node and process: one small object for each attempt,
//! written once all ranks of a world have come, replaced by the next world's, and removed at the end.

use eagleray_base::{Error, Result};
use eagleray_store::Store;
use serde::{Deserialize, Serialize};

use crate::claim::{self, Claim, End};
use crate::{paths, runs};

const FORMAT: &str = "eagleray.world";
const VERSION: u32 = 1;

/// The ranks that train together, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// The attempt that they belong to.
    pub attempt: u32,
    /// Which world of the attempt this is, from 0.
    pub generation: u32,
    /// The Ray cluster.
    pub ray: Cluster,
    /// One place for each rank, in order of rank.
    pub ranks: Vec<Place>,
}

/// How to reach a Ray cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// `host:port` of its control store.
    pub address: String,
    /// The version of Ray.
    pub version: String,
    /// `token` where the cluster wants one, else `disabled`. The token itself is with the user, never here.
    pub auth: String,
}

/// Where a rank is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Ray's name of the node, in hexadecimal.
    pub node: String,
    /// The node's IP address.
    pub address: String,
    /// The worker's process on the node.
    pub pid: u32,
    /// Its number among the ranks of the node.
    pub local_rank: u32,
    /// The GPUs that it holds, as `CUDA_VISIBLE_DEVICES` names them on the node.
    pub gpus: Vec<String>,
}

/// As it lies on the store.
#[derive(Serialize, Deserialize)]
struct Written {
    format: String,
    format_version: u32,
    #[serde(flatten)]
    world: World,
}

/// What is read before anything else is believed.
#[derive(Deserialize)]
struct Heading {
    format: String,
    format_version: u32,
}

/// Writes down where the ranks are, in the place of what this attempt wrote before.
///
/// # Errors
/// As the store.
pub fn put(store: &Store, world: &World) -> Result<()> {
    let written = Written { format: FORMAT.to_owned(), format_version: VERSION, world: world.clone() };
    let json = serde_json::to_vec_pretty(&written)
        .map_err(|error| Error::internal(format!("the world of an attempt: {error}")))?;
    store.put(&paths::world(world.attempt), json)
}

/// Takes back what an attempt wrote.
///
/// # Errors
/// As the store.
pub fn remove(store: &Store, attempt: u32) -> Result<()> {
    store.delete(&paths::world(attempt))
}

/// What an attempt has written, if it has.
///
/// # Errors
/// As the store; `Corrupt` naming an object that cannot be read, `Invalid` for one of a newer version.
pub fn of_attempt(store: &Store, attempt: u32) -> Result<Option<World>> {
    let path = paths::world(attempt);
    if store.head(&path)?.is_none() {
        return Ok(None);
    }
    let bytes = store.get(&path)?;
    let place = || format!("`{}`", store.url_of(&path));
    let damaged = |why: &str| Error::corrupt(format!("{} is not the world of an attempt: {why}", place()));
    let heading: Heading = serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
    if heading.format != FORMAT {
        return Err(damaged(&format!("expected format `{FORMAT}`, found `{}`", heading.format)));
    }
    if heading.format_version > VERSION {
        let found = heading.format_version;
        let message = format!("{} has version {found}: expected {VERSION} or older", place());
        return Err(
            Error::invalid(message).with_hint("use the version of eagleray that wrote it, or a newer one")
        );
    }
    let Written { world, .. } =
        serde_json::from_slice(&bytes).map_err(|error| damaged(&error.to_string()))?;
    if world.attempt != attempt || world.ranks.is_empty() || world.ray.address.is_empty() {
        return Err(damaged("attempt, ranks or address are missing or another's"));
    }
    Ok(Some(world))
}

/// The world of a run that trains now.
///
/// # Errors
/// `NotFound` for what is no run, has not started, or has ended; `Unavailable` where workers are not up yet; as
/// [`of_attempt`].
pub fn of_running(store: &Store) -> Result<World> {
    let url = store.url();
    let Some(newest) = claim::all(store)?.pop() else {
        return Err(Error::not_found(format!("no run has started in `{url}`")).with_hint(
            "give the `store` of a run's spec, and start it with `eagleray train RUN.YAML`; `eagleray runs DIR` lists runs",
        ));
    };
    if let Some(end) = claim::end_of(store, newest.attempt)? {
        return Err(ended(url, &newest, &end));
    }
    let Claim { attempt, .. } = newest;
    if !claim::is_alive(store, &newest, &runs::this_host())? {
        let (host, pid) = (&newest.claimant.host, newest.claimant.pid);
        let message = format!(
            "run `{url}` is not running: the driver of attempt {attempt} (host {host}, process {pid}) gives no sign of life"
        );
        return Err(Error::not_found(message)
            .with_hint("`eagleray train` with the same spec goes on from the newest checkpoint"));
    }
    of_attempt(store, attempt)?.ok_or_else(|| {
        Error::unavailable(format!(
            "run `{url}` is starting: the workers of attempt {attempt} are not up yet"
        ))
        .with_hint("try again when the run has taken its first step")
    })
}

fn ended(url: &str, newest: &Claim, end: &End) -> Error {
    let hint = if end.outcome == "completed" {
        "what it left is in its checkpoints, and in `eagleray report`"
    } else {
        "`eagleray train` with the same spec goes on"
    };
    let (attempt, End { outcome, step, .. }) = (newest.attempt, end);
    Error::not_found(format!("run `{url}` has ended: attempt {attempt} is {outcome} at step {step}"))
        .with_hint(hint)
}

#[cfg(test)]
mod tests {
    use eagleray_base::Kind;
    use serde_json::Map;

    use super::*;
    use crate::Claimant;

    fn world(attempt: u32) -> World {
        let place = |rank: u32| Place {
            node: "31725c515d74a24814ef1e6ab81bf11ac72a351d6d55be211df733c2".to_owned(),
            address: "10.0.0.7".to_owned(),
            pid: 4711 + rank,
            local_rank: rank,
            gpus: vec![rank.to_string()],
        };
        let ray = Cluster {
            address: "10.0.0.1:6379".to_owned(),
            version: "2.60.0".to_owned(),
            auth: "token".to_owned(),
        };
        World { attempt, generation: 1, ray, ranks: vec![place(0), place(1)] }
    }

    fn store(name: &str) -> Store {
        Store::open(&format!("memory://world-{name}")).unwrap()
    }

    fn claim_by(store: &Store, pid: u32) {
        let host = runs::this_host();
        let claimant = Claimant { host, pid, take_over: false, other: Map::new() };
        claim::claim(store, &claimant, || Ok(None)).unwrap();
    }

    fn refusal(store: &Store) -> (Kind, String) {
        let error = of_running(store).unwrap_err();
        assert!(error.hint().is_some() || error.kind() == Kind::Corrupt, "{error}");
        (error.kind(), error.message().to_owned())
    }

    #[test]
    fn a_running_attempt_is_found_until_it_ends() {
        let store = store("running");
        let (kind, message) = refusal(&store);
        assert_eq!(kind, Kind::NotFound);
        assert!(message.contains("no run has started"), "{message}");
        claim_by(&store, std::process::id());
        assert_eq!(refusal(&store).0, Kind::Unavailable);
        put(&store, &world(1)).unwrap();
        assert_eq!(of_running(&store).unwrap(), world(1));
        claim::finish(&store, 1, &End { outcome: "completed".into(), step: 60, ended_us: 0 }).unwrap();
        assert!(refusal(&store).1.ends_with("has ended: attempt 1 is completed at step 60"));
    }

    #[test]
    fn what_a_driver_that_died_left_is_not_believed() {
        let store = store("dead");
        claim_by(&store, 1 << 30);
        put(&store, &world(1)).unwrap();
        let (kind, message) = refusal(&store);
        assert_eq!(kind, Kind::NotFound);
        assert!(message.contains("gives no sign of life"), "{message}");
        // Nor does it pass for the next attempt's.
        claim_by(&store, std::process::id());
        assert_eq!(refusal(&store).0, Kind::Unavailable);
    }

    #[test]
    fn rubbish_and_newer_versions_are_refused_by_name() {
        let store = store("rubbish");
        claim_by(&store, std::process::id());
        let newer = serde_json::json!({"format": FORMAT, "format_version": 2}).to_string();
        let empty = serde_json::json!({"format": FORMAT, "format_version": 1, "attempt": 1}).to_string();
        for (text, kind) in [
            ("rubbish", Kind::Corrupt),
            ("{}", Kind::Corrupt),
            (r#"{"format": "eagleray.claim", "format_version": 1}"#, Kind::Corrupt),
            (newer.as_str(), Kind::Invalid),
            (empty.as_str(), Kind::Corrupt),
        ] {
            store.put(&paths::world(1), text.to_owned()).unwrap();
            let (found, message) = refusal(&store);
            assert_eq!(found, kind, "{text}: {message}");
            assert!(message.contains("world/0001.json"), "{message}");
        }
    }

    #[test]
    fn the_form_is_frozen_and_no_claim() {
        let store = store("form");
        put(&store, &world(1)).unwrap();
        let written = String::from_utf8_lossy(&store.get("world/0001.json").unwrap()).into_owned();
        assert_eq!(written, include_str!("../tests/golden/world.json"));
        assert_eq!(paths::attempt_of_claim(&paths::world(1)), None);
        assert!(claim::all(&store).unwrap().is_empty());
        remove(&store, 1).unwrap();
        assert_eq!(of_attempt(&store, 1).unwrap(), None);
    }
}

//! Clusters that people made and nobody uses.
//!
//! Only their heads know. What runs is in the list of Ray's job API, the drivers of notebooks and prompts too, which
//! nobody submitted; so a notebook that is open and connected is no idle cluster. Actors that outlive their driver,
//! as those of Ray Serve, are in no such list: one more reason to leave the end to people.

use std::time::Duration;

use eagleray_base::{Error, Result};
use serde_json::Value;

use super::Holdings;
use crate::cluster::Cluster;
use crate::driver::{ask_head, unready};
use crate::resource::RAY_CLUSTER;

/// So long a head may take for its list of jobs, which is short.
const PATIENCE: Duration = Duration::from_secs(15);

/// The states of a job that is over; what else Ray may say is taken for alive.
const OVER: [&str; 3] = ["STOPPED", "SUCCEEDED", "FAILED"];

/// Asks the heads of clusters of ours that stand alone what they do, and notes which have had nothing to do for longer
/// than `patience`. Of one that cannot be asked nothing is claimed, and that is said.
pub fn ask_heads(cluster: &Cluster, held: &mut Holdings, now: i64, patience: Duration) {
    let patience = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
    let is_long = |since: i64| now > since.saturating_add(patience);
    let pods = &held.pods;
    for ray in &mut held.clusters {
        let name = &ray.name;
        let heads =
            pods.iter().filter(|pod| pod.cluster == name.name && pod.name.namespace == name.namespace);
        // A head that was replaced has forgotten what ran before it.
        let began = heads.filter_map(|pod| pod.head_since).fold(name.created, i64::max);
        let matters = ray.alone && name.run.is_some() && name.deleting.is_none();
        if !matters || !is_long(began) {
            continue;
        }
        match idle_since(cluster, &name.namespace, &name.name, began) {
            Ok(since) => ray.idle = since.filter(|since| is_long(*since)),
            Err(error) => held.unseen.push(format!(
                "cannot ask the head of `{}` whether anything runs on it: {}",
                name.name,
                error.message()
            )),
        }
    }
}

/// Since when nothing has run; none where something does, or where nothing is held.
fn idle_since(cluster: &Cluster, namespace: &str, name: &str, began: i64) -> Result<Option<i64>> {
    let Some(ray) = cluster.get(RAY_CLUSTER, Some(namespace), name)? else { return Ok(None) };
    if ray["spec"]["suspend"] == true {
        return Ok(None);
    }
    if let Some(why) = unready(&ray) {
        return Err(Error::unavailable(format!("it is not ready: {why}")));
    }
    last_end(&ask_head(cluster, &ray, "/api/jobs/", PATIENCE)?, began)
}

/// The end of the last of these jobs, or `began` where that is later; none where one runs.
fn last_end(jobs: &Value, began: i64) -> Result<Option<i64>> {
    let jobs = jobs.as_array().ok_or_else(|| Error::unavailable("its answer is no list of jobs"))?;
    let mut last = began;
    for job in jobs {
        if !job["status"].as_str().is_some_and(|status| OVER.contains(&status)) {
            return Ok(None);
        }
        // Zero where Ray does not know.
        let ended = job["end_time"].as_i64().filter(|ended| *ended > 0);
        let ended =
            ended.ok_or_else(|| Error::unavailable("a job of it is over, and nobody knows since when"))?;
        last = last.max(ended / 1_000);
    }
    Ok(Some(last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::watch::tests::anything::any_json;

    fn job(kind: &str, status: &str, ended: &Value) -> Value {
        json!({"type": kind, "status": status, "start_time": 1_000, "end_time": ended})
    }

    #[test]
    fn what_runs_and_what_ended_counts_whoever_began_it() {
        let ended = [
            job("SUBMISSION", "FAILED", &json!(9_000_000)),
            job("DRIVER", "SUCCEEDED", &json!(7_000_999)),
            job("SUBMISSION", "STOPPED", &json!(8_000_000)),
        ];
        let of = |more: Value| {
            let jobs: Vec<Value> = ended.iter().cloned().chain([more]).collect();
            last_end(&jobs.into(), 100)
        };
        assert_eq!(last_end(&ended.to_vec().into(), 100).unwrap(), Some(9_000));
        assert_eq!(last_end(&ended.to_vec().into(), 10_000).unwrap(), Some(10_000), "the head is newer");
        assert_eq!(last_end(&json!([]), 100).unwrap(), Some(100), "there never was one");
        assert_eq!(of(job("DRIVER", "SUCCEEDED", &json!(9_500_000))).unwrap(), Some(9_500));
        assert_eq!(of(job("DRIVER", "RUNNING", &json!(0))).unwrap(), None, "a notebook");
        assert_eq!(of(job("SUBMISSION", "PENDING", &Value::Null)).unwrap(), None);
        assert_eq!(of(job("SUBMISSION", "PAUSED", &Value::Null)).unwrap(), None, "whatever that is");
        for unknown in [json!(0), Value::Null] {
            let error = of(job("SUBMISSION", "FAILED", &unknown)).unwrap_err();
            assert_eq!(error.message(), "a job of it is over, and nobody knows since when");
        }
        assert!(last_end(&json!({"jobs": []}), 100).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in any_json(), began in any::<i64>()) {
            let _ = last_end(&answer, began);
        }
    }
}

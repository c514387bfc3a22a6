//! An elastic launch starts on its floor, so that it can start at all; once it trains, it asks for all that it may have.
//!
//! The head does this to its own cluster, by raising `replicas`. What cannot be had stays Pending until there is
//! capacity, and holds nothing.

use eagleray_base::{Error, Kind, Result};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::resource::RAY_CLUSTER;

/// Somebody else's change in between means another look.
const TRIES: u32 = 5;

/// Raises every group of a cluster to its `maxReplicas`; how many workers that asks for more.
///
/// # Errors
/// `NotFound` where there is no such cluster; `Conflict` where others go on changing it; as [`Cluster::merge`].
pub fn grow(cluster: &Cluster, namespace: &str, name: &str) -> Result<u64> {
    let mut tries = 0;
    loop {
        tries += 1;
        let ray = cluster
            .get(RAY_CLUSTER, Some(namespace), name)?
            .ok_or_else(|| Error::not_found(format!("there is no RayCluster `{name}` in `{namespace}`")))?;
        let Some((more, change)) = raised(&ray) else { return Ok(0) };
        match cluster.merge(RAY_CLUSTER, Some(namespace), name, &change) {
            Ok(_) => return Ok(more),
            Err(error) if error.kind() == Kind::Conflict && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}

/// The change that raises all groups, and by how many workers; none where they are at their most.
fn raised(ray: &Value) -> Option<(u64, Value)> {
    let mut groups = ray["spec"]["workerGroupSpecs"].as_array()?.clone();
    let mut more = 0;
    for group in &mut groups {
        let (now, most) =
            (group["replicas"].as_u64().unwrap_or(0), group["maxReplicas"].as_u64().unwrap_or(0));
        if now < most {
            group["replicas"] = json!(most);
            more += most - now;
        }
    }
    // A list is changed whole: the version says that it is still the one that was read.
    let version = &ray["metadata"]["resourceVersion"];
    (more > 0).then(|| {
        (more, json!({"metadata": {"resourceVersion": version}, "spec": {"workerGroupSpecs": groups}}))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(groups: &Value) -> Value {
        json!({"metadata": {"resourceVersion": "7"}, "spec": {"workerGroupSpecs": groups}})
    }

    #[test]
    fn every_group_below_its_most_is_raised_and_nothing_else_changed() {
        let ray = cluster(&json!([
            {"groupName": "steady", "replicas": 2, "minReplicas": 2, "maxReplicas": 2, "template": {"a": 1}},
            {"groupName": "spot", "replicas": 0, "minReplicas": 0, "maxReplicas": 4, "template": {"b": 2}},
        ]));
        let (more, change) = raised(&ray).unwrap();
        assert_eq!(more, 4);
        assert_eq!(change["metadata"]["resourceVersion"], "7");
        assert_eq!(
            change["spec"]["workerGroupSpecs"],
            json!([
                {"groupName": "steady", "replicas": 2, "minReplicas": 2, "maxReplicas": 2, "template": {"a": 1}},
                {"groupName": "spot", "replicas": 4, "minReplicas": 0, "maxReplicas": 4, "template": {"b": 2}},
            ])
        );
    }

    #[test]
    fn a_cluster_at_its_most_is_left_alone() {
        assert_eq!(raised(&cluster(&json!([{"replicas": 2, "maxReplicas": 2}]))), None);
        assert_eq!(
            raised(&cluster(&json!([{"replicas": 3, "maxReplicas": 2}]))),
            None,
            "somebody raised it by hand"
        );
        assert_eq!(raised(&json!({})), None);
    }
}

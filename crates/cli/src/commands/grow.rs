//! `eagleray grow`: what the driver of an elastic run on EKS calls once it trains.

use eagleray_base::{Error, Result};
use eagleray_launch::grow::grow;
use serde_json::json;

use super::live::ClusterArgs;
use crate::output::Output;

/// Raise the worker groups of a Ray cluster to the most that they may have.
#[derive(clap::Args)]
pub(crate) struct Grow {
    /// The `RayCluster`; the one that this runs in
    #[arg(long, env = "RAY_CLUSTER_NAME", value_name = "NAME")]
    name: Option<String>,
    /// Its namespace; that of the context
    #[arg(long, env = "RAY_CLUSTER_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Grow {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let name = self.name.ok_or_else(|| {
            Error::invalid("which cluster? `--name` names it; in a pod of KubeRay `RAY_CLUSTER_NAME` does")
        })?;
        let cluster = self.cluster.connect()?;
        let namespace = self.namespace.unwrap_or_else(|| cluster.namespace().to_owned());
        let more = grow(&cluster, &namespace, &name)?;
        if output.is_json() {
            output.json(&json!({"cluster": name, "namespace": namespace, "more": more}));
        } else if more == 0 {
            output.print(&format!("{namespace}/{name} asks for all that it may have already"));
        } else {
            output.print(&format!("{namespace}/{name} asks for {more} workers more"));
        }
        Ok(())
    }
}

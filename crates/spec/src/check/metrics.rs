//! Checks of `metrics`.

// A form of text; what opens sockets is in `std` alone.
use core::net::IpAddr;

use super::Checks;
use crate::types::metrics::{Metrics, Mlflow};

pub(super) fn check(checks: &mut Checks<'_>, metrics: &Metrics) {
    if let Some(mlflow) = &metrics.mlflow {
        named(checks, &["metrics", "mlflow", "experiment"], mlflow.experiment.as_deref());
        check_tracking(checks, mlflow);
    }
    if let Some(wandb) = &metrics.wandb {
        named(checks, &["metrics", "wandb", "project"], wandb.project.as_deref());
        named(checks, &["metrics", "wandb", "entity"], wandb.entity.as_deref());
    }
    if let Some(prometheus) = &metrics.prometheus {
        let host = &prometheus.host;
        let message = format!("`{host}` is not an address");
        let hint = "write `127.0.0.1`, or `0.0.0.0` for all addresses of the node";
        checks.require(host.parse::<IpAddr>().is_ok(), &["metrics", "prometheus", "host"], message, hint);
    }
}

fn named(checks: &mut Checks<'_>, path: &[&str], name: Option<&str>) {
    let empty = name.is_some_and(|name| name.trim().is_empty());
    checks.require(!empty, path, "expected a name, found nothing", "leave the key out for the default");
}

fn check_tracking(checks: &mut Checks<'_>, mlflow: &Mlflow) {
    let path = ["metrics", "mlflow", "tracking_uri"];
    named(checks, &path, mlflow.tracking_uri.as_deref());
    let rest = mlflow.tracking_uri.as_deref().and_then(|uri| uri.split_once("://")).map(|(_, rest)| rest);
    let authority = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    // The text may hold a secret: it is not repeated.
    checks.require(
        !authority.contains('@'),
        &path,
        "a tracking URI in a spec holds no credentials",
        "MLflow reads them from the environment: `MLFLOW_TRACKING_USERNAME` and so on, or the whole of `MLFLOW_TRACKING_URI`",
    );
}
